# shellcheck shell=bash disable=SC2034
# What up.sh and down.sh share: where the state lies, and which processes are ours. Sourced, never run.

# Debian puts the daemons in sbin, which a user's PATH often lacks.
PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"

LOCAL_DIR="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
STATE="$(realpath -m "${FASHION_DIST_SLURM_DIR:-/var/tmp/fashion-dist-slurm}")"
CONF="$STATE/slurm.conf"
MARKER="$STATE/.fashion-dist-slurm"
HOSTS_TAG="# fashion-dist-slurm $STATE" # two state folders must not take each other's lines
BRIDGE="fdbr0"
NETNS_MADE="$STATE/netns-made"

say() { printf 'slurm: %s\n' "$*"; }
# die STATUS MESSAGE: 1 the work failed, 2 the user's mistake or a missing part.
die() {
  local status="$1"
  shift
  printf 'slurm: error: %s\n' "$*" >&2
  exit "$status"
}

# Slurm's configuration knows no quoting, expands % and reads # as a comment; a Unix socket's path ends at 107 bytes.
check_state_path() {
  [[ "$STATE" =~ ^/[A-Za-z0-9._/+-]+$ ]] ||
    die 2 "FASHION_DIST_SLURM_DIR=$STATE: only letters, digits and . _ - + / can stand in Slurm's configuration"
  ((${#STATE} <= 80)) || die 2 "FASHION_DIST_SLURM_DIR=$STATE is longer than 80 characters: socket paths would be cut"
}

# our_pid PROGRAM PIDFILE: prints the pid if that process lives, is PROGRAM, and was started with our configuration.
# A pid file outlives its process, and the number may since belong to anybody.
our_pid() {
  local program="$1" file="$2" pid exe
  [[ -r "$file" ]] || return 1
  read -r pid <"$file" || return 1
  [[ "$pid" =~ ^[0-9]+$ ]] || return 1
  exe="$(readlink "/proc/$pid/exe")" || return 1
  [[ "${exe% (deleted)}" == "$(readlink -f "$(command -v "$program")")" ]] || return 1
  is_ours "$pid" || return 1
  printf '%s\n' "$pid"
}

# Every daemon is started with SLURM_CONF set to our file, and its steps and their tasks inherit it.
is_ours() {
  tr '\0' '\n' 2>/dev/null <"/proc/$1/environ" | grep -Fxq "SLURM_CONF=$CONF"
}

# Prints the tasks and step daemons that our nodes started (not shells that only have SLURM_CONF set).
our_tasks() {
  local folder pid
  for folder in /proc/[0-9]*; do
    pid="${folder#/proc/}"
    # The first match decides for nearly all processes; slurmstepd has no SLURMD_NODENAME, its tasks do.
    is_ours "$pid" || continue
    if tr '\0' '\n' 2>/dev/null <"/proc/$pid/environ" | grep -q '^SLURMD_NODENAME=' ||
      [[ "$(readlink "/proc/$pid/exe" 2>/dev/null)" == */slurmstepd ]]; then
      printf '%s\n' "$pid"
    fi
  done
}

# Sets NODE_NAMES to the nodes of the cluster as it was last started.
read_nodes() {
  NODE_NAMES=()
  [[ -r "$CONF" ]] && mapfile -t NODE_NAMES < <(sed -n 's/^NodeName=\([a-z0-9]*\) .*/\1/p' "$CONF")
  return 0
}

ours_running() {
  local name
  read_nodes
  our_pid slurmctld "$STATE/run/slurmctld.pid" && return 0
  for name in "${NODE_NAMES[@]}"; do our_pid slurmd "$STATE/run/slurmd.$name.pid" && return 0; done
  our_pid slurmdbd "$STATE/run/slurmdbd.pid" && return 0
  our_pid mariadbd "$STATE/mariadb/mariadbd.pid" && return 0
  our_pid munged "$STATE/munge/munged.pid"
}

# Takes the lock that lets one up.sh or down.sh work at a time; held until the script ends.
# It lies beside the folder so that down.sh --purge can remove the folder while holding it.
take_lock() {
  exec 9>"$STATE.lock"
  flock -w 120 9 || die 1 "another up.sh or down.sh has held $STATE.lock for two minutes"
}

# Puts the lines on standard input into /etc/hosts, in place of those put there before.
# Written in place: in containers the file is a mount and cannot be replaced by a rename.
set_hosts() {
  local kept
  kept="$(grep -v " $HOSTS_TAG\$" /etc/hosts || true)"
  { printf '%s\n' "$kept" && sed "s|\$|  $HOSTS_TAG|"; } >/etc/hosts
}
