"""The ranks of a job and what they say to each other: with its store the only importer of torch.distributed.

Rank 0 opens a store on a port that the system picks and writes its address into the run folder, with a new secret that
only the job's owner can read; the others read both there. No port is guessed, so two jobs on one node never meet, and a
requeued job never meets its own past. Other users' processes can reach the port: the secret seals what is in the store,
and before the first collective each two ranks prove to each other that they know it. Nothing that was received is
unpickled.

There are two process groups: the default one (nccl on GPUs, gloo on CPUs) for gradients and metric sums, and a gloo
group for control, so that agreeing to stop never waits for a GPU.
"""

from __future__ import annotations

import contextlib
import hmac
import io
import json
import math
import secrets
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.distributed as dist
from torch.distributed import TCPStore  # type: ignore[attr-defined]
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import bf16_compress_hook

from fashion_dist.errors import ConfigError, RunError
from fashion_dist.io import await_file, read_own, write_private
from fashion_dist.train.sealed_store import SealedStore, listen
from fashion_dist.train.state_tensors import map_tensors

if TYPE_CHECKING:
    from torch import Tensor, nn

ABORT_S = 10.0
"""Longest wait for NCCL to give up its collectives when a rank has failed."""


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
class ProcessGroup:
    """An initialised job: collectives that every rank calls in the same order. One rank alone needs no network."""

    world: World
    device: torch.device
    _control: dist.ProcessGroup | None = None
    _asked: tuple[dist.Work, Tensor] | None = None

    def sync_batchnorm(self, model: nn.Module) -> nn.Module:
        """`model` with batch normalisation over all ranks, or itself when there is one.

        Raises:
            ConfigError: the ranks are on CPUs, for which torch has none.
        """
        if self.world.world_size == 1:
            return model
        if self.device.type != "cuda":
            raise ConfigError("train.sync_batchnorm = True needs GPUs, and these ranks are on CPUs; allowed: false")
        synced: nn.Module = torch.nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
        return synced

    def wrap_ddp(self, model: nn.Module, gradients: str = "fp32") -> nn.Module:
        """`model` under DistributedDataParallel, or itself when there is one rank.

        Buffers follow rank 0 at every forward, so that the state which rank 0 saves is everybody's state. `gradients`
        is the type that they are exchanged in, `fp32` or `bf16`.
        """
        if self.world.world_size == 1:
            return model
        ids = [self.device.index] if self.device.type == "cuda" else None
        parallel = torch.nn.parallel.DistributedDataParallel(model, device_ids=ids, gradient_as_bucket_view=True)
        if gradients == "bf16":
            parallel.register_comm_hook(None, bf16_compress_hook)
        return parallel

    def all_reduce_sum(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Each tensor added over the ranks, in float64, in one message; names and shapes agree on all ranks."""
        return self.begin_all_reduce_sum(values)()

    def begin_all_reduce_sum(self, values: Mapping[str, Tensor]) -> Callable[[], dict[str, Tensor]]:
        """`all_reduce_sum` under way, beside what is computed meanwhile; what is returned waits for it."""
        names = sorted(values)
        flat = torch.cat([values[name].detach().double().reshape(-1) for name in names])
        work = dist.all_reduce(flat, async_op=True) if self.world.world_size > 1 else None

        def finish() -> dict[str, Tensor]:
            if work is not None:
                work.wait()
            parts = torch.split(flat, [values[name].numel() for name in names])
            return {name: part.reshape(values[name].shape) for name, part in zip(names, parts, strict=True)}

        return finish

    def all_reduce_sum_ragged(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """`all_reduce_sum` where a rank may have nothing to add and pass no tensors at all."""
        if self._control is None:
            return self.all_reduce_sum(values)
        shapes = self.gather({name: list(value.shape) for name, value in values.items()})
        known = {name: shape for theirs in shapes for name, shape in theirs.items()}
        zeros = {name: torch.zeros(shape, device=self.device) for name, shape in known.items() if name not in values}
        return self.all_reduce_sum({**values, **zeros})

    def gradients(self, parallel: nn.Module, exchange: bool) -> contextlib.AbstractContextManager[Any]:
        """The context of one backward pass: gradients are added over the ranks, or only locally for a later one."""
        if exchange or not isinstance(parallel, torch.nn.parallel.DistributedDataParallel):
            return contextlib.nullcontext()
        return parallel.no_sync()

    def gather(self, mine: Any) -> list[Any]:
        """What each rank passed, by rank, on every rank; values that JSON holds."""
        return [json.loads(bytes(part)) for part in self._gather_bytes(json.dumps(mine).encode())]

    def gather_arrays(self, mine: Mapping[str, np.ndarray]) -> list[dict[str, np.ndarray]]:
        """The arrays that each rank passed, by rank, on every rank; for a few megabytes, and no arrays of objects."""
        return [unpack_arrays(part) for part in self._gather_bytes(pack_arrays(mine))]

    def _gather_bytes(self, mine: bytes) -> list[memoryview]:
        if self._control is None:
            return [memoryview(mine)]
        sizes = [torch.empty(1, dtype=torch.int64) for _ in range(self.world.world_size)]
        dist.all_gather(sizes, torch.tensor([len(mine)]), group=self._control)
        longest = int(max(sizes))
        padded = torch.empty(longest, dtype=torch.uint8)
        padded.numpy()[: len(mine)] = np.frombuffer(mine, np.uint8)
        parts = [torch.empty(longest, dtype=torch.uint8) for _ in sizes]
        dist.all_gather(parts, padded, group=self._control)
        return [part.numpy().data[: int(size)] for part, size in zip(parts, sizes, strict=True)]

    def broadcast(self, tensors: list[Tensor]) -> None:
        """Every rank's `tensors` become rank 0's, in place."""
        if self.world.world_size > 1:
            for tensor in tensors:
                dist.broadcast(tensor, src=0)

    def broadcast_state(self, state: dict[str, Any] | None) -> dict[str, Any]:
        """Rank 0's state dict on every rank, its tensors on this rank's device; the others pass None.

        Plain values and shapes travel as torch saves them and are loaded as such, so that they can run no code.
        """
        if self._control is None:
            assert state is not None
            return state
        head = io.BytesIO()
        if state is not None:
            torch.save(map_tensors(state, lambda tensor: tensor.to("meta")), head)
        size = torch.tensor([head.tell()])
        dist.broadcast(size, src=0, group=self._control)
        data = torch.frombuffer(bytearray(head.getvalue() or int(size)), dtype=torch.uint8)
        dist.broadcast(data, src=0, group=self._control)

        def exchange(tensor: Tensor) -> Tensor:
            here = torch.empty_like(tensor, device=self.device) if tensor.is_meta else tensor
            flat = here.contiguous()
            dist.broadcast(flat, src=0)
            return here if flat is here else here.copy_(flat)

        if state is None:
            state = torch.load(io.BytesIO(data.numpy().data), weights_only=True)
        received: dict[str, Any] = map_tensors(state, exchange)
        return received

    def any_rank_delayed(self, flag: bool) -> bool:
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

    def barrier(self) -> None:
        """Wait until every rank is here."""
        if self._control is not None:
            dist.barrier(group=self._control)


def pack_arrays(arrays: Mapping[str, np.ndarray]) -> bytes:
    """Named arrays as JSON (names, dtypes, shapes) after its length in 8 bytes, then their bytes one after another."""
    facts = [[name, array.dtype.str, array.shape] for name, array in arrays.items()]
    assert not any(array.dtype.hasobject for array in arrays.values()), f"arrays of objects do not travel: {facts}"
    head = json.dumps(facts).encode()
    return b"".join([len(head).to_bytes(8, "little"), head, *(array.tobytes() for array in arrays.values())])


def unpack_arrays(data: bytes | memoryview) -> dict[str, np.ndarray]:
    """What `pack_arrays` packed; the arrays look into `data`."""
    start, arrays = 8 + int.from_bytes(data[:8], "little"), {}
    for name, dtype, shape in json.loads(bytes(data[8:start])):
        kind, count = np.dtype(dtype), math.prod(shape)
        arrays[name] = np.frombuffer(data[start : start + count * kind.itemsize], kind).reshape(shape)
        start += count * kind.itemsize
    return arrays


@contextlib.contextmanager
def init_process_group(
    world: World, rendezvous: Path, address: str = "127.0.0.1", timeout_s: float = 120.0
) -> Iterator[ProcessGroup]:
    """Join the job's process groups, and leave them at the end.

    Args:
        world: which process this is.
        rendezvous: a file on the shared filesystem that this attempt of this job alone uses; rank 0 writes it, and
            removes it when all are there.
        address: address of this node under which the other nodes reach rank 0; used on rank 0 only, and not at all
            where there is one node: its store listens on loopback.
        timeout_s: longest wait for a peer, here and in every collective after.

    Raises:
        RunError: rank 0 or another rank did not come within `timeout_s`, or somebody took part who does not know the
            job's secret.
    """
    device = world.device()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if world.world_size == 1:
        yield ProcessGroup(world, device)
        return
    timeout = timedelta(seconds=timeout_s)
    store, secret = _open_store(world, rendezvous, "127.0.0.1" if world.nodes == 1 else address, timeout)
    try:
        own_card = device.type == "cuda" and (world.nodes > 1 or _cards_differ(store, world, device))
        backend = "nccl" if own_card else "gloo"
        dist.init_process_group(
            backend, store=store, rank=world.rank, world_size=world.world_size, timeout=timeout,
            device_id=device if own_card else None,
        )  # fmt: skip
        control = dist.new_group(backend="gloo", timeout=timeout)
        assert isinstance(control, dist.ProcessGroup), "every rank is a member of the control group"
        for name, group in {"control": control, **({} if backend == "nccl" else {"default": dist.group.WORLD})}.items():
            _prove(world, secret, name, group)
    except (dist.DistError, RuntimeError, RunError) as error:
        if store.forged or isinstance(error, RunError):
            raise RunError(
                f"rank {world.rank}: somebody who does not know this run's secret took part in its start, and the run "
                f"ends before anything of theirs was used: {error}; see docs/security.md"
            ) from error
        raise RunError(
            f"rank {world.rank} could not join {world.world_size} ranks in {timeout_s:.0f} s: {error}"
        ) from error
    if world.is_main:
        rendezvous.unlink(missing_ok=True)
    try:
        yield ProcessGroup(world, device, control)
    except BaseException:
        _leave_failed(backend)
        raise
    dist.destroy_process_group()


def _cards_differ(store: SealedStore, world: World, device: torch.device) -> bool:
    """Whether no two ranks of this one node share a GPU; NCCL refuses those that do, gloo takes them."""
    store.set(f"card/{world.rank}", str(torch.cuda.get_device_properties(device).uuid))
    return len({bytes(store.get(f"card/{rank}")) for rank in range(world.world_size)}) == world.world_size


def _leave_failed(backend: str) -> None:
    """Leave the groups of a job that has failed, without waiting for peers that are gone.

    Destroying NCCL's group waits for the collectives under way, for good where a peer is gone (pytorch PR 141510,
    torchtitan PR 1342), and so the cause of it all would never be reported.
    """
    if backend != "nccl":
        dist.destroy_process_group()
        return
    aside = threading.Thread(target=dist.distributed_c10d._abort_process_group, daemon=True)
    aside.start()
    aside.join(ABORT_S)


def _open_store(world: World, rendezvous: Path, address: str, timeout: timedelta) -> tuple[SealedStore, bytes]:
    if world.is_main:
        store, secret = listen(address, world.world_size, timeout), secrets.token_bytes(32)
        rendezvous.parent.mkdir(parents=True, exist_ok=True)
        write_private(rendezvous, json.dumps({"address": address, "port": store.port, "secret": secret.hex()}))
        return SealedStore(store, secret), secret
    if not await_file(rendezvous, timeout.total_seconds()):
        raise RunError(f"rank {world.rank}: rank 0 did not start within {timeout.total_seconds():.0f} s ({rendezvous})")
    where = json.loads(read_own(rendezvous))
    store = TCPStore(where["address"], where["port"], world.world_size, is_master=False, timeout=timeout)
    secret = bytes.fromhex(where["secret"])
    return SealedStore(store, secret), secret


def _prove(world: World, secret: bytes, name: str, group: dist.ProcessGroup | None) -> None:
    """Over the connection of each two ranks: a random question both ways, which only the secret answers.

    gloo takes whoever connects first for the peer it waits for, so a store that cannot be forged is not enough.

    Raises:
        RunError: an answer is wrong.
    """
    asked = torch.frombuffer(bytearray(secrets.token_bytes(32 * world.world_size)), dtype=torch.uint8)
    heard, answered = torch.empty_like(asked), torch.empty_like(asked)

    def answer(question: Tensor, teller: int) -> bytes:
        words = f"{name} group, rank {teller}: ".encode() + question.numpy().tobytes()
        return hmac.digest(secret, words, "sha256")

    dist.all_to_all_single(heard, asked, group=group)
    mine = b"".join(answer(question, world.rank) for question in torch.split(heard, 32))
    dist.all_to_all_single(answered, torch.frombuffer(bytearray(mine), dtype=torch.uint8), group=group)
    for rank, (question, told) in enumerate(zip(torch.split(asked, 32), torch.split(answered, 32), strict=True)):
        if not hmac.compare_digest(told.numpy().tobytes(), answer(question, rank)):
            raise RunError(f"rank {rank} of the {name} group is not who it says")
