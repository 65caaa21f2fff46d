"""How a run decodes its images for GPUs: chosen at its first start, the same on all ranks, and kept for its life.

Ways of decoding differ in the last bits of pixels, so that a requeue on another node may not choose another one.
"""

from __future__ import annotations

import dataclasses
import socket
from typing import Any

import torch

from fashion_dist.data import decode_check
from fashion_dist.data.decode_record import Asked, DecodeRecord, require_possible
from fashion_dist.data.options import DECODES
from fashion_dist.errors import ConfigError, RunError
from fashion_dist.io import parse_dataclass, write_json
from fashion_dist.paths import RunDir
from fashion_dist.train.distributed import ProcessGroup


def test_node(run: RunDir, asked: Asked, cache: str, local_rank: int) -> dict[str, str]:
    """What was wrong with which way of decoding on this node's GPU, empty where nothing was; by its first rank alone.

    A process of its own opens the GPU and lets go of it.
    """
    if local_rank or asked == "cpu" or cache != "none" or not torch.cuda.is_available():
        return {}
    kept = DecodeRecord.read(run)
    wanted = kept.way if kept is not None else asked
    ways = DECODES[:-1] if wanted == "auto" else [way for way in DECODES[:-1] if way == wanted]
    _, found = decode_check.choose("cuda:0", run.home.decoders, ways)
    return {way: verdict.fault and f"{verdict.fault} ({socket.gethostname()})" for way, verdict in found.items()}


def settle(run: RunDir, asked: Asked, cache: str, dist: ProcessGroup, tested: dict[str, str]) -> DecodeRecord | None:
    """The way that all ranks decode by; rank 0 writes it down. None on CPUs.

    Args:
        run: the run's folder.
        asked: `--decode`.
        cache: `--cache`.
        dist: the ranks.
        tested: what `test_node` found.

    Raises:
        ConfigError: a way that was asked for has failed its self-test, or is not the run's.
        RunError: the run's way fails it on a node of this start.
    """
    kept = DecodeRecord.read(run) if dist.world.is_main else None
    told: list[dict[str, Any]] = dist.gather({"tested": tested, "kept": vars(kept) if kept is not None else {}})
    if dist.device.type != "cuda":
        return None
    before = parse_dataclass(DecodeRecord, told[0]["kept"], run.decode) if told[0]["kept"] else None
    require_possible(asked, cache, before, None)
    faults = {way: fault for part in told for way, fault in part["tested"].items() if fault}
    if before is not None:
        if before.way in faults:
            raise RunError(
                f"the run has decoded by {before.way} from its beginning, and here {faults[before.way]}; it can go on "
                f"where that is right, or begin anew with --fresh"
            )
        return dataclasses.replace(before, why="")  # which was told when the run began
    if cache != "none" or asked == "cpu":
        record = DecodeRecord("cpu")
    elif asked != "auto":
        if asked in faults:
            raise ConfigError(f"--decode {asked} is not possible: {faults[asked]}; allowed: auto, cpu")
        record = DecodeRecord(asked)
    else:
        way = next(way for way in DECODES if way not in faults)
        why = "; ".join(f"{other}: {fault}" for other, fault in faults.items() if way != other)
        record = DecodeRecord(way, why, decode_check.identity())
    if dist.world.is_main:
        write_json(run.decode, vars(record))
    return record
