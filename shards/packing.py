"""Packing: plan, write the shards (here or elsewhere), finish. Killed at any moment, it continues when run again."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from shards import pack_plan as planning
from shards import readers, staging, worker_pool, writer
from shards.errors import DamageError, InputError, SpaceError
from shards.images import OpenDecoder, open_pillow
from shards.locks import single_packer
from shards.manifest import CARD, INDEX, MANIFEST, REJECTED, Manifest
from shards.pack_plan import OnProgress, PackOptions, Plan, ShardPlan
from shards.safe_io import SHARED_FOLDER

_WORTH_PROCESSES_BYTES = 400_000_000
"""Less than this is copied, or decoded by threads, in less time than processes take to start."""
_THREADS_A_PROCESS = 4
_KEPT = frozenset({"jpg", "jpeg", "png", "webp"})
"""Endings of files whose bytes are mostly stored as they are."""
RunShards = Callable[[Plan, Sequence[ShardPlan], OnProgress], None]


def _silent(_stage: str, _done: int, _total: int) -> None:
    pass


def pack(
    dataset: str,
    source: Path,
    out: Path,
    options: PackOptions | None = None,
    read_options: readers.ReadOptions | None = None,
    *,
    workers: int = 1,
    run_shards: RunShards | None = None,
    open_decoder: OpenDecoder = open_pillow,
    replace: bool = False,
    on_progress: OnProgress = _silent,
    on_found: Callable[[str], object] = lambda _found: None,
) -> Manifest:
    """Packs `source`, laid out as `dataset`, into the shard set `out`.

    The same source and options give the same bytes, whatever the workers. When `out` was left half packed, finished
    shards are kept. When it is already packed from the same source, nothing is done.

    Args:
        dataset: name of a reader.
        source: what the reader reads.
        out: the set's folder; made when it is missing.
        options: how to pack.
        read_options: what to take from the source.
        workers: processors of this machine to use.
        run_shards: writes the shards it is given in another way, such as an array job.
        open_decoder: a module's function that gives what `check="decode"` tries images with.
        replace: pack again over the packed set in `out`; tars that were only indexed are never removed.
        on_progress: called as (stage, done, total).
        on_found: called with what the source holds, in words, before anything is packed.

    Raises:
        InputError: the source, an option or the folder is not as it must be, or it holds tars or files with our names
            that no manifest of ours lists; nothing has a final name, and nothing that was there is touched.
        SpaceError: the disk is too small.
    """
    reader = readers.load(dataset)
    read_options = read_options or readers.ReadOptions()
    read_options.refuse_unused(reader.uses, dataset)
    readers.require_there(source)
    opened = reader.read(source, read_options)
    if opened.found:
        on_found(opened.found)
    noted = {"read": chosen} if (chosen := read_options.chosen()) else {}
    return pack_opened(
        dataset, opened, out, options, workers=workers, run_shards=run_shards, open_decoder=open_decoder,
        replace=replace, noted=noted, on_progress=on_progress,
    )  # fmt: skip


def pack_opened(
    dataset: str,
    opened: readers.Source,
    out: Path,
    options: PackOptions | None = None,
    *,
    workers: int = 1,
    run_shards: RunShards | None = None,
    open_decoder: OpenDecoder = open_pillow,
    replace: bool = False,
    while_same: bool = False,
    noted: Mapping[str, Any] | None = None,
    on_progress: OnProgress = _silent,
) -> Manifest:
    """`pack` of a source that is open; `dataset` is what the set is called.

    With `while_same` the set in `out` is kept while its files are the same in size and time, and packed anew after
    that. The manifest says `noted` of the source beside the options.
    """
    options = options or PackOptions()
    if workers < 1:
        raise InputError(f"workers {workers} is not possible; allowed: 1 or more")
    created = [folder for folder in (out, *out.parents) if not folder.exists()]
    out.mkdir(mode=SHARED_FOLDER, parents=True, exist_ok=True)
    folder = staging.begin(out)
    with (
        single_packer(folder / "lock", str(out)),
        staging.removed_if_refused(folder, created),
    ):
        if replace or not (out / MANIFEST).exists():  # before hours of planning
            staging.refuse_strangers(out, staging.ours(out), (INDEX, REJECTED, CARD), every_tar=True)
        plan = stage_plan(folder, dataset, opened, options, on_progress, noted or {})
        if while_same:
            plan = dataclasses.replace(plan, noted={"fingerprint": plan.fingerprint})
            plan.save()
        done = _already(out, plan, replace, while_same)
        if done is not None:
            staging.remove(folder)
            return done
        staging.refuse_strangers(out, staging.ours(out), _names(plan), every_tar=True)
        todo = [shard for shard in plan.shards if not writer.is_finished(plan, shard, out)]
        check_space(out, todo)
        if todo:
            if run_shards is None:
                write_here(plan, todo, workers, on_progress, open_decoder)
            else:
                run_shards(plan, todo, on_progress)
        manifest = writer.finish(plan, out, on_progress)
        writer.commit(manifest, out, folder)
        return manifest


def _names(plan: Plan) -> set[str]:
    """What the plan's set may write."""
    shards = {f"{shard.name}.{ending}" for shard in plan.shards for ending in ("tar", "idx")}
    return {INDEX, REJECTED, CARD} | shards | {f"{table}.parquet" for table in plan.tables}


def stage_plan(
    folder: Path,
    dataset: str,
    source: readers.Source,
    options: PackOptions,
    on_progress: OnProgress,
    noted: Mapping[str, Any],
    keep: Sequence[str] = (),
) -> Plan:
    """A plan of the source, staged; the one already there, with its finished shards, if it is the same.

    `keep` names further files of the staging folder that outlive another plan.
    """
    for stray in folder.glob("*.tmp"):
        stray.unlink(missing_ok=True)
    fresh = folder / "planning"
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir()
    plan = planning.make(fresh, dataset, source, options, on_progress)
    try:
        staged = Plan.load(folder)
    except (FileNotFoundError, InputError):
        staged = None
    if staged is None or staged.fingerprint != plan.fingerprint:
        staging.clear(folder, keep=("planning", *keep))
    for path in fresh.iterdir():  # also of the same plan, whose files may have been damaged
        path.replace(folder / path.name)
    shutil.rmtree(fresh)
    former = _former(folder.parent) or (staged.former if staged is not None else ())
    plan = dataclasses.replace(plan, folder=folder, noted=noted, former=former)
    plan.save()
    return plan


def _former(out: Path) -> tuple[str, ...]:
    """What runs may have noted of the set that is in `out`, if one is."""
    with contextlib.suppress(FileNotFoundError, InputError, DamageError):
        return Manifest.load(out).hashes
    return ()


def _already(out: Path, plan: Plan, replace: bool, while_same: bool) -> Manifest | None:
    """The set in `out` if it is the one that `plan` would make; with `while_same` None if it is another."""
    if replace:
        return None
    try:
        manifest = Manifest.load(out)
    except FileNotFoundError:
        return None
    if while_same:
        return manifest if manifest.options.get("fingerprint") == plan.fingerprint else None
    if manifest.source_hash == plan.source_hash:
        return manifest
    raise InputError(
        f"{out} is already packed, from another source or with other options; --replace packs it again, "
        "--out packs into another folder"
    )


def check_space(out: Path, todo: Iterable[ShardPlan]) -> None:
    """Raises SpaceError where the shards do not fit."""
    needed = sum(shard.size for shard in todo)
    free = shutil.disk_usage(out).free
    if needed > free:
        raise SpaceError(str(out), needed, free)


@dataclasses.dataclass(frozen=True)
class Part:
    """What one task of an array job writes."""

    staging: Path
    names: tuple[str, ...]
    workers: int = 1
    open_decoder: OpenDecoder = open_pillow


def parts(
    plan: Plan, todo: Sequence[ShardPlan], count: int, workers: int = 1, open_decoder: OpenDecoder = open_pillow
) -> list[Part]:
    """Up to `count` parts of about as many bytes each: consecutive shards, so that a task reads one stretch."""
    total, before = sum(shard.size for shard in todo), 0
    names: list[list[str]] = [[] for _ in range(count)]
    for shard in todo:
        names[min(count - 1, (before + shard.size // 2) * count // max(1, total))].append(shard.name)
        before += shard.size
    return [Part(plan.folder, tuple(some), workers, open_decoder) for some in names if some]


def write_part(part: Part) -> None:
    """Writes those shards of a part that are not finished; may run on any machine that sees the folders."""
    plan = Plan.load(part.staging)
    todo = [s for s in plan.shards if s.name in part.names and not writer.is_finished(plan, s, part.staging)]
    write_here(plan, todo, part.workers, _silent, part.open_decoder)


def write_here(
    plan: Plan,
    todo: Sequence[ShardPlan],
    workers: int,
    on_progress: OnProgress,
    open_decoder: OpenDecoder = open_pillow,
) -> None:
    """Writes shards by so many processors of this machine."""
    total = sum(shard.last - shard.first for shard in todo)
    encodes = plan.options.resize_px > 0 or bool(plan.options.background) or _mostly_converted(plan, todo[0])
    size = sum(shard.size for shard in todo)
    processes, threads = division(workers, size, plan.options.check == "decode", encodes)
    parts = [tuple(todo)] if processes == 1 else [(shard,) for shard in sorted(todo, key=lambda shard: -shard.size)]
    jobs = [(plan.folder, part, open_decoder, threads) for part in parts]
    _plan_of.cache_clear()  # this process may have packed another plan in the same folder
    worker_pool.each(_work, jobs, processes, lambda done: on_progress("pack", done, total))


def division(workers: int, size: int, decodes: bool, encodes: bool) -> tuple[int, int]:
    """(processes, threads of each) that write `size` bytes of pictures with `workers` processors.

    A process takes most of a second of processor time to start, in which two thousand small photos are decoded. A
    thread takes none, but Python reads and writes for no more than some four decoding threads at a time, and Pillow
    encodes for one.
    """
    if encodes:
        return workers, 1
    if size < _WORTH_PROCESSES_BYTES:
        return 1, workers if decodes else 1
    threads = min(workers, _THREADS_A_PROCESS) if decodes else 1
    return -(-workers // threads), threads


def _mostly_converted(plan: Plan, shard: ShardPlan) -> bool:
    """Whether Pillow encodes many of the files, as the names of one shard tell."""
    endings = [entry.path.rpartition(".")[2].lower() for entry in plan.entries(shard) if entry.path]
    return sum(ending not in _KEPT for ending in endings) * 10 > len(endings)


def _work(job: tuple[Path, tuple[ShardPlan, ...], OpenDecoder, int], count: Callable[[int], None]) -> None:
    folder, shards, open_decoder, threads = job
    writer.write_shards(_plan_of(folder), shards, count, open_decoder, threads)


@functools.lru_cache(maxsize=1)
def _plan_of(folder: Path) -> Plan:
    """The plan of a worker's jobs, read once: it names every shard, so reading it for each takes their square."""
    return Plan.load(folder)
