"""Measures a part of the project against what people use, side by side: `bench.py loader`, `bench.py train`."""

from __future__ import annotations

import importlib
import sys
from dataclasses import dataclass
from pathlib import Path

from fashion_dist import cli
from fashion_dist.errors import unknown

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import bench


@dataclass(frozen=True, kw_only=True)
class Args(cli.CommonArgs):  # noqa: D101 - its text has the names
    __doc__ = f"Measure a part of the project beside what people use: bench NAME, of {', '.join(bench.names())}."


def _refuse(args: Args) -> cli.Result:
    del args
    name = next((token for token in sys.argv[1:] if not token.startswith("-")), "")
    raise unknown("bench", name, bench.names())


if __name__ == "__main__":
    if len(sys.argv) > 1 and sys.argv[1] in bench.names():
        module = importlib.import_module(f"bench.{sys.argv[1]}")
        cli.run(module.Args, module.main, sys.argv[2:])
    cli.run(Args, _refuse, [token for token in sys.argv[1:] if token.startswith("-")])
