"""What the network in this folder says of pictures: python load.py PICTURE [PICTURE ...].

Needs torch, NumPy and Pillow, and nothing of the code that trained it. From Python:

    from load import Model

    model = Model()
    images = torch.stack([model.preprocess("a.png"), model.preprocess("b.png")])
    model.predict(images)  # {"label": probabilities [2, K]}; the K names are model.classes["label"]

The network is model.pt2, a program of torch.export for any number of images. model.safetensors has its weights by name,
for those who build it from code. preprocessing.json: how a picture becomes an image, which preprocessing.py does;
classes.json: names of outputs.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch

if __package__:
    from fashion_dist.data.preprocessing import open_picture, preprocess
else:  # beside it, in an archive
    from preprocessing import open_picture, preprocess  # type: ignore[import-not-found,no-redef]

SHOWN = 5
"""Classes printed of an output that chooses one."""


class Model:
    """The network with its preprocessing and the names of its outputs.

    Args:
        folder: that holds model.pt2, preprocessing.json and classes.json.
    """

    def __init__(self, folder: Path = Path(__file__).parent) -> None:
        self.settings: dict[str, Any] = json.loads((folder / "preprocessing.json").read_text(encoding="utf-8"))
        self.classes: dict[str, list[str]] = json.loads((folder / "classes.json").read_text(encoding="utf-8"))
        self.program = torch.export.load(folder / "model.pt2").module()

    def preprocess(self, path: str | Path) -> torch.Tensor:
        """A picture file as the network gets it, float32 [3, P, P]: upright, resized, cut to the centre, normalised."""
        return preprocess(open_picture(path, self.settings), self.settings)

    @torch.no_grad()
    def outputs(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """What the network gives for float32 [N, 3, P, P], averaged with that of mirror images if settings say so."""
        images = images.contiguous(memory_format=torch.channels_last)
        found: dict[str, torch.Tensor] = {name: value.float() for name, value in self.program(images).items()}
        if self.settings["eval_flip"]:
            mirrored = self.program(images.flip(-1))
            found = {name: (value + mirrored[name].float()) / 2 for name, value in found.items()}
        return found

    def predict(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """Probabilities [N, K] by output of float32 [N, 3, P, P]; of an output without classes its values."""
        activations = {"softmax": lambda x: x.softmax(1), "sigmoid": lambda x: x.sigmoid(), "none": lambda x: x}
        raw, outputs = self.outputs(images), self.settings["outputs"]
        return {name: activations[output["activation"]](raw[name]) for name, output in outputs.items()}

    def describe(self, probabilities: dict[str, torch.Tensor], row: int) -> list[str]:
        """One picture's answers as lines: the likeliest classes, and all attributes above their thresholds."""
        lines = []
        for name, output in self.settings["outputs"].items():
            values, names = probabilities[name][row], self.classes.get(name, [])
            ranked = values.argsort(descending=True, stable=True).tolist()
            if output["activation"] == "softmax":
                ranked = ranked[:SHOWN]
            elif output["activation"] == "sigmoid":
                least = output["thresholds"]
                always = values.max() if output["at_least_one"] else float("inf")
                ranked = [k for k in ranked if values[k] >= least[k] or values[k] == always]
            else:
                lines.append(f"  {name}  {' '.join(f'{value:.4f}' for value in values.flatten().tolist())}")
                continue
            lines += [f"  {name}  {values[k]:.4f}  {names[k]}" for k in ranked]
        return lines


def together(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """The probability that two pictures go together, by their rows of the output `embedding`."""
    half = first.shape[-1] // 2
    alike = (first[..., :half] * second[..., :half]).sum(-1)
    apart = (first[..., half:-1] - second[..., half:-1]).abs().sum(-1)
    return (alike - apart + first[..., -1] + second[..., -1]).sigmoid()


def main(paths: list[str]) -> int:
    """Print the answers of the model beside this file, or of each in a folder here; returns the exit status."""
    if not paths or paths[0].startswith("-"):
        print("usage: python load.py PICTURE [PICTURE ...]", file=sys.stderr)
        return 2
    here = Path(__file__).parent
    several = sorted(file.parent for file in here.glob("*/model.pt2"))
    for folder in several or [here]:
        if several:
            print(f"{folder.name}:")
        model, images = Model(folder), []
        for path in paths:
            try:
                images.append(model.preprocess(path))
            except OSError as error:
                print(f"error: {path} cannot be read as a picture: {error}", file=sys.stderr)
                return 2
        _answer(model, paths, images)
    return 0


def _answer(model: Model, paths: list[str], images: list[torch.Tensor]) -> None:
    found = model.predict(torch.stack(images))
    for row, path in enumerate(paths):
        print("\n".join([path, *model.describe(found, row)]))
    if "embedding" in found:
        pairs = torch.combinations(torch.arange(len(paths))).tolist()
        for a, b in pairs:
            print(
                f"{paths[a]} and {paths[b]} go together: {together(found['embedding'][a], found['embedding'][b]):.4f}"
            )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
