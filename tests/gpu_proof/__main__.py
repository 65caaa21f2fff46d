"""`make gpu-proof`: what only a GPU can show, in one JSON and one table; unattended, at most six minutes.

    make gpu-proof                                   all parts, on this machine's first GPU
    make gpu-proof ONLY=self_test                    one part
    make gpu-proof FASHION_MNIST=DIR                 with the run to 94 % test accuracy
    make gpu-proof DEVICE=cpu                        a rehearsal of the same script, whose figures mean nothing

Needs Python, torch, NumPy and DALI; pictures are drawn here. Each part is a process of its own with a time limit, whose
failure ends nothing else; the JSON is written after each. Ends with status 1 where something is wrong.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS.parent), str(TESTS)]
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [*sys.path[:2], os.environ.get("PYTHONPATH", "")]))

LONGEST_S = 350.0
"""No part runs beyond this."""
LOGGED = 20_000
"""Characters of a faulty part's output that the JSON keeps."""


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="make gpu-proof", description="What only a GPU can show.")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--only", default="", help="parts, joined by commas")
    parser.add_argument("--small", action="store_true", help="a rehearsal; with --device cpu always")
    parser.add_argument("--fashion-mnist", default="", help="folder of the four published files")
    parser.add_argument("--out", default="gpu-proof.json")
    parser.add_argument("--child", default="", help=argparse.SUPPRESS)
    parser.add_argument("--scratch", default="", help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.small = args.small or args.device == "cpu"
    return args


def main() -> int:
    """The exit status."""
    args = arguments()
    if args.child:
        run_part(args)
        return 0
    began = time.monotonic()
    from gpu_proof import parts

    wanted = [name for name in args.only.split(",") if name] or list(parts.PARTS)
    if unknown := [name for name in wanted if name not in parts.PARTS]:
        print(f"error: no part {', '.join(unknown)}; known: {', '.join(parts.PARTS)}", file=sys.stderr)
        return 2
    found = parts.machine()
    if args.device == "cuda" and found["device"] == "no GPU":
        told = f"torch {found['torch']} for CUDA {found['cuda']} finds none"
        print(f"error: the proof needs a CUDA GPU, and {told}; DEVICE=cpu rehearses it", file=sys.stderr)
        return 2
    values: dict[str, Any] = {"machine": found, "small": args.small, "parts": {}}
    out = Path(args.out).absolute()
    with tempfile.TemporaryDirectory(prefix="gpu-proof-") as scratch:
        args.scratch = scratch
        draw(Path(scratch), args.small)
        for name in wanted:
            left = LONGEST_S - (time.monotonic() - began)
            limit = min(parts.PARTS[name][1], left) if not args.small else 150.0
            why = parts.left_out(name, args.device, args.fashion_mnist)
            why = why or ("the six minutes were over" if limit < 5 else "")
            values["parts"][name] = {"rows": [], "left_out": why} if why else child(args, name, limit)
            values["seconds"] = round(time.monotonic() - began, 1)
            out.write_text(json.dumps(values, indent=1) + "\n")
            print(table(name, values["parts"][name]), flush=True)
    print(f"{found['device']}, {found['cores']} cores, {values['seconds']:.0f} s: {out}")
    return int(any(map(is_wrong, values["parts"].values())))


def draw(scratch: Path, small: bool) -> None:
    """The set of photographs."""
    from gpu_proof import drawn

    drawn.write_photos(scratch / "photos", *((48, 12, 80) if small else (16384, 256, 440)))


def child(args: argparse.Namespace, name: str, limit: float) -> dict[str, Any]:
    """What a part found, however it ended."""
    rows, log = Path(args.scratch) / f"{name}.jsonl", Path(args.scratch) / f"{name}.log"
    command = [sys.executable, __file__, "--child", name, "--device", args.device, "--scratch", args.scratch]
    command += ["--small"] * args.small + ["--fashion-mnist", args.fashion_mnist]
    began = time.monotonic()
    # Threads that wait for each other spin, and a rehearsal shares its machine.
    threads = {"OMP_NUM_THREADS": "1"} if args.small else {}
    with (
        log.open("w") as told,
        subprocess.Popen(
            command, stdout=told, stderr=told, start_new_session=True, env={**os.environ, **threads}
        ) as process,
    ):
        try:
            code: int | None = process.wait(limit)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    found: dict[str, Any] = {"rows": read(rows)}
    if code is None:
        found["failed"] = f"took longer than {limit:.0f} s"
    elif code:
        last = (log.read_text().strip().splitlines() or ["without a word"])[-1][:300]
        found["failed"] = f"ended by {signal.Signals(-code).name}" if code < 0 else last
    found["seconds"] = round(time.monotonic() - began, 1)
    if is_wrong(found):
        found["log"] = log.read_text()[-LOGGED:]
    return found


def run_part(args: argparse.Namespace) -> None:
    """The child: a row a line, written as it is found."""
    import torch

    from fashion_dist.data.options import DECODES
    from gpu_proof import parts
    from gpu_proof.ground import Ground

    scratch = Path(args.scratch)
    ways = next((row["value"].split() for row in read(scratch / "self_test.jsonl") if row["name"] == "ways"), None)
    device = torch.device("cuda", 0) if args.device == "cuda" else torch.device("cpu")
    ground = Ground(device, args.small, scratch, ways or DECODES, args.fashion_mnist)
    with (scratch / f"{args.child}.jsonl").open("w", buffering=1) as file:
        for row in parts.PARTS[args.child][0](ground):
            file.write(json.dumps(row._asdict()) + "\n")


def read(path: Path) -> list[dict[str, Any]]:
    """The rows in a file; none without one."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def is_wrong(part: dict[str, Any]) -> bool:
    """Whether a part failed, or found a fault; a figure that is lower than wanted is none."""
    return "failed" in part or any(row["fault"] for row in part["rows"])


def table(name: str, part: dict[str, Any]) -> str:
    """A part's lines for a person."""
    lines = [f"{name}  ({part.get('seconds', 0):.0f} s)"]
    for row in part["rows"]:
        value = f"{row['value']:>12,}" if isinstance(row["value"], (int, float)) else row["value"]
        line = f"    {row['name']:44}{value} {row['unit']}"
        if row["least"] is not None:
            line += (
                f"   wanted {row['least']:,} or more: {'reached' if row['value'] >= row['least'] else 'NOT reached'}"
            )
        lines.append(line.rstrip() + (f"   WRONG: {row['fault']}" if row["fault"] else ""))
    lines += [
        f"    {word}: {part[key]}" for key, word in (("left_out", "left out"), ("failed", "FAILED")) if key in part
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
