"""Measures a part of the project against what people use, side by side: `bench.py loader`, `bench.py train`."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

from fashion_dist import cli
from fashion_dist.errors import unknown

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import bench


def _refuse(args: cli.CommonArgs) -> cli.Result:
    del args
    name = next((token for token in sys.argv[1:] if not token.startswith("-")), "")
    raise unknown("bench", name, bench.names())


if __name__ == "__main__":
    if len(sys.argv) > 1 and sys.argv[1] in bench.names():
        module = importlib.import_module(f"bench.{sys.argv[1]}")
        cli.run(module.Args, module.main, sys.argv[2:])
    cli.run(cli.CommonArgs, _refuse, [token for token in sys.argv[1:] if token.startswith("-")])
