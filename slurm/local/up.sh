#!/usr/bin/env bash
# Starts a real Slurm with accounting on this machine: munged, MariaDB, slurmdbd, slurmctld and 2 to 4 slurmd.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
# shellcheck source-path=SCRIPTDIR source=config.sh
source "$LOCAL_DIR/config.sh"

usage() {
  cat <<TEXT
usage: slurm/local/up.sh [--env | --help]

Starts a real Slurm on this machine, or says that one is up. A second call changes nothing; after a daemon has died or a
node was drained it repairs that. Needs root; on Debian it installs what is missing.

  --env    print the line that lets a shell find the cluster:  eval "\$(slurm/local/up.sh --env)"

Settings, from the environment:
  FASHION_DIST_SLURM_DIR  folder of all its state           (now $STATE)
  NODES                   nodes, 1 to 4                     (default 2)
  CPUS_PER_NODE           CPUs Slurm believes a node has    (default: cores / nodes, at least 1; may exceed the cores)
  GRACE_S                 seconds a pre-empted job is given (default 30)
  NETNS=1                 each node in its own network namespace with its own host name and address
  SITE                    folder of another site's rules: slurm.conf with the lines that differ, gres.conf, job_submit.lua
TEXT
}

NODES_ASKED="${NODES:-}" CPUS_ASKED="${CPUS_PER_NODE:-}" NETNS_ASKED="${NETNS:-}" GRACE_ASKED="${GRACE_S:-}"
SITE_ASKED="${SITE:-}"
NODES="${NODES:-2}"
GRACE_S="${GRACE_S:-30}"
NETNS="${NETNS:-0}"
SITE="${SITE:+$(realpath -m "$SITE")}"

check_settings() {
  check_state_path
  [[ "$NODES" =~ ^[1-4]$ ]] || die 2 "NODES=$NODES: choose 1 to 4"
  [[ "$GRACE_S" =~ ^[0-9]+$ ]] || die 2 "GRACE_S=$GRACE_S: choose a whole number of seconds"
  [[ "$NETNS" =~ ^[01]$ ]] || die 2 "NETNS=$NETNS: choose 0 or 1"
  [[ -z "$SITE" || -d "$SITE" ]] || die 2 "SITE=$SITE is no folder"
  CPUS_PER_NODE="${CPUS_PER_NODE:-$(($(nproc) / NODES > 0 ? $(nproc) / NODES : 1))}"
  [[ "$CPUS_PER_NODE" =~ ^[1-9][0-9]*$ ]] || die 2 "CPUS_PER_NODE=$CPUS_PER_NODE: choose a whole number from 1"
}

# --- what runs already -------------------------------------------------------------------------------------------

# How many nodes take jobs, now or after those they have. Marked with * is a node that does not answer.
usable_nodes() {
  SLURM_CONF="$CONF" timeout 10 sinfo -h -N -o '%N %t' 2>/dev/null |
    awk '$2 !~ /\*$|^(down|drain|drng|fail|unk|inval|boot)/ { n[$1] } END { print length(n) }'
}

all_up() {
  read_nodes
  ((${#NODE_NAMES[@]})) && [[ "$(usable_nodes)" == "${#NODE_NAMES[@]}" ]] || return 1
  # slurmctld counts a node as usable for some seconds after its slurmd has died, so the processes are asked too.
  local name
  for name in "${NODE_NAMES[@]}"; do our_pid slurmd "$STATE/run/slurmd.$name.pid" >/dev/null || return 1; done
  ! has_accounting || our_pid slurmdbd "$STATE/run/slurmdbd.pid" >/dev/null
}

has_accounting() { grep -q '^AccountingStorageType=accounting_storage/slurmdbd' "$CONF"; }

# The same for users who may not look into root's processes.
conf_answers() { [[ -r "$CONF" ]] && SLURM_CONF="$CONF" timeout 15 sinfo -h >/dev/null 2>&1; }

# Somebody else's cluster: the configuration this shell or machine has, unless that is ours.
foreign_answers() {
  command -v sinfo >/dev/null || return 1
  [[ "${SLURM_CONF:-}" != "$CONF" ]] || return 1
  timeout 15 sinfo -h >/dev/null 2>&1
}

print_env() {
  check_state_path
  if conf_answers; then
    printf 'export SLURM_CONF=%s\n' "$CONF"
  elif foreign_answers; then
    printf '# the Slurm of this machine answers as it is\n'
  else
    die 1 "no Slurm answers here; start one with $LOCAL_DIR/up.sh"
  fi
}

say_ready() {
  say "up: $1"
  say "type next:  export SLURM_CONF=$CONF; sinfo"
}

# Another Slurm of this kind, of a second root or of a container on the host's network, may have ports already.
choose_ports() {
  local block port i taken
  for block in {0..9}; do
    set_ports "$block"
    taken=""
    for port in "$CTLD_PORT" "$DBD_PORT" $(for ((i = 1; i <= NODES; i++)); do printf '%d ' $((NODE_PORT + i)); done); do
      if (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then taken="$port" && break; fi
    done
    if [[ -z "$taken" ]]; then
      if ((NETNS)) && [[ ! -e "$NETNS_MADE" && -e "/sys/class/net/$BRIDGE" ]]; then
        die 2 "the network $BRIDGE is another Slurm's of this kind; stop that one, or start this one without NETNS"
      fi
      return
    fi
    say "port $taken is taken, probably by another Slurm of this kind; trying others"
  done
  die 2 "the ports of ten blocks are taken, the last found was $taken; stop what has them first"
}

# --- packages ----------------------------------------------------------------------------------------------------

declare -A PACKAGE_OF=(
  [slurmctld]=slurmctld [slurmd]=slurmd [slurmdbd]=slurmdbd [sinfo]=slurm-client [munged]=munge
  [mariadbd]=mariadb-server [mariadb-install-db]=mariadb-server
)

missing_packages() {
  local program
  ((NETNS)) && PACKAGE_OF[ip]=iproute2
  for program in "${!PACKAGE_OF[@]}"; do
    command -v "$program" >/dev/null || printf '%s\n' "${PACKAGE_OF[$program]}"
  done | sort -u
}

# Debian starts a service when its package is configured. invoke-rc.d asks policy-rc.d first; 101 means "do not".
forbid_service_starts() {
  POLICY=/usr/sbin/policy-rc.d
  POLICY_SAVED=""
  if [[ -e "$POLICY" ]]; then
    local answer=0
    "$POLICY" slurmctld start >/dev/null 2>&1 || answer=$?
    ((answer != 101)) || return 0
    POLICY_SAVED="$(mktemp "$POLICY.XXXXXX")"
    cp -p "$POLICY" "$POLICY_SAVED"
  fi
  trap restore_policy EXIT
  printf '#!/bin/sh\nexit 101\n' >"$POLICY"
  chmod 755 "$POLICY"
}

restore_policy() {
  if [[ -n "$POLICY_SAVED" ]]; then mv -f "$POLICY_SAVED" "$POLICY"; else rm -f "$POLICY"; fi
  trap - EXIT
}

install_packages() {
  local packages=() log
  mapfile -t packages < <(missing_packages)
  ((${#packages[@]})) || return 0
  if ! command -v apt-get >/dev/null || ! command -v dpkg >/dev/null; then
    die 2 "not installed: ${packages[*]} (Debian's package names); this is not Debian, so install them and run this again"
  fi
  log="$(mktemp -t fashion-dist-apt.XXXXXX)"
  say "installing ${packages[*]} (a minute or two; log $log)"
  export DEBIAN_FRONTEND=noninteractive
  local apt=(apt-get -q -o DPkg::Lock::Timeout=300)
  # Lists can be absent (container images ship none) or older than the mirror: update always, it takes seconds.
  "${apt[@]}" update >"$log" 2>&1 || say "apt-get update failed, trying with the lists that are here"
  forbid_service_starts
  if ! "${apt[@]}" install -y --no-install-recommends "${packages[@]}" >>"$log" 2>&1; then
    tail -n 25 "$log" >&2
    die 1 "apt-get could not install ${packages[*]}; its whole log is $log"
  fi
  [[ -z "$(trap -p EXIT)" ]] || restore_policy
  rm -f "$log"
  hash -r
}

# --- daemons -----------------------------------------------------------------------------------------------------

# A daemon gets no variable of the caller's shell (keys, a virtual environment) and does not hold the lock or its
# output open, or "make" would wait for it.
clean() {
  env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/ LANG=C.UTF-8 \
    SLURM_CONF="$CONF" MYSQL_UNIX_PORT="$STATE/mariadb/mariadb.sock" "$@" </dev/null 9>&-
}

# wait_for SECONDS LOG WHAT COMMAND...: waits until COMMAND succeeds, or shows the end of LOG and gives up.
wait_for() {
  local deadline=$((SECONDS + $1)) log="$2" what="$3"
  shift 3
  local answer
  until answer="$("$@" 2>&1)"; do
    if ((SECONDS >= deadline)); then
      [[ -r "$log" ]] && { printf -- '--- end of %s\n' "$log"; tail -n 20 "$log"; printf -- '---\n'; } >&2
      [[ -n "$answer" ]] && printf '%s\n' "$answer" | tail -n 5 >&2
      die 1 "$what did not come up; its log is $log"
    fi
    sleep 0.2
  done
}

munge_answers() { munge -n -S "$STATE/munge/munge.socket"; }
start_munged() {
  local pid_file="$STATE/munge/munged.pid" log="$STATE/munge/munged.log"
  our_pid munged "$pid_file" >/dev/null && return
  say "starting munged"
  rm -f "$STATE/munge/munge.socket"* "$pid_file"
  clean runuser -u munge -- munged --key-file="$STATE/munge/munge.key" --socket="$STATE/munge/munge.socket" \
    --pid-file="$pid_file" --log-file="$log" --seed-file="$STATE/munge/munged.seed" --num-threads=2 \
    >>"$STATE/log/munged.out" 2>&1 || { tail -n 5 "$STATE/log/munged.out" >&2; die 1 "munged refused to start"; }
  wait_for 10 "$log" munged munge_answers
}

mariadb_answers() { mariadb-admin --no-defaults --socket="$STATE/mariadb/mariadb.sock" ping; }
start_mariadbd() {
  our_pid mariadbd "$STATE/mariadb/mariadbd.pid" >/dev/null && return
  say "starting mariadbd"
  rm -f "$STATE/mariadb/mariadbd.pid" "$STATE/mariadb/mariadb.sock"
  if [[ ! -e "$STATE/mariadb/.made" ]]; then
    find "$STATE/mariadb/data" -mindepth 1 -delete # what an interrupted first start may have left
    clean mariadb-install-db --defaults-file="$STATE/mariadb.cnf" --user=mysql --datadir="$STATE/mariadb/data" --skip-test-db \
      --auth-root-authentication-method=socket >"$STATE/mariadb/mariadb-install.log" 2>&1 ||
      { tail -n 20 "$STATE/mariadb/mariadb-install.log" >&2; die 1 "MariaDB's data folder could not be made"; }
    touch "$STATE/mariadb/.made"
  fi
  clean setsid --fork mariadbd --defaults-file="$STATE/mariadb.cnf" >>"$STATE/mariadb/mariadbd.out" 2>&1
  wait_for 30 "$STATE/mariadb/mariadbd.log" mariadbd mariadb_answers
  # The socket says who the user is, so that no password lies in a file.
  mariadb --no-defaults --socket="$STATE/mariadb/mariadb.sock" -e "
    CREATE DATABASE IF NOT EXISTS slurm_acct_db;
    CREATE USER IF NOT EXISTS slurm@localhost IDENTIFIED VIA unix_socket;
    GRANT ALL ON slurm_acct_db.* TO slurm@localhost;"
}

dbd_answers() { SLURM_CONF="$CONF" timeout 5 sacctmgr -n show cluster; }
start_slurmdbd() {
  our_pid slurmdbd "$STATE/run/slurmdbd.pid" >/dev/null && return
  say "starting slurmdbd"
  clean slurmdbd >>"$STATE/log/slurmdbd.out" 2>&1 || true # the wait below shows why
  wait_for 40 "$STATE/log/slurmdbd.log" slurmdbd dbd_answers
}

ctld_answers() { SLURM_CONF="$CONF" timeout 5 scontrol ping | grep -q 'UP'; }
start_slurmctld() {
  our_pid slurmctld "$STATE/run/slurmctld.pid" >/dev/null && return
  say "starting slurmctld"
  clean slurmctld -f "$CONF" >>"$STATE/log/slurmctld.out" 2>&1 || true
  wait_for 30 "$STATE/log/slurmctld.log" slurmctld ctld_answers
}

start_slurmd() {
  local name="$1" enter=()
  our_pid slurmd "$STATE/run/slurmd.$name.pid" >/dev/null && return
  say "starting slurmd $name"
  mkdir -p "$STATE/spool/$name"
  # Not "ip netns exec": it mounts another /sys, in which slurmd finds no cgroups and dies.
  ((NETNS)) && enter=(nsenter "--net=/run/netns/fd-$name" unshare --uts -- bash -c "hostname $name; exec \"\$@\"" bash)
  clean "${enter[@]}" slurmd -f "$CONF" -N "$name" >>"$STATE/log/slurmd.$name.out" 2>&1 || true
}

# A repair keeps the configuration that the living daemons have read, and refuses to change it.
keep_settings() {
  local asked now
  read_nodes
  NODES="${#NODE_NAMES[@]}"
  set_ports $((($(sed -n 's/^SlurmctldPort=//p' "$CONF") - 16817) / 100))
  CPUS_PER_NODE="$(sed -n 's/^NodeName=[a-z0-9]*n1 .* CPUs=\([0-9]*\) .*/\1/p' "$CONF")"
  GRACE_S="$(sed -n 's/^PartitionName=normal .* GraceTime=//p' "$CONF")"
  NETNS="$(if [[ -e "$NETNS_MADE" ]]; then printf 1; else printf 0; fi)"
  now="NODES=$NODES CPUS_PER_NODE=$CPUS_PER_NODE GRACE_S=$GRACE_S NETNS=$NETNS"
  asked="NODES=${NODES_ASKED:-$NODES} CPUS_PER_NODE=${CPUS_ASKED:-$CPUS_PER_NODE}"
  asked+=" GRACE_S=${GRACE_ASKED:-$GRACE_S} NETNS=${NETNS_ASKED:-$NETNS}"
  SITE="$(cat "$STATE/site" 2>/dev/null || true)"
  if [[ -n "$SITE_ASKED" ]]; then
    now+=" SITE=$SITE"
    asked+=" SITE=$(realpath -m "$SITE_ASKED")"
  fi
  [[ "$asked" == "$now" ]] || die 2 "up with $now; for $asked run $LOCAL_DIR/down.sh first"
}

# Slurm drains a node whose job could not be killed in time, as happens on a busy machine, and leaves it so.
resume_drained() {
  local name reason
  while read -r name reason; do
    say "resuming $name, drained for: $reason"
    SLURM_CONF="$CONF" scontrol update "NodeName=$name" State=RESUME
  done < <(SLURM_CONF="$CONF" timeout 10 sinfo -h -N -t drain -o '%N %E' | sort -u)
}

main() {
  case "${1:-}" in
    --env) print_env && return ;;
    --help | -h) usage && return ;;
    "") ;;
    *) usage >&2 && exit 2 ;;
  esac
  check_settings
  if ((EUID != 0)); then
    if conf_answers; then say_ready "already, in $STATE" && return; fi
    if foreign_answers; then say "a Slurm that is not ours answers here; leaving it alone" && return; fi
    die 2 "starting Slurm takes root (daemons run under their own users, and node names stand in /etc/hosts)"
  fi
  take_lock
  if ours_running >/dev/null; then
    keep_settings
    all_up && say_ready "already, ${NODE_NAMES[*]}" && return
    say "not all of it works; repairing"
  elif foreign_answers; then
    say "a Slurm that is not ours answers here (sinfo); leaving it alone"
    return
  else
    choose_ports
    install_packages
    make_folders
    write_slurm_conf
    write_dbd_conf
  fi
  ((NETNS)) && make_networks
  write_hosts
  start_munged
  if has_accounting; then
    start_mariadbd
    start_slurmdbd
  fi
  start_slurmctld
  local i
  for ((i = 1; i <= NODES; i++)); do start_slurmd "$(node_name "$i")"; done
  resume_drained
  wait_for 30 "$STATE/log/slurmd.$(node_name 1).log" "a node" all_up
  say_ready "$NODES nodes, $CPUS_PER_NODE CPUs each, in $SECONDS s; logs in $STATE/log"
}

main "$@"
