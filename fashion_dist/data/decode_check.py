"""Whether a GPU decodes JPEGs as the CPU does: a self-test, done once for each GPU model, driver and DALI.

A child process decodes odd JPEGs with the graph that training uses: every batch is read late, from a stream that is
busy, while the next ones are decoded. It ends before the ranks open the GPU, whose mode may allow one process only.

    python -P -m fashion_dist.data.decode_check DEVICE WAY      the child: `ready`, then one line of JSON
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import select
import signal
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fashion_dist.data.options import DECODES, Decode
from fashion_dist.errors import InputError
from fashion_dist.io import parse_dataclass, read_object, write_json

if TYPE_CHECKING:
    import torch

MEAN, MOST = 1.0, 16.0
"""Largest difference from the CPU's pixels, of 255: the mean of an image, and any value. Decoders differ by 1 or 2 in
their rounding; plain chroma upsampling by up to 64; another image's pixels by 50 on average."""
START_S, DECODE_S = 120.0, 10.0
"""Longest wait for the child's imports, which a busy filesystem decides, and for its answer after that."""
SIDE, ROUNDS, LATE = 48, 6, 20_000_000
"""Height and width of the crops, batches, and clock cycles (10 ms) for which the stream is kept busy after each."""
CHILD = (sys.executable, "-P", "-m", "fashion_dist.data.decode_check")
_DRIVER, _SAMPLE = Path("/proc/driver/nvidia"), re.compile(r"Failed to decode sample #(\d+)")


@dataclass(frozen=True)
class Verdict:
    """What the self-test of one way of decoding found.

    Args:
        fault: why it is not to be used; empty where it is right.
        mean, most: difference from the CPU's pixels, of 255.
        kept: holds for the next start, too: not where the child did not come to an end by itself.
    """

    fault: str = ""
    mean: float = 0.0
    most: float = 0.0
    kept: bool = True


def choose(
    device: str, known: Path, ways: Sequence[Decode] = DECODES[:-1], child: Sequence[str] = CHILD
) -> tuple[Decode, dict[str, Verdict]]:
    """The first of `ways` that decodes as the CPU does, else `cpu`; and the verdicts on those that were asked.

    Args:
        device: such as `cuda:0`.
        known: file of the verdicts on this and other GPUs.
        ways: the fastest first.
        child: the command of the child, but for its arguments.
    """
    gpu, found = identity(), dict[str, Verdict]()
    for way in ways:
        kept = _known(known, gpu).get(way)
        found[way] = kept or test(way, device, child)
        if gpu and kept is None and found[way].kept:
            _keep(known, gpu, way, found[way])
        if not found[way].fault:
            return way, found
    return "cpu", found


def identity() -> str:
    """GPU models of this node, driver and DALI, read without opening a GPU; empty where the system does not tell."""
    try:
        models = {match[1] for path in _DRIVER.glob("gpus/*/information") if (match := _MODEL.search(path.read_text()))}
        driver = _VERSION.search((_DRIVER / "version").read_text())
    except OSError:
        return ""
    dali = [f"{found.name} {found.version}" for found in importlib.metadata.distributions() if _BUILD.match(found.name)]
    return f"{', '.join(sorted(models))}; driver {driver[0]}; {', '.join(sorted(dali))}" if models and driver else ""


_MODEL, _VERSION = re.compile(r"Model:\s*(\S.*)"), re.compile(r"\d+\.\d+[.\d]*")
_BUILD = re.compile(r"nvidia-(dali-cuda|nvimgcodec-cu|nvjpeg)", re.IGNORECASE)


def _known(path: Path, gpu: str) -> Mapping[str, Verdict]:
    try:
        of_gpu = read_object(path).get(gpu, {})
        return {way: parse_dataclass(Verdict, value, path) for way, value in of_gpu.items()}
    except (InputError, AttributeError):
        return {}  # to be tested again


def _keep(path: Path, gpu: str, way: str, verdict: Verdict) -> None:
    try:
        values = read_object(path)
    except InputError:
        values = {}
    of_gpu = values.get(gpu)
    write_json(path, {**values, gpu: {**(of_gpu if isinstance(of_gpu, dict) else {}), way: vars(verdict)}})


def test(way: str, device: str, child: Sequence[str] = CHILD) -> Verdict:
    """The verdict of a child process, whether it answers, crashes or hangs."""
    ours = os.pathsep.join(filter(None, [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]))
    with tempfile.TemporaryFile("w+") as told:
        with subprocess.Popen(
            [*child, device, way],
            stdout=subprocess.PIPE,
            stderr=told,
            text=True,
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": ours},
        ) as process:
            assert process.stdout is not None
            what, limit, line = "start", START_S, "\n"
            try:
                while line:
                    if not select.select([process.stdout], [], [], limit)[0]:
                        return Verdict(f"its self-test did not {what} within {limit:g} s", kept=False)
                    line = process.stdout.readline()
                    if line == "ready\n":
                        what, limit = "answer", DECODE_S
                    elif line.startswith("{"):
                        return parse_dataclass(Verdict, json.loads(line), "the self-test's answer")
            finally:
                if line:
                    process.kill()
        code = process.returncode
        told.seek(0)
        last = (told.read().strip().splitlines() or ["without a word"])[-1][:300]
    if code < 0:
        name = signal.Signals(-code).name
        return Verdict(f"its self-test was ended by {name}", kept=name not in ("SIGKILL", "SIGTERM", "SIGINT"))
    return Verdict(f"its self-test failed: {last}", kept=False)


def odd_jpegs() -> tuple[list[str], list[np.ndarray], np.ndarray]:
    """Names and bytes (uint8 [size]) of the pictures, and width and height upright, int32 [n, 2]."""
    with zipfile.ZipFile(Path(__file__).with_name("odd_jpegs.zip")) as file:
        names = file.namelist()
        images = [np.frombuffer(file.read(name), np.uint8) for name in names]
    sizes = [name.removesuffix(".jpg").rpartition("-")[2].split("x") for name in names]
    return names, images, np.array(sizes, np.int32)


def render(device: torch.device, way: str) -> Iterator[np.ndarray]:
    """Each round's crops of all pictures, float32 [n, SIDE, SIDE, 3] of 0 to 255, in the order of the pictures.

    Raises:
        SystemExit: a picture does not decode; with DALI's reason.
    """
    import torch
    from torch.utils.dlpack import from_dlpack

    from fashion_dist.data.augment import AugmentParams
    from fashion_dist.data.dali import Graph, reason_of

    names, images, sizes = odd_jpegs()
    count = len(images)
    colours = np.broadcast_to(np.eye(3, 4, dtype=np.float32), (count, 3, 4))
    flips, erased = np.zeros(count, bool), np.zeros((count, 4), np.int32)

    def start(number: int) -> None:
        side = np.minimum(sizes.min(axis=1), 1 if number % 3 == 2 else SIDE)
        corners = (sizes - side[:, None]) * (number + 1) // ROUNDS  # the last ones end at the picture's last pixels
        boxes = np.column_stack([corners, side, side]).astype(np.int32)
        turned = np.roll(np.arange(count), number)  # what a batch left in a place is another picture's
        draws = AugmentParams(boxes, flips, colours, erased, True).where(turned)
        graph.start([images[i] for i in turned], draws)

    graph = Graph(SIDE, count, 2, device.index if device.type == "cuda" else None, encoded=True, decode=way)
    late: list[torch.Tensor] = []
    start(0)
    for number in range(ROUNDS):
        try:
            batch = from_dlpack(graph.finish())
        except RuntimeError as error:
            wrong = _SAMPLE.search(str(error))
            told = f"{names[(int(wrong[1]) - number) % count]}: DALI cannot decode it" if wrong else reason_of(error)
            raise SystemExit(f"decoding by {way} on {device}: {told}") from error
        if number + 1 < ROUNDS:
            start(number + 1)  # as the loader does, before anything reads the batch
        if device.type == "cuda":
            torch.cuda._sleep(LATE)  # type: ignore[no-untyped-call]
        late.append(batch.clone())  # and lets go of the batch before that has been done
        del batch
    for number, images_of in enumerate(late):
        yield np.roll(images_of.cpu().numpy(), -number, axis=0)


def compare(names: Sequence[str], found: np.ndarray, expected: np.ndarray) -> Verdict:
    """The verdict on pixels, float32 [n, SIDE, SIDE, 3] both."""
    difference = np.abs(found - expected).reshape(len(names), -1)
    means, most = difference.mean(axis=1), difference.max(axis=1)
    mean, worst = float(means.max()), float(most.max())
    if mean <= MEAN and worst <= MOST:
        return Verdict("", mean, worst)
    if not np.isfinite(mean):
        return Verdict("its pixels are no numbers")
    order = np.argsort(-(means / MEAN + most / MOST), kind="stable")
    wrong = [int(i) for i in order if means[i] > MEAN or most[i] > MOST]
    told = ", ".join(f"{names[i]} by up to {most[i]:.0f} and {means[i]:.1f} on average" for i in wrong[:5])
    more = f", and {len(wrong) - 5} more" if len(wrong) > 5 else ""
    return Verdict(
        f"its pixels differ from the CPU's, of {told}{more}; allowed: {MOST:g} of 255 and {MEAN:g}", mean, worst
    )


def main(argv: Sequence[str]) -> None:
    """The child: see the module."""
    import torch

    device, names = torch.device(argv[0]), odd_jpegs()[0]
    expected = list(render(torch.device("cpu"), "cpu"))
    if device.type == "cuda":
        torch.cuda.set_device(device)
        torch.zeros(1, device=device)
    print("ready", flush=True)
    verdicts = [compare(names, *pair) for pair in zip(render(device, argv[1]), expected, strict=True)]
    worst = max(verdicts, key=lambda verdict: (bool(verdict.fault), verdict.mean))
    answer: dict[str, Any] = vars(worst)
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
