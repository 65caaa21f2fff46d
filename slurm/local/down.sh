#!/usr/bin/env bash
# Stops the Slurm that up.sh started, and nothing else: every process is checked to be that program with our
# configuration before it gets a signal.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

usage() {
  cat <<TEXT
usage: slurm/local/down.sh [--purge | --help]

Cancels the local Slurm's jobs, stops its daemons and removes the nodes' names and networks. Job history and job
numbers stay in $STATE for the next up.sh.

  --purge  delete that folder too
TEXT
}

# Jobs are told first, so that they end as on any scancel: SIGTERM, KillWait, SIGKILL.
cancel_jobs() {
  local deadline=$((SECONDS + 20)) jobs
  our_pid slurmctld "$STATE/run/slurmctld.pid" >/dev/null || return 0
  jobs="$(SLURM_CONF="$CONF" timeout 10 squeue -h -o %i 2>/dev/null || true)"
  [[ -n "$jobs" ]] || return 0
  say "cancelling $(wc -l <<<"$jobs") jobs"
  xargs -r env SLURM_CONF="$CONF" timeout 10 scancel <<<"$jobs" 2>/dev/null || true
  while ((SECONDS < deadline)) && [[ -n "$(SLURM_CONF="$CONF" timeout 10 squeue -h 2>/dev/null || true)" ]]; do
    sleep 0.5
  done
}

# stop PROGRAM PIDFILE: SIGTERM, and SIGKILL after 20 s.
stop() {
  local program="$1" file="$2" pid deadline=$((SECONDS + 20))
  pid="$(our_pid "$program" "$file")" || return 0
  say "stopping $program ($pid)"
  kill "$pid" 2>/dev/null || true
  while our_pid "$program" "$file" >/dev/null; do
    if ((SECONDS >= deadline)); then
      say "$program ($pid) did not stop in 20 s, killing it"
      kill -KILL "$pid" 2>/dev/null || true
      sleep 0.5
      break
    fi
    sleep 0.2
  done
  rm -f "$file"
}

# What a killed slurmd left behind: step daemons and their tasks.
end_leftovers() {
  local pids=()
  mapfile -t pids < <(our_tasks)
  ((${#pids[@]})) || return 0
  say "killing ${#pids[@]} processes that jobs left behind"
  kill -KILL "${pids[@]}" 2>/dev/null || true
}

remove_networks() {
  local space
  [[ -e "$NETNS_MADE" ]] || return 0
  for space in "${NODE_NAMES[@]/#//run/netns/fd-}"; do
    [[ -e "$space" ]] && ip netns delete "${space##*/}"
  done
  if ip link show "$BRIDGE" >/dev/null 2>&1; then ip link delete "$BRIDGE"; fi
  rm -f "$NETNS_MADE"
}

main() {
  local purge=0 name
  case "${1:-}" in
    --purge) purge=1 ;;
    --help | -h) usage && return ;;
    "") ;;
    *) usage >&2 && exit 2 ;;
  esac
  check_state_path
  if [[ ! -e "$MARKER" ]]; then
    say "nothing to stop: up.sh has not been run with $STATE"
    return
  fi
  ((EUID == 0)) || die 2 "stopping Slurm takes root"
  take_lock
  read_nodes
  if ours_running >/dev/null; then
    cancel_jobs
    for name in "${NODE_NAMES[@]}"; do stop slurmd "$STATE/run/slurmd.$name.pid"; done
    end_leftovers
    stop slurmctld "$STATE/run/slurmctld.pid"
    stop slurmdbd "$STATE/run/slurmdbd.pid"
    stop mariadbd "$STATE/mariadb/mariadbd.pid"
    stop munged "$STATE/munge/munged.pid"
    say "down"
  else
    end_leftovers
    say "nothing of ours was running"
  fi
  if grep -q " $HOSTS_TAG\$" /etc/hosts; then set_hosts </dev/null; fi
  remove_networks
  if ((purge)); then
    rm -rf "$STATE" "$STATE.lock"
    say "deleted $STATE"
  fi
}

main "$@"
