"""One zip to hand in: code, settings, report, submission files, and the best models with what loads them anywhere.

    README.txt                     what is in it, and which commit the code is of
    code/                          the tracked files, and untracked ones of the packages; code.diff is what differs
    run/                           config.json, run.json, metrics.jsonl, attempts.json, submission/
    report/                        the page, as HTML and PDF, and its figures
    model/                         model.pt2, model.safetensors, preprocessing.json, .py, pictures/, classes, load.py

Of several runs, run/ and model/ have a folder for each, beside one load.py, and report/ is the page of all.

`python load.py PICTURE` in model/ needs torch, NumPy and Pillow alone: model.pt2 is the network as a program of
torch.export. `load.py` is the module beside this one, `preprocessing.py` that of `fashion_dist.data`, and those in
`pictures` are of `shards`: the same bytes in every archive.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import os
import subprocess
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

import fashion_dist
from fashion_dist.data import preprocessing
from fashion_dist.errors import CheckpointError, ConfigError
from fashion_dist.io import OwnFiles, read_json
from fashion_dist.models.siamese import PairNetwork
from fashion_dist.paths import RunDir
from fashion_dist.report.run_data import RunData
from fashion_dist.results.named import names_by_column
from fashion_dist.runs import learned_packing, require_none_gone
from fashion_dist.train.checkpoint import Checkpoints
from shards import images
from shards.safe_io import create, read_regular, refuse_link, temporary

ROOT = Path(fashion_dist.__file__).parents[1]
PACKAGES = ("fashion_dist", "shards")
PICTURES = ("errors.py", "headers.py", "images.py", "limits.py")
"""Of `shards`: what makes pixels of a picture file."""

PAIRS = (
    "The network scores pairs of pictures; exported is what it gives for one. Of the rows a and b of two pictures, "
    "with h = (length - 1) / 2, the logit that they go together is sum(a[:h] * b[:h]) - sum(|a[h:-1] - b[h:-1]|) + "
    "a[-1] + b[-1]; load.py has it as `together`."
)


def require_archivable(found: Sequence[RunData]) -> None:
    """Refuse runs whose models cannot be handed in, before a page is made.

    Raises:
        ConfigError: one was made with settings that are gone, has no best weights yet, or its shard set is gone.
    """
    for facts in found:
        if facts.shard_set is None:
            raise ConfigError(f"run {facts.run_id} cannot be archived without its shard set: {' '.join(facts.notes)}")
        require_none_gone(facts.run, facts.gone)
        if not any(facts.run.checkpoints.glob("best-*")):
            raise ConfigError(f"run {facts.run_id} has no best weights yet, so there is no model to hand in")


def write_archive(
    found: Sequence[RunData], page: Path, notebook: Path | None = None, document: bytes = b""
) -> Path:  # fmt: skip
    """Write a zip beside the page, `<run id>.zip` of one run, else named as the page's folder; returns its path.

    The notebook, and the page as PDF (`document`), go in too.

    Raises:
        ConfigError: see `require_archivable`.
        CheckpointError: the best weights are damaged, or a network cannot be exported.
        InputError: a link stands among what goes into it, or a zip of the same name that we did not write.
    """
    require_archivable(found)
    below = {facts.run_id: f"{facts.called}/" if len(found) > 1 else "" for facts in found}
    parts = {f"model/{below[facts.run_id]}{name}": data for facts in found for name, data in _model(facts)}
    modules = [Path(__file__).with_name("load.py"), Path(preprocessing.__file__)]
    modules += [Path(images.__file__).with_name(name) for name in PICTURES]
    for module in modules:  # which import the archive's `pictures`, not this project's packages
        name = f"model/{'pictures/' * (module.name in PICTURES)}{module.name}"
        parts[name] = module.read_bytes().replace(b"from shards", b"from pictures")
    parts["model/pictures/__init__.py"] = b""
    final = page.parent / f"{found[0].run_id if len(found) == 1 else page.parent.name}.zip"
    OwnFiles(final.parent).claim(final.name)
    fresh = temporary(final)
    try:
        with os.fdopen(create(fresh), "wb") as file, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as out:
            code = dict(_code())
            out.writestr("README.txt", _readme(found, code.get("code.diff", b"") != b""))
            for name, data in {**code, **parts}.items():
                out.writestr(name, data)
            if document:
                out.writestr("report/report.pdf", document)
            if notebook is not None:
                out.writestr(notebook.name, read_regular(notebook))
            of_page = [("report/index.html", page), *_within("report/figures", page.parent / "figures")]
            for name, path in itertools.chain(*(_files(facts.run, below[facts.run_id]) for facts in found), of_page):
                out.writestr(name, read_regular(path))
        fresh.replace(final)
    finally:
        fresh.unlink(missing_ok=True)
    return final


def _files(run: RunDir, below: str) -> Iterator[tuple[str, Path]]:
    """Names in the archive and the files; a link among them is refused when it is read."""
    for path in (run.config, run.run, run.metrics, run.attempts, run.submitted):
        if os.path.lexists(path):
            yield f"run/{below}{path.name}", path
    yield from _within(f"run/{below}submission", run.submission)


def _within(name: str, folder: Path) -> Iterator[tuple[str, Path]]:
    for path in sorted(refuse_link(folder).glob("[!.]*")):
        if path.is_symlink() or not path.is_dir():
            yield f"{name}/{path.name}", path


def _git(*arguments: str) -> bytes | None:
    try:
        done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, check=False)
    except OSError:
        return None
    return done.stdout if done.returncode == 0 else None


def commit() -> str:
    """The commit that the code is of; empty where it is not in git."""
    found = _git("rev-parse", "HEAD")
    return found.decode().strip() if found is not None else ""


def _code() -> Iterator[tuple[str, bytes]]:
    """The tracked files as they are now, and their difference from the commit; without git the installed packages.

    Of what is untracked the packages' files are there too: a task's, dropped beside the others.
    """
    listed = _git("ls-files", "-z")
    if listed:
        dropped = _git("ls-files", "-z", "--others", "--exclude-standard", "--", *PACKAGES) or b""
        names = [name for name in (listed + dropped).decode().split("\0") if name]
        yield "code.diff", _git("diff", "HEAD", "--binary") or b""
    else:
        found = (path for part in PACKAGES for path in sorted((ROOT / part).rglob("*")))
        names = [str(path.relative_to(ROOT)) for path in found if path.suffix in (".py", ".html", ".md")]
    for name in names:
        if (ROOT / name).is_file():
            yield f"code/{name}", (ROOT / name).read_bytes()


def _readme(found: Sequence[RunData], changed: bool) -> str:
    of = commit()
    code = f"code/ is commit {of}" + (" with the changes in code.diff applied" if changed else "") if of else "code/"
    runs = "".join(
        f"Run {facts.titled} of task {facts.config.task}\nmade by: {facts.made.command or 'not written down'}\n\n"
        for facts in found
    )
    return (
        f"{runs}{code}, as it was when this archive was made.\n"
        f"run/ has the settings, everything that was measured, and the submission files.\n"
        f"report/index.html opens in any browser, offline; report.pdf beside it is for printing.\n"
        f"model/ has the network with its best weights on validation: python load.py PICTURE in that folder\n"
    )


def _model(facts: RunData) -> Iterator[tuple[str, bytes]]:
    """The files of one model."""
    from safetensors.torch import save

    assert facts.shard_set is not None
    with contextlib.closing(Checkpoints(facts.run.checkpoints)) as checkpoints:
        found = checkpoints.load("best")
    assert found is not None, "require_archivable saw some"
    model = facts.task.build_model(facts.config, facts.shard_set.schema)
    try:
        model.load_state_dict(found[1]["model"])
    except RuntimeError as error:
        first = str(error).split("\n")[0]
        raise CheckpointError(f"the best weights of run {facts.run_id} do not fit its network: {first}") from None
    for tensor in itertools.chain(model.parameters(), model.buffers()):
        tensor.data = tensor.data.contiguous()  # an exported program keeps no other strides
    state = {name: value.clone() for name, value in model.state_dict().items()}
    yield "model.safetensors", save(state, {"run": facts.run_id})
    image_px = facts.config.data.image_px
    yield "model.pt2", _program(facts.run_id, model.eval(), torch.zeros(2, 3, image_px, image_px))
    with torch.inference_mode():
        widths = {name: value.shape[1:].numel() for name, value in model(torch.zeros(1, 3, image_px, image_px)).items()}
    classes = _classes(facts, widths)
    yield "classes.json", _json(classes)
    yield "preprocessing.json", _json(_preprocessing(facts, model, classes, widths))


def _json(values: object) -> bytes:
    return (json.dumps(values, indent=2, ensure_ascii=False) + "\n").encode()


def _program(run_id: str, model: nn.Module, images: torch.Tensor) -> bytes:
    """The network as a program of torch.export, for any number of images such as [2, 3, P, P]."""
    batch = torch.export.Dim("batch", min=1)
    file = io.BytesIO()
    try:
        program = torch.export.export(model, (images,), dynamic_shapes=({0: batch},))
        program = program.run_decompositions({})  # inlines regions without autocast, with which some cannot be loaded
        torch.export.save(program, file)
    except Exception as error:  # of many kinds; each means that torch cannot follow the code
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise CheckpointError(f"the network of run {run_id} cannot be exported by torch.export: {reason}") from error
    return file.getvalue()


def _classes(facts: RunData, widths: dict[str, int]) -> dict[str, list[str]]:
    """The names of each output's classes, for those outputs that have as many."""
    assert facts.shard_set is not None
    named = names_by_column(facts.task, facts.shard_set.schema, facts.config)
    return {name: list(named[name]) for name, width in widths.items() if len(named.get(name, ())) == width}


def _submitted(run: RunDir, task: str) -> dict[str, Any]:
    """The options with which the run's submission files were made, such as tuned thresholds."""
    if not os.path.lexists(run.submitted):
        return {}
    made = read_json(run.submitted)
    return dict(made["options"]) if made.get("task") == task and isinstance(made.get("options"), dict) else {}


def _preprocessing(
    facts: RunData, model: nn.Module, classes: dict[str, list[str]], widths: dict[str, int]
) -> dict[str, Any]:
    """From a picture file to an image, and from the network's outputs to probabilities."""
    assert facts.shard_set is not None
    config = facts.config
    of_labels = [view.truth for view in facts.task.report_views() if view.kind == "attributes"]
    options = {**facts.task.recipe.options, **config.options, **_submitted(facts.run, config.task)}
    outputs: dict[str, dict[str, Any]] = {}
    for name in classes or widths:
        several = name in classes and name in of_labels
        outputs[name] = {"activation": "sigmoid" if several else "softmax" if name in classes else "none"}
        if several:
            given = [float(part) for part in str(options.get("thresholds", "")).split(",") if part]
            outputs[name]["thresholds"] = given or [options.get("threshold", 0.5)] * widths[name]
            outputs[name]["at_least_one"] = facts.task.names_at_least_one
            always = "; the most probable one always is" * facts.task.names_at_least_one
            outputs[name]["note"] = f"A label is named from its threshold on{always}."
    if isinstance(model, PairNetwork):
        outputs["embedding"]["note"] = PAIRS
    return {
        "run": facts.run_id, "task": config.task, "model": config.model.name, "torch": torch.__version__,
        "precision": "float32", **preprocessing.describe(config.data, learned_packing(facts.run)),
        "outputs": outputs, "options": options,
    }  # fmt: skip
