"""One zip to hand in: code, settings, report, submission files, and the best model with what loads it anywhere.

    README.txt                     what is in it, and which commit the code is of
    code/                          the tracked files; code.diff is what differs from the commit
    run/                           config.json, run.json, metrics.jsonl, attempts.json, submission/
    report/                        the page and its figures
    model/                         model.safetensors, load.py, network.py, model.json; networks of ours as backbone.py

`load.py` needs torch, and torchvision or timm where the backbone is theirs: it reads the safetensors file by itself.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import os
import re
import subprocess
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

import fashion_dist
from fashion_dist import models
from fashion_dist.errors import CheckpointError
from fashion_dist.io import OwnFiles
from fashion_dist.models import registry, siamese
from fashion_dist.models.heads import Head, Network
from fashion_dist.models.siamese import PairNetwork
from fashion_dist.paths import RunDir
from fashion_dist.report.run_data import Facts
from fashion_dist.runs import require_none_gone
from fashion_dist.train.checkpoint import Checkpoints
from shards.safe_io import create, read_regular, refuse_link, temporary

ROOT = Path(fashion_dist.__file__).parents[1]

_LOAD = '''"""The best weights of run {run_id}: `from load import load; load()(images)`. Needs {needs}."""
import json, pathlib, torch, network
KINDS = {{"F32": torch.float32, "BF16": torch.bfloat16, "I64": torch.int64}}
def load(folder=pathlib.Path(__file__).parent):
    raw = memoryview((folder / "model.safetensors").read_bytes())
    start = 8 + int.from_bytes(raw[:8], "little")
    entries = {{k: e for k, e in json.loads(bytes(raw[8:start])).items() if k != "__metadata__"}}
    cut = lambda e: bytearray(raw[start:][slice(*e["data_offsets"])])
    read = lambda e: torch.frombuffer(cut(e), dtype=KINDS[e["dtype"]]).reshape(e["shape"])
    model = network.build(json.loads((folder / "model.json").read_text()))
    model.load_state_dict({{k: read(e) for k, e in entries.items()}})
    return model.eval()
'''

_NETWORK = '''"""The network of run {run_id}; images [N, 3, H, W] are normalised by mean and std of model.json."""

from __future__ import annotations

import itertools
import types
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn import Dropout


def build(spec):
    """The network that model.json describes, with random weights."""
    if spec["source"] == "ours":
        import backbone

        body, features = backbone.build(types.SimpleNamespace(**spec["model"]), spec["image_px"])
    elif spec["source"] == "torchvision":
        import torchvision

        body, features = torchvision.models.get_model(spec["model"]["name"], weights=None), spec["features"]
        path = [name for name, module in body.named_modules() if isinstance(module, nn.Linear)][-1]
        parent, _, child = path.rpartition(".")
        setattr(body.get_submodule(parent), child, nn.Identity())
    else:
        import timm

        args = spec["model"]["args"]
        body, features = timm.create_model(spec["model"]["name"], num_classes=0, **args), spec["features"]
    if "embedding" in spec:
        return PairNetwork(body, features, spec["embedding"])
    return Network(body, features, {{name: Head(**head) for name, head in spec["heads"].items()}})


{classes}
'''


def write_archive(facts: Facts, page: Path) -> Path:
    """Write `<run id>.zip` beside the page, and return its path.

    Args:
        facts: of a run with its shard set and best weights.
        page: its page, already written.

    Raises:
        ConfigError: the run was made with settings that are gone.
        CheckpointError: the run has no best weights yet, or its shard set is gone.
        InputError: a link stands among what goes into it, or a zip of the same name that we did not write.
    """
    if facts.shard_set is None:
        raise CheckpointError(f"run {facts.run_id} cannot be archived without its shard set: {' '.join(facts.notes)}")
    require_none_gone(facts.run, facts.gone)
    parts = dict(_model(facts))
    final = page.parent / f"{facts.run_id}.zip"
    OwnFiles(final.parent).claim(final.name)
    fresh = temporary(final)
    try:
        with os.fdopen(create(fresh), "wb") as file, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as out:
            code = dict(_code())
            out.writestr("README.txt", _readme(facts, code.get("code.diff", b"") != b"", parts))
            for name, data in {**code, **parts}.items():
                out.writestr(name, data)
            for name, path in _files(facts.run, page):
                out.writestr(name, read_regular(path))
        fresh.replace(final)
    finally:
        fresh.unlink(missing_ok=True)
    return final


def _files(run: RunDir, page: Path) -> Iterator[tuple[str, Path]]:
    """Names in the archive and the files; a link among them is refused when it is read."""
    for path in (run.config, run.run, run.metrics, run.attempts):
        if os.path.lexists(path):
            yield f"run/{path.name}", path
    yield "report/index.html", page
    for name, folder in (("run/submission", run.submission), ("report/figures", page.parent / "figures")):
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
    """The tracked files as they are now, and their difference from the commit; without git the installed packages."""
    listed = _git("ls-files", "-z")
    if listed:
        names = [name for name in listed.decode().split("\0") if name]
        yield "code.diff", _git("diff", "HEAD", "--binary") or b""
    else:
        found = (path for part in ("fashion_dist", "shards") for path in sorted((ROOT / part).rglob("*")))
        names = [str(path.relative_to(ROOT)) for path in found if path.suffix in (".py", ".html", ".md")]
    for name in names:
        if (ROOT / name).is_file():
            yield f"code/{name}", (ROOT / name).read_bytes()


def _readme(facts: Facts, changed: bool, parts: dict[str, bytes]) -> str:
    of = commit()
    code = f"code/ is commit {of}" + (" with the changes in code.diff applied" if changed else "") if of else "code/"
    how = "python -c 'from load import load; print(load())' in model/" if "model/load.py" in parts else "see model.json"
    return (
        f"Run {facts.run_id} of task {facts.config.task}\n"
        f"made by: {facts.made.get('command', 'not written down')}\n\n"
        f"{code}, as it was when this archive was made.\n"
        f"run/ has the settings, everything that was measured, and the submission files.\n"
        f"report/index.html opens in any browser, offline.\n"
        f"model/ has the best weights on validation. To load them: {how}\n"
    )


def _model(facts: Facts) -> Iterator[tuple[str, bytes]]:
    """The files under model/."""
    from safetensors.torch import save

    assert facts.shard_set is not None
    checkpoints = Checkpoints(facts.run.checkpoints)
    try:
        found = checkpoints.load("best")
    finally:
        checkpoints.close()
    if found is None:
        raise CheckpointError(f"run {facts.run_id} has no best weights yet, so there is no model to hand in")
    model = facts.task.build_model(facts.config, facts.shard_set.schema)
    try:
        model.load_state_dict(found[1]["model"])
    except RuntimeError as error:
        first = str(error).split("\n")[0]
        raise CheckpointError(f"the best weights of run {facts.run_id} do not fit its network: {first}") from None
    spec = _spec(facts, model)
    known = "heads" in spec or "embedding" in spec
    plain = _plain_keys(model)
    state = {k: v.contiguous() for k, v in model.state_dict().items() if not known or k in plain}
    yield "model/model.safetensors", save(state, {"run": facts.run_id})
    yield "model/model.json", (json.dumps(spec, indent=2) + "\n").encode()
    if not known:
        return  # a network of another make: the code is the only way to build it
    classes: list[Any] = [Head, Network] if "heads" in spec else [PairNetwork, siamese.pair_scores, siamese.calibrated]
    source = "\n\n".join(inspect.getsource(part) for part in classes)
    if "embedding" in spec:
        source = f"FIRST_SCALE = {siamese.FIRST_SCALE}\n\n\n{source}"
    needs = {"ours": "torch", "torchvision": "torch and torchvision", "timm": "torch and timm"}[spec["source"]]
    yield "model/network.py", _NETWORK.format(run_id=facts.run_id, classes=source).encode()
    yield "model/load.py", _LOAD.format(run_id=facts.run_id, needs=needs).encode()
    if spec["source"] == "ours":
        for name, source in _own_sources(facts.config.model.name).items():
            yield f"model/{name}.py", source.encode()


def _own_sources(network: str) -> dict[str, str]:
    """A network of ours as `backbone`, and the files beside it that it imports; dropout is torch's there.

    Other imports from this package name types, and are left out.
    """
    sources: dict[str, str] = {}
    waiting = [network]
    while waiting:
        name = waiting.pop()
        text = (Path(models.__file__).parent / f"{name}.py").read_text()
        text = text.replace("from fashion_dist.models._dropout import", "from torch.nn import")
        text = re.sub(r"^from fashion_dist\.models\.(_[a-z]\w*) import", r"from \1 import", text, flags=re.MULTILINE)
        lines = (line for line in text.splitlines(keepends=True) if not line.startswith("from fashion_dist"))
        sources["backbone" if name == network else name] = "".join(lines)
        waiting += set(re.findall(r"^from (_[a-z]\w*) import", text, re.MULTILINE)) - sources.keys()
    return sources


def _plain_keys(model: nn.Module) -> set[str]:
    """The keys that `network.build` gives; a subclass may have learned more, such as the weights of its losses."""
    parts = ("backbone.", "heads.") if isinstance(model, Network) else ("",)
    return {key for key in model.state_dict() if key.startswith(parts)}


def _spec(facts: Facts, model: nn.Module) -> dict[str, Any]:
    """What model.json says."""
    assert facts.shard_set is not None
    config = facts.config
    source, name = registry.locate(config.model.name)
    spec: dict[str, Any] = {
        "source": source, "model": {**dataclasses.asdict(config.model), "name": name},
        "image_px": config.data.image_px, "mean": config.data.mean, "std": config.data.std, "fit": config.data.fit,
        "eval_resize": config.data.eval_resize, "names": {k: list(v) for k, v in facts.shard_set.schema.names.items()},
        "torch": torch.__version__,
    }  # fmt: skip
    if isinstance(model, Network):
        spec["features"] = model.num_features
        spec["heads"] = {name: dataclasses.asdict(head) for name, head in model.outputs.items()}
    elif isinstance(model, PairNetwork):
        spec["features"], spec["embedding"] = model.project.in_features, model.embedding
    return spec
