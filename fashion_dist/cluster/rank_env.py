"""Where a rank is: read from the variables that Slurm or submitit's controller set, and from the network's routes."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass

from fashion_dist.cluster import slurm
from fashion_dist.cluster.slurm import JobRef
from fashion_dist.errors import ConfigError


@dataclass(frozen=True)
class RankInfo:
    """One rank's place in its job, in numbers that need no torch.

    Args:
        rank: 0 to world_size - 1, over all nodes.
        world_size: ranks of the job.
        local_rank: 0 to local_world_size - 1, on this node.
        local_world_size: ranks on this node.
        node: index of this node.
        nodes: nodes of the job.
        job: the job.
        restart: how often the scheduler has requeued it.
        node_list: Slurm's compressed list of the job's nodes; empty where there is one node.
    """

    rank: int
    world_size: int
    local_rank: int
    local_world_size: int
    node: int
    nodes: int
    job: JobRef
    restart: int = 0
    node_list: str = ""

    @property
    def is_main(self) -> bool:
        """Whether this rank writes the run's files."""
        return self.rank == 0


def read_rank_info(environment: Mapping[str, str]) -> RankInfo:
    """The place that a scheduler's variables describe; without any, one rank alone in this process.

    Ranks of a local job share this machine whatever number of nodes they stand for, and are counted that way.
    """
    if environment.get("SUBMITIT_EXECUTOR") == "local":
        rank, ranks = int(environment["SUBMITIT_LOCAL_GLOBALID"]), int(environment["SUBMITIT_LOCAL_NTASKS"])
        job = JobRef.of_process(int(environment["SUBMITIT_LOCAL_JOB_ID"]))
        return RankInfo(rank, ranks, rank, ranks, 0, 1, job)
    if "SLURM_STEP_NUM_TASKS" not in environment:  # also in a batch script that does not go through srun
        return RankInfo(0, 1, 0, 1, 0, 1, JobRef.of_process(os.getpid()))
    if "SLURM_ARRAY_JOB_ID" in environment:
        job_id = f"{environment['SLURM_ARRAY_JOB_ID']}_{environment['SLURM_ARRAY_TASK_ID']}"
    else:
        job_id = environment["SLURM_JOB_ID"]
    node = int(environment["SLURM_NODEID"])
    per_node = tasks_per_node(environment["SLURM_STEP_TASKS_PER_NODE"])
    return RankInfo(
        rank=int(environment["SLURM_PROCID"]),
        world_size=int(environment["SLURM_STEP_NUM_TASKS"]),
        local_rank=int(environment["SLURM_LOCALID"]),
        local_world_size=per_node[node],
        node=node,
        nodes=len(per_node),
        job=JobRef("slurm", job_id, name=environment.get("SLURM_CLUSTER_NAME", "")),
        restart=int(environment.get("SLURM_RESTART_COUNT", "0")),
        node_list=environment.get("SLURM_STEP_NODELIST", ""),
    )


def tasks_per_node(text: str) -> list[int]:
    """Slurm's `2(x3),1` as one number per node: `[2, 2, 2, 1]`."""
    counts: list[int] = []
    for part in text.split(","):
        found = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part)
        assert found is not None, f"SLURM_STEP_TASKS_PER_NODE={text!r}"
        counts += [int(found[1])] * int(found[2] or 1)
    return counts


def expand_hosts(text: str) -> list[str]:
    """Slurm's `n[01-03,7],m1` as `["n01", "n02", "n03", "n7", "m1"]`; in containers there is no scontrol to ask."""
    hosts: list[str] = []
    for part in re.findall(r"(?:[^,\[]|\[[^\]]*\])+", text):
        made = [""]
        for plain, ranges in re.findall(r"([^\[]*)(?:\[([^\]]*)\])?", part):
            ends = slurm.numbers(ranges) if ranges else [""]
            made = [before + plain + end for before in made for end in ends]
        hosts += made
    return hosts


def advertise_address(rank_info: RankInfo, interface: str = "") -> tuple[str, str]:
    """The IPv4 address under which the job's other nodes reach this one, and the interface that has it.

    One node uses loopback. Between nodes the routes say, or `interface`.

    Raises:
        ConfigError: there is no such interface here; those that there are, are named.
    """
    addresses = interface_addresses()
    if interface:
        if interface not in addresses:
            known = ", ".join(sorted(addresses))
            raise ConfigError(
                f"{socket.gethostname()} has no interface {interface!r} with an IPv4 address; it has {known}"
            )
        if rank_info.nodes > 1:
            return addresses[interface], interface
    if rank_info.nodes == 1:
        address = "127.0.0.1"
    else:
        hosts = expand_hosts(rank_info.node_list)
        # The way to any other node; on rank 0's node that is the second, elsewhere the first.
        address = _address_towards(hosts[1 if rank_info.node == 0 else 0])
    found = next((name for name, value in addresses.items() if value == address), "")
    # 127.0.1.11 and its like are loopback without standing on the interface.
    return address, found or next((name for name, value in addresses.items() if value.startswith("127.")), "")


def _address_towards(host: str) -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((host, 9))  # of a datagram socket: looks the route up and sends nothing
        return str(probe.getsockname()[0])


def interface_addresses() -> dict[str, str]:
    """This machine's interfaces that have an IPv4 address, by name."""
    import psutil  # here: `launch.py` comes by this file, and has no time for it

    every = {n: [a.address for a in found if a.family == socket.AF_INET] for n, found in psutil.net_if_addrs().items()}
    return {name: addresses[0] for name, addresses in every.items() if addresses}
