#!/usr/bin/env bash
# The tests on Slurm with the one that another Debian packages: bash tests/slurm_new.sh [SUITE] [PYTEST ARGUMENTS]
# As root, in a chroot made by debootstrap (0.9 GB, kept for the next time; 7 GB more for Python's packages). Its mounts,
# processes and network are in namespaces of their own, and so end with it.
#
#   CHROOT   where it lies (default /var/tmp/fashion-dist-SUITE)
#   BINDS    further folders and files to be seen there at the same place, such as a package index or pip's settings
#   VENV     a virtual environment to use, below one of BINDS with its interpreter; without it one is installed there
set -euo pipefail
cd "$(dirname "$0")/.."

suite=${1:-trixie}
shift || true
root=${CHROOT:-/var/tmp/fashion-dist-$suite}
packages=(
  slurmctld slurmd slurmdbd slurm-client munge mariadb-server python3 python3-venv git make iproute2 procps bindfs fuse3
  liblua5.4-0 ca-certificates
)

if [ "${INSIDE:-}" = "" ]; then
  [ "$(id -u)" = 0 ] || { echo "error: a chroot takes root" >&2; exit 2; }
  command -v debootstrap >/dev/null || { echo "error: debootstrap is not installed: apt-get install debootstrap" >&2; exit 2; }
  exec env INSIDE=mounts unshare --mount --propagation private --pid --fork --mount-proc bash "$0" "$suite" "$@"
fi

if [ ! -e "$root/.made" ]; then
  rm -rf --one-file-system "$root"
  debootstrap --variant=minbase "$suite" "$root"
  printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d" # no service starts when its package is configured
  chmod 755 "$root/usr/sbin/policy-rc.d"
  touch "$root/.made"
fi
mount --bind "$root" "$root" # or nothing in there could make a mount namespace of its own
mount -t proc proc "$root/proc"
mount --rbind /sys "$root/sys"
mount --rbind /dev "$root/dev"
cp /etc/resolv.conf "$root/etc/resolv.conf"
for path in ${BINDS:-}; do
  if [ -d "$path" ]; then mkdir -p "$root$path"; else mkdir -p "$root${path%/*}" && touch "$root$path"; fi
  mount --rbind "$path" "$root$path"
done
inside() { chroot "$root" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 DEBIAN_FRONTEND=noninteractive "$@"; }
inside apt-get -qq update
inside apt-get -qq install -y --no-install-recommends "${packages[@]}" >/dev/null

# The files as they are here, tracked or not, without what git ignores.
code="$root/srv/fashion-dist"
mkdir -p "$code"
git ls-files -z --cached --others --exclude-standard | xargs -0 tar -c --ignore-failed-read 2>/dev/null | tar -x -C "$code"
if [ -n "${VENV:-}" ]; then
  ln -sfn "$VENV" "$code/.venv"
elif [ ! -e "$code/.venv/installed" ]; then
  inside sh -c 'cd /srv/fashion-dist && sh tests/install.sh python3'
fi

# A network of its own: the ports of this machine's Slurm are free in it, and Slurm wants more than loopback.
unshare --net bash -c '
  set -e
  ip link set lo up
  ip link add fd0 type veth peer name fd1
  ip address add 10.78.0.1/24 dev fd0
  ip link set fd0 up
  ip link set fd1 up
  exec "$@"' bash chroot "$root" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 \
  FASHION_DIST_REQUIRE_SLURM=1 PYTHONPATH=/srv/fashion-dist CPUS_PER_NODE=2 bash -c '
    set -e
    cd /srv/fashion-dist
    grep -q "$(hostname)" /etc/hosts || echo "127.0.0.1 localhost $(hostname)" >>/etc/hosts
    slurm/local/up.sh
    eval "$(slurm/local/up.sh --env)"
    sinfo --version
    status=0
    .venv/bin/python -m pytest -m "slurm and not slow" tests/slurm "$@" || status=$?
    slurm/local/down.sh
    exit "$status"' bash "$@"
