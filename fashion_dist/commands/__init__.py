"""The commands, a module each: `Args` is what may be typed, `main(args)` does it and says what to type next.

`fashion-dist NAME`, `python -m fashion_dist NAME` and `python jobs/NAME.py` are the same. Only the module of the
command that is asked for is imported, and it imports torch when its work starts.
"""

from __future__ import annotations

import importlib
import sys
from typing import NoReturn

from shards import program

COMMANDS = {
    "pack": "pictures and labels to shards; check a shard set, or index anybody's WebDataset tars",
    "launch": "check everything that can be checked, then submit one training job",
    "sweep": "many trials of a task as one job array, or a queue on this machine",
    "status": "what runs, how far, how long still; cancel it",
    "collect": "a run's or a sweep's submission files, verified",
    "predict": "new pictures, another set or a split, answered by name with a run's best weights",
    "report": "everything about runs on one page",
    "compare": "two runs on the same images",
    "clean": "remove old checkpoints, or whole runs and sweeps",
    "sync": "runs to Weights & Biases, from a machine with network",
    "demo": "all of it on drawn garments, in minutes",
}

_BENCH = program.CHECKOUT / "jobs" / "bench.py"


def known() -> dict[str, str]:
    """The commands there are, with what they do; benches lie with the tests, in a checkout."""
    bench = {"bench": "measure a part of the project beside what people use"}
    return {**COMMANDS, **(bench if (program.CHECKOUT / "tests" / "bench").is_dir() and _BENCH.is_file() else {})}


def run(name: str, argv: list[str] | None = None) -> NoReturn:
    """Run a command with the words of `argv`, else of `sys.argv`; exits as `fashion_dist.cli` promises."""
    from fashion_dist import cli

    if name == "bench":
        import runpy

        sys.argv = [str(_BENCH), *(sys.argv[1:] if argv is None else argv)]
        runpy.run_path(str(_BENCH), run_name="__main__")
    module = importlib.import_module(f"fashion_dist.commands.{name}")
    cli.run(module.Args, module.main, argv, prog=program.command(name).removeprefix("python jobs/"))


def main(argv: list[str] | None = None) -> NoReturn:
    """`fashion-dist [NAME ...]`: run the command, or show the table of them."""
    words = sys.argv[1:] if argv is None else argv
    name = words[0] if words else "--help"
    if name in known():
        run(name, words[1:])
    from fashion_dist import __version__, cli
    from fashion_dist.errors import unknown

    if name in ("--help", "-h"):
        cli.say(table())
    if name == "--version":
        cli.say(f"fashion-dist {__version__}")

    cli.refuse(unknown("command", name, known()), as_json="--json" in words)


def table() -> str:
    """The commands as lines."""
    from fashion_dist import cli

    start = program.command("NAME")
    return "\n".join([f"usage: {start} [options]; {start} --help shows them\n", *cli.labelled([*known().items()])])
