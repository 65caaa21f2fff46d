# shellcheck shell=bash
# What up.sh writes before it starts the daemons: folders, configuration files, names and networks of the nodes.
# Sourced by up.sh, whose settings it reads.

# A second Slurm of this kind takes the next block of ports, and has a name and nodes of its own: c2n1, c2n2, ...
set_ports() {
  CTLD_PORT=$((16817 + 100 * $1))
  DBD_PORT=$((16819 + 100 * $1))
  NODE_PORT=$((17000 + 100 * $1)) # node i listens on NODE_PORT + i
  CLUSTER="fashiondist" NODE_PREFIX="n"
  if (($1)); then CLUSTER="fashiondist$(($1 + 1))" NODE_PREFIX="c$(($1 + 1))n"; fi
}

node_name() { printf '%s%d' "$NODE_PREFIX" "$1"; }
# Loopback has all of 127/8, so every node can have its own address; 127.0.1.1 is often the host's own name.
node_address() { if ((NETNS)); then printf '10.77.0.%d' $((10 + $1)); else printf '127.0.1.%d' $((10 + $1)); fi; }
controller_address() { if ((NETNS)); then printf '10.77.0.1'; else printf '127.0.0.1'; fi; }

make_folders() {
  if [[ -d "$STATE" && ! -e "$MARKER" && -n "$(ls -A "$STATE")" ]]; then
    die 2 "$STATE is not empty and not ours; choose another folder with FASHION_DIST_SLURM_DIR"
  fi
  umask 022
  mkdir -p "$STATE"/{log,run,munge,mariadb/data,ctld,spool,tmp}
  touch "$MARKER"
  # munged refuses a folder that another user or group can write, and runs as its own user, as mariadbd does.
  chmod 755 "$STATE"
  chown munge: "$STATE/munge"
  chmod 755 "$STATE/munge"
  chown mysql: "$STATE/mariadb" "$STATE/mariadb/data"
  chown slurm: "$STATE/ctld" "$STATE/run" "$STATE/log"
  chmod 755 "$STATE/mariadb"
  chmod 700 "$STATE/ctld" "$STATE/mariadb/data"
  chmod 1777 "$STATE/tmp"
  runuser -u munge -- test -x "$STATE/munge" ||
    die 2 "the user munge cannot enter $STATE: a folder above it is closed; choose another with FASHION_DIST_SLURM_DIR"
  if [[ ! -e "$STATE/munge/munge.key" ]]; then
    (umask 077 && head -c 1024 /dev/urandom >"$STATE/munge/munge.key")
    chown munge: "$STATE/munge/munge.key"
  fi
}

# What a site's slurm.conf says in place of ours: its keys, and partitions by their names.
key_of='match($0, /^(PartitionName|NodeName)=[^ ]+|^[A-Za-z]+=/) { key = substr($0, RSTART, RLENGTH) }'
merge_site() {
  local extra="$SITE/slurm.conf"
  [[ -n "$SITE" && -e "$extra" ]] || { cat && return; }
  awk "{ key = \"\" } $key_of"'
    NR == FNR { if (key != "") theirs[key] = 1; line[++n] = $0; next }
    key == "" || !(key in theirs)
    /^# The nodes/ { for (i = 1; i <= n; i++) print line[i] }' "$extra" -
}

write_slurm_conf() {
  local host controller memory_mb i
  host="$(hostname -s)"
  controller="$(controller_address)"
  # A tenth is left to the daemons and to whoever else works here.
  memory_mb="$(awk -v n="$NODES" '/^MemTotal:/ { print int($2 * 0.9 / 1024 / n) }' /proc/meminfo)"
  {
    cat <<TEXT
# Written by slurm/local/up.sh at each start; changes here are lost.
ClusterName=$CLUSTER
SlurmctldHost=$host($controller)
SlurmctldPort=$CTLD_PORT
SlurmUser=slurm
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
# cred_expire is also how long a requeued job waits before it may start again; 120 s by default.
AuthInfo=socket=$STATE/munge/munge.socket,cred_expire=10
StateSaveLocation=$STATE/ctld
SlurmctldPidFile=$STATE/run/slurmctld.pid
SlurmctldLogFile=$STATE/log/slurmctld.log
SlurmdSpoolDir=$STATE/spool/%n
SlurmdPidFile=$STATE/run/slurmd.%n.pid
SlurmdLogFile=$STATE/log/slurmd.%n.log
TmpFS=$STATE/tmp
MailProg=/bin/true

# One host plays several nodes, without systemd: no cgroups, and the CPUs below are believed, not counted.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
DefMemPerCPU=$((memory_mb / CPUS_PER_NODE))
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=5

AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=$controller
AccountingStoragePort=$DBD_PORT
AccountingStoragePass=$STATE/munge/munge.socket

# Short times, so that a fault test sees in seconds what a big cluster does in minutes.
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=2,bf_interval=2,batch_sched_delay=0
SlurmctldTimeout=30
SlurmdTimeout=15
KillWait=15
ReturnToService=2
MaxArraySize=1001
JobRequeue=1

PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal

# The nodes and partitions.
TEXT
    for ((i = 1; i <= NODES; i++)); do
      printf 'NodeName=%s NodeHostname=%s NodeAddr=%s Port=%d CPUs=%d RealMemory=%d State=UNKNOWN\n' \
        "$(node_name "$i")" "$( ((NETNS)) && node_name "$i" || printf '%s' "$host")" "$(node_address "$i")" \
        $((NODE_PORT + i)) "$CPUS_PER_NODE" "$memory_mb"
    done
    printf 'PartitionName=normal Nodes=ALL Default=YES MaxTime=INFINITE PriorityTier=1 GraceTime=%d\n' "$GRACE_S"
    printf 'PartitionName=urgent Nodes=ALL MaxTime=INFINITE PriorityTier=10 PreemptMode=OFF\n'
  } | merge_site >"$CONF"
  printf '%s\n' "$SITE" >"$STATE/site"
  # Files of earlier sites are told from ours by their names: a site brings gres.conf, job_submit.lua and their like.
  rm -f "$STATE"/gres.conf "$STATE"/*.lua
  local file
  for file in ${SITE:+"$SITE"/*}; do
    [[ "${file##*/}" == slurm.conf ]] || cp "$file" "$STATE/"
  done
  # cgroup/v1 without a plugin that uses it touches nothing; the default looks for a mounted /sys/fs/cgroup and, on
  # a cgroup v2 machine, asks systemd for a scope.
  printf 'CgroupPlugin=cgroup/v1\n' >"$STATE/cgroup.conf"
}

write_dbd_conf() {
  (
    umask 077
    cat >"$STATE/slurmdbd.conf" <<TEXT
# Written by slurm/local/up.sh at each start; changes here are lost.
DbdHost=$(hostname -s)
DbdAddr=$(controller_address)
DbdPort=$DBD_PORT
SlurmUser=slurm
AuthType=auth/munge
AuthInfo=socket=$STATE/munge/munge.socket
PidFile=$STATE/run/slurmdbd.pid
LogFile=$STATE/log/slurmdbd.log
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=slurm
StorageLoc=slurm_acct_db
TEXT
  )
  chown slurm: "$STATE/slurmdbd.conf"
  cat >"$STATE/mariadb.cnf" <<TEXT
# Written by slurm/local/up.sh at each start; changes here are lost.
[mariadbd]
user=mysql
datadir=$STATE/mariadb/data
socket=$STATE/mariadb/mariadb.sock
pid-file=$STATE/mariadb/mariadbd.pid
log-error=$STATE/mariadb/mariadbd.log
skip-networking
performance-schema=OFF
innodb-buffer-pool-size=64M
innodb-log-file-size=16M
innodb-flush-log-at-trx-commit=2
TEXT
}

write_hosts() {
  local i
  for ((i = 1; i <= NODES; i++)); do printf '%s %s\n' "$(node_address "$i")" "$(node_name "$i")"; done | set_hosts ||
    die 1 "cannot write /etc/hosts, where the nodes' names have to stand"
  for ((i = 1; i <= NODES; i++)); do
    [[ "$(getent -s files hosts "$(node_name "$i")" | awk 'NR == 1 { print $1 }')" == "$(node_address "$i")" ]] ||
      die 1 "$(node_name "$i") does not resolve to $(node_address "$i"): another line of /etc/hosts has that name"
  done
  # Slurm resolves with AI_ADDRCONFIG, to which loopback is no network.
  getent ahostsv4 "$(node_name 1)" >/dev/null ||
    die 1 "this machine has no network interface with an IPv4 address besides loopback; without one Slurm resolves no name"
}

# A bridge on the host and one veth pair per node: cutting link fdv<i> cuts node n<i> off.
make_networks() {
  local i space
  touch "$NETNS_MADE"
  ip link show "$BRIDGE" >/dev/null 2>&1 || ip link add "$BRIDGE" type bridge
  ip address replace "$(controller_address)/24" dev "$BRIDGE"
  ip link set "$BRIDGE" up
  for ((i = 1; i <= NODES; i++)); do
    space="fd-$(node_name "$i")"
    if [[ -e "/run/netns/$space" ]]; then
      ip link show "fdv$i" >/dev/null 2>&1 && continue
      ip netns delete "$space" # cut from this machine for good, by a start that failed half-way
    fi
    ip netns add "$space"
    ip link add "fdv$i" type veth peer name eth0 netns "$space"
    ip link set "fdv$i" master "$BRIDGE" up
    ip -n "$space" address add "$(node_address "$i")/24" dev eth0
    ip -n "$space" link set eth0 up
    ip -n "$space" link set lo up
    # No default route: an unreachable name server then fails at once, not after 10 s per name.
  done
}
