"""docs/assignments/: each page's commands, word for word but for settings that shorten the training, and what it says
stands in which file.
"""

from __future__ import annotations

import html
import importlib
import re
import shlex
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from minis import DRAW
from pages import ROOT, blocks

from fashion_dist import cli
from fashion_dist.errors import InputError
from fashion_dist.paths import Home

SMALL = "train.batch_size=8 train.eval_batch_size=8 data.image_px="
TRIED_DRY = ("optimizer", "dropout", "initialization", "augmentation", "learning-rate")
"""Sweeps of which the test only looks at the plan, for time; those beside them are run, and reported on."""
SMALLER = {"resnet50": "resnet18", "xception": "timm/mobilenetv3_small_050"}
"""Networks of the pages -> those that the test trains in their place where weights are asked for, for time."""
PAGES = {path.stem: path for path in sorted((ROOT / "docs" / "assignments").glob("*.md"))}
QUICK = ("deep-fashion", "fashion-mnist")


def commands(page: Path) -> list[str]:
    lines = [line.strip() for block in blocks(page) for line in block.splitlines()]
    return [line for line in lines if line.startswith("fashion-dist ")]


def weights_of(network: str, folder: Path) -> Path:
    """A file of weights for a network, as a library publishes them; drawn by lot."""
    file = folder / f"{network.replace('/', '-')}.pt"
    if not file.exists():
        torch.manual_seed(0)
        library, _, name = network.rpartition("/")
        model = timm.create_model(name) if library == "timm" else torchvision.models.get_model(name)
        torch.save(model.state_dict(), file)
    return file


def shortened(words: list[str], folder: Path, px: int) -> list[str]:
    """The words of a command, for a try."""
    if "imagenet" in words:
        network = SMALLER[words[words.index("--model") + 1]]
        words[words.index("--model") + 1] = network
        words[words.index("imagenet")] = str(weights_of(network, folder))
    elif "--model" in words and words[words.index("--model") + 1] in SMALLER:
        words[words.index("--model") + 1] = SMALLER[words[words.index("--model") + 1]]
    if words[0] in ("launch", "sweep"):
        words += ["--debug", "--cluster", "local", "--set", *f"{SMALL}{px}".split()]
    if words[0] == "report":
        words = [word for word in words if word not in TRIED_DRY]
    if words[0] == "sweep" and words[words.index("--name") + 1] in TRIED_DRY:
        words += ["--dry-run"]
    return words


def typed(words: list[str]) -> cli.Result:
    """What a command gives, called in this process."""
    module = importlib.import_module(f"fashion_dist.commands.{words[0]}")
    result: cli.Result = module.main(cli.parse(module.Args, words[1:]))
    assert result.exit_status == 0, result.to_text()
    return result


def place_of(name: str, home: Home) -> Path:
    """The file that a page names: below the folder of the run of that name, below HOME, or here."""
    first, _, rest = name.partition("/")
    if first == "HOME":
        return home.path / rest
    try:
        run = home.find_run(first)
    except InputError:
        return Path(name)
    return run.path / rest.replace(first, run.run_id)


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow, id=n) for n in PAGES]
)  # fmt: skip
@pytest.mark.timeout(1800)
def test_a_page_does_what_it_says(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FASHION_DIST_HOME", str(tmp_path / "try"))
    monkeypatch.delenv("FASHION_DIST_SHARDS", raising=False)
    told = commands(PAGES[name])
    dataset = shlex.split(told[0])[3]
    DRAW[dataset](tmp_path / "data" / dataset)
    if name == "clipart":
        (tmp_path / "data" / "clipart" / "test").rename(tmp_path / "data" / "released")
    for command in told:
        typed(shortened(shlex.split(command)[1:], tmp_path, 28 if dataset == "fashion_mnist" else 32))
    for row in re.findall(r"^\| (.*) \|$", PAGES[name].read_text(), re.MULTILINE)[2:]:
        _, command, file, where = (cell.strip() for cell in row.split(" | "))
        assert any(line.startswith(command.strip("`")) for line in told), f"{command} is not typed"
        found = place_of(file.strip("`"), Home.find())
        assert found.is_file(), f"{file}: {found}"
        if found.suffix == ".zip":
            continue
        text = html.unescape(found.read_text(encoding="utf-8"))
        for phrase in re.findall(r"\*([^*]+)\*", where):
            for network, small in SMALLER.items():
                phrase = phrase.replace(network, small)
            said = text if found.suffix != ".ipynb" else text.replace('\\"', '"')
            assert phrase in said or (tmp_path / phrase).exists(), f"{phrase!r} is not in {found}"
