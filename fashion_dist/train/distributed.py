"""The ranks of a job and what they say to each other: the only importer of torch.distributed.

Rank 0 opens a store on a port that the system picks and writes its address into the run folder; the others read it
there. No port is guessed, so two jobs on one node never meet, and a requeued job never meets its own past.

There are two process groups: the default one (nccl on GPUs, gloo on CPUs) for gradients and metric sums, and a gloo
group for control, so that agreeing to stop never waits for a GPU.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch.distributed import Store, TCPStore  # type: ignore[attr-defined]

from fashion_dist.errors import RunError
from fashion_dist.io import write_text

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class World:
    """Which of the job's processes this is.

    Args:
        rank: 0 to world_size - 1, over all nodes.
        world_size: processes of the job.
        local_rank: 0 to local_world_size - 1, on this node; also the index of its GPU.
        local_world_size: processes of the job on this node.
        node: index of this node.
        nodes: nodes of the job.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_world_size: int = 1
    node: int = 0
    nodes: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this rank writes the run's files; there is one in the job, not one per node."""
        return self.rank == 0

    def device(self) -> torch.device:
        """This rank's GPU, or the CPU without one."""
        if not torch.cuda.is_available():
            return torch.device("cpu")
        # A scheduler that binds GPUs to tasks shows each task a single device 0.
        return torch.device("cuda", self.local_rank % torch.cuda.device_count())


@dataclass
class Link:
    """An initialised job: collectives that every rank calls in the same order. One rank alone needs no network."""

    world: World
    device: torch.device
    _control: dist.ProcessGroup | None = None
    _asked: tuple[dist.Work, Tensor] | None = None

    def wrap(self, model: nn.Module) -> nn.Module:
        """`model` under DistributedDataParallel, or itself when there is one rank.

        Buffers follow rank 0 at every forward, so that the state which rank 0 saves is everybody's state.
        """
        if self.world.world_size == 1:
            return model
        ids = [self.device.index] if self.device.type == "cuda" else None
        return torch.nn.parallel.DistributedDataParallel(model, device_ids=ids, gradient_as_bucket_view=True)

    def sum(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Each tensor added over the ranks, in float64, in one message; names and shapes agree on all ranks."""
        names = sorted(values)
        flat = torch.cat([values[name].detach().double().reshape(-1) for name in names])
        if self.world.world_size > 1:
            dist.all_reduce(flat)
        parts = torch.split(flat, [values[name].numel() for name in names])
        return {name: part.reshape(values[name].shape) for name, part in zip(names, parts, strict=True)}

    def sum_unequal(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """`sum` where a rank may have nothing to add and pass no tensors at all."""
        if self._control is None:
            return self.sum(values)
        shapes: list[dict[str, torch.Size] | None] = [None] * self.world.world_size
        mine = {name: value.shape for name, value in values.items()}
        dist.all_gather_object(shapes, mine, group=self._control)
        known = {name: shape for theirs in shapes for name, shape in (theirs or {}).items()}
        zeros = {name: torch.zeros(shape, device=self.device) for name, shape in known.items() if name not in values}
        return self.sum({**values, **zeros})

    def gradients(self, parallel: nn.Module, exchange: bool) -> contextlib.AbstractContextManager[Any]:
        """The context of one backward pass: gradients are added over the ranks, or only locally for a later one."""
        if exchange or not isinstance(parallel, torch.nn.parallel.DistributedDataParallel):
            return contextlib.nullcontext()
        return parallel.no_sync()

    def gather(self, mine: Any) -> list[Any]:
        """What each rank passed, by rank, on every rank; for a few megabytes of arrays and plain values."""
        if self._control is None:
            return [mine]
        theirs: list[Any] = [None] * self.world.world_size
        dist.all_gather_object(theirs, mine, group=self._control)
        return theirs

    def broadcast(self, tensors: list[Tensor]) -> None:
        """Every rank's `tensors` become rank 0's, in place."""
        if self.world.world_size > 1:
            for tensor in tensors:
                dist.broadcast(tensor, src=0)

    def any_so_far(self, flag: bool) -> bool:
        """Whether any rank passed True at this call's predecessor: the same answer on every rank.

        The answer is one call late because the question travels while the next step computes; the cost of a call is
        a few microseconds instead of a round trip.
        """
        if self._control is None:
            return flag
        answer = False
        if self._asked is not None:
            work, tensor = self._asked
            work.wait()
            answer = bool(tensor.item())
        tensor = torch.tensor([int(flag)])
        work = dist.all_reduce(tensor, op=dist.ReduceOp.MAX, group=self._control, async_op=True)
        self._asked = (work, tensor)
        return answer

    def all_agree(self, text: str) -> bool:
        """Whether every rank passed the same text."""
        if self._control is None:
            return True
        texts: list[str | None] = [None] * self.world.world_size
        dist.all_gather_object(texts, text, group=self._control)
        return len(set(texts)) == 1

    def barrier(self) -> None:
        """Wait until every rank is here."""
        if self._control is not None:
            dist.barrier(group=self._control)


@contextlib.contextmanager
def connect(world: World, rendezvous: Path, address: str = "127.0.0.1", timeout_s: float = 120.0) -> Iterator[Link]:
    """Join the job's process groups, and leave them at the end.

    Args:
        world: which process this is.
        rendezvous: a file on the shared filesystem that this attempt of this job alone uses; rank 0 writes it.
        address: name or address under which the other nodes reach rank 0; used on rank 0 only.
        timeout_s: longest wait for a peer, here and in every collective after.

    Raises:
        RunError: rank 0 or another rank did not come within `timeout_s`.
    """
    device = world.device()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if world.world_size == 1:
        yield Link(world, device)
        return
    timeout = timedelta(seconds=timeout_s)
    store = _open_store(world, rendezvous, address, timeout)
    backend = "nccl" if device.type == "cuda" else "gloo"
    try:
        dist.init_process_group(
            backend, store=store, rank=world.rank, world_size=world.world_size, timeout=timeout,
            device_id=device if device.type == "cuda" else None,
        )  # fmt: skip
        control = dist.new_group(backend="gloo", timeout=timeout)
        assert isinstance(control, dist.ProcessGroup), "every rank is a member of the control group"
    except (dist.DistError, RuntimeError) as error:
        raise RunError(
            f"rank {world.rank} could not join {world.world_size} ranks in {timeout_s:.0f} s: {error}"
        ) from error
    try:
        yield Link(world, device, control)
    finally:
        dist.destroy_process_group()


def _open_store(world: World, rendezvous: Path, address: str, timeout: timedelta) -> Store:
    if world.is_main:
        store = TCPStore(address, 0, world.world_size, is_master=True, timeout=timeout, wait_for_workers=False)
        rendezvous.parent.mkdir(parents=True, exist_ok=True)
        write_text(rendezvous, json.dumps({"address": address, "port": store.port}))
        return store
    deadline = time.monotonic() + timeout.total_seconds()
    while not rendezvous.is_file():
        if time.monotonic() > deadline:
            raise RunError(
                f"rank {world.rank}: rank 0 did not start within {timeout.total_seconds():.0f} s ({rendezvous})"
            )
        time.sleep(0.05)
    where = json.loads(rendezvous.read_text())
    return TCPStore(where["address"], where["port"], world.world_size, is_master=False, timeout=timeout)
