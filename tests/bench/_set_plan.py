"""What a set of any size costs before and beside the training, from measured curves. Pure arithmetic.

Every curve was found straight (`make growth`), so what a cost is per image, byte, shard or rank says the rest.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Curves:
    """Costs on one core of an AMD EPYC with AVX512 (docs/benchmarks.md has the commands).

    Args:
        pack_us: packing an image without its check, `bench.py pack`.
        decode_ns: a byte of JPEG in the check by decoding, `bench.py pack`.
        shard_us: opening a set, a shard: manifest, index and a look at the tar.
        shard_calls: calls that name or read a file in a look at a tar, all ranks together.
        order_us: an epoch's order, a sample.
        weighted_us: a weighted one.
        sample_bytes: memory of a rank, a sample.
        start_calls: calls by which one rank's start reads its environment, `bench.py start`.
    """

    pack_us: float = 127.0
    decode_ns: float = 21.9
    shard_us: float = 100.0
    shard_calls: float = 3.0
    order_us: float = 0.26
    weighted_us: float = 0.6
    sample_bytes: float = 110.0
    start_calls: float = 32_000.0


@dataclass(frozen=True)
class SetPlan:
    """What a set costs.

    Args:
        shards: of 64 MB.
        pack_core_s: processor time of packing with every image decoded.
        pack_s: the same on the cores of a node, or the time the filesystem takes to be read and written.
        open_s: a rank's processor time of opening the set.
        open_calls: calls of all ranks together for that.
        order_s, weighted_s: processor time of an epoch's order, beside the training.
        rank_bytes: memory of a rank for index and order; ranks of a node share the index.
        import_calls: calls of all ranks that start from an environment on the shared filesystem.
        import_s: how long one server of metadata takes for these.
    """

    shards: int
    pack_core_s: float
    pack_s: float
    open_s: float
    open_calls: float
    order_s: float
    weighted_s: float
    rank_bytes: float
    import_calls: float
    import_s: float


def set_plan(
    images: float, size: float, ranks: int, cores: int, filesystem_gbytes: float, calls_per_s: float,
    curves: Curves | None = None,
) -> SetPlan:  # fmt: skip
    """The costs of `images` in `size` bytes for so many ranks, packed by so many cores.

    Args:
        images: of the set.
        size: bytes of all images.
        ranks: that start together.
        cores: of the node that packs.
        filesystem_gbytes: GB/s of the shared filesystem.
        calls_per_s: that its server of metadata answers.
        curves: what was measured; left out, what stands in docs/benchmarks.md.
    """
    curves = curves or Curves()
    shards = max(1, round(size / 64e6))
    packing = images * curves.pack_us * 1e-6 + size * curves.decode_ns * 1e-9
    calls = ranks * curves.start_calls
    return SetPlan(
        shards, packing, max(packing / cores, 2 * size / (filesystem_gbytes * 1e9)), shards * curves.shard_us * 1e-6,
        shards * curves.shard_calls, images * curves.order_us * 1e-6, images * curves.weighted_us * 1e-6,
        images * curves.sample_bytes, calls, calls / calls_per_s,
    )  # fmt: skip


def lines(plan: SetPlan, images: float, size: float, ranks: int) -> list[str]:
    """The plan for a person."""

    def took(seconds: float) -> str:
        return f"{seconds:,.1f} s" if seconds < 600 else f"{seconds / 3600:,.1f} h"

    rows = [
        ("shards of 64 MB", f"{plan.shards:,}"),
        ("packing, every image decoded", f"{took(plan.pack_s)}; {took(plan.pack_core_s)} of one core"),
        ("opening", f"{took(plan.open_s)} of a rank, {plan.open_calls:,.0f} calls of all ranks together"),
        ("an epoch's order", f"{took(plan.order_s)} of a core beside the training; weighted {took(plan.weighted_s)}"),
        ("memory of a rank for it", f"{plan.rank_bytes / 1e9:,.2f} GB, of which a node's ranks share the index"),
        (
            "imports from the filesystem",
            f"{plan.import_calls:,.0f} calls, {took(plan.import_s)} of its metadata server",
        ),
    ]
    head = f"{images:,.0f} images of {size / 1e12:,.2f} TB, {ranks} ranks"
    return ["", head, *(f"  {name:<30}{value}" for name, value in rows)]
