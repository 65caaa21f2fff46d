"""Names that come from files open, replace and remove nothing but through `shards.safe_io` and `fashion_dist.io`.

Read from the syntax trees: a call that writes or removes by name, or runs what it reads, stands only where it is listed
here with its reason.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

from test_layers import ROOT, modules

METHODS = {"write_text", "write_bytes", "unlink", "rmdir", "touch", "symlink_to", "hardlink_to", "rename", "chmod"}
FUNCTIONS = {
    "shutil": {"rmtree", "copy", "copy2", "copyfile", "copytree", "move", "chown"},
    "os": {"remove", "unlink", "rmdir", "rename", "replace", "link", "symlink", "chmod", "chown", "system"},
    "pickle": {"load", "loads"}, "tempfile": {"mktemp"}, "tarfile": {"open"},
}  # fmt: skip
DOORS = {"shards.safe_io", "fashion_dist.io"}
ALLOWED = {
    # Files that the module itself made a moment ago, under names that nobody can guess.
    "fashion_dist.report.archive": {"unlink"},
    "shards.writer": {"unlink"},
    # A run's or a sweep's folder is its owner's alone (`permissions.make`), and the name is a fixed one of ours.
    "fashion_dist.cluster.permissions": {"chmod", "os.chown"},
    "fashion_dist.cluster.run_lock": {"unlink"},
    "fashion_dist.cluster.worker": {"unlink", "touch"},
    "fashion_dist.cluster.heartbeat": {"unlink", "touch"},  # the file by which the batch script requeues
    "fashion_dist.cluster.submitit_executor": {"unlink", "rename"},
    "fashion_dist.cluster.code_version": {"shutil.copytree", "rename"},
    "fashion_dist.sweep.launcher": {"open for writing"},
    "fashion_dist.sweep.study": {"unlink"},
    "fashion_dist.train.checkpoint": {"rename"},
    "fashion_dist.train.distributed": {"unlink"},
    "fashion_dist.train.inference": {"rename", "unlink"},
    # Names that `OwnFiles` or `staging.begin` have claimed, or a folder of /dev/shm whose owner is looked at.
    "fashion_dist.tracking.wandb_sync": {"rename", "shutil.rmtree"},
    "fashion_dist.data.memory": {"unlink"},
    "fashion_dist.data.staging": {"unlink"},
    "shards.added": {"unlink"},
    "shards.reindex": {"rmdir"},
    "shards.manifest": {"open for writing"},
    "shards.packing": {"shutil.rmtree", "unlink"},
    "shards.staging": {"shutil.rmtree", "unlink", "rmdir"},
    # `clean`: what it removes was listed as ours before, and shown to the user.
    "fashion_dist.monitor.disk": {"shutil.rmtree", "unlink", "rmdir"},
    # What is drawn goes into a folder that was empty, or that an earlier drawing marked as its own.
    "shards.readers.synthetic": {"shutil.rmtree", "write_text", "write_bytes"},
    # A name that means a run which is gone; a link's report of the last time, by a name out of three; event files of
    # TensorBoard's own pattern in the run's folder.
    "fashion_dist.run_names": {"unlink"},
    "fashion_dist.monitor.chain": {"unlink"},
    "fashion_dist.tracking.trackers.tensorboard": {"unlink"},
    # Cells that the module wrote itself, with names in them by repr.
    "fashion_dist.report.notebook": {"exec"},
    # The definition of a network's own settings, out of a module of the package.
    "fashion_dist.models.registry": {"exec"},
    # After the file's owner and mode were looked at.
    "fashion_dist.cluster.pickled_rank": {"pickle.loads"},
}


def calls(tree: ast.AST) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        function = node.func
        base = function.value if isinstance(function, ast.Attribute) else None
        name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
        words = [a.value for a in [*node.args, *(k.value for k in node.keywords)] if isinstance(a, ast.Constant)]
        if name == "open" and any(isinstance(w, str) and len(w) < 4 and set(w) & set("wax+") for w in words):
            yield node.lineno, "open for writing"
        elif isinstance(base, ast.Name) and name in FUNCTIONS.get(base.id, ()):
            yield node.lineno, f"{base.id}.{name}"
        elif base is not None and name in METHODS and not (isinstance(base, ast.Name) and base.id == "os"):
            yield node.lineno, name
        elif name == "load" and isinstance(base, ast.Name) and base.id == "torch":
            if not any(k.arg == "weights_only" and getattr(k.value, "value", None) is True for k in node.keywords):
                yield node.lineno, "torch.load of code"
        elif name == "load" and isinstance(base, ast.Name) and base.id == "np":
            if any(k.arg == "allow_pickle" and getattr(k.value, "value", None) is not False for k in node.keywords):
                yield node.lineno, "np.load of code"
        elif name in ("eval", "exec") and base is None:
            yield node.lineno, name


def test_files_are_written_and_removed_through_the_doors_alone() -> None:
    found: dict[str, dict[str, int]] = {}
    for module, path in modules().items():
        for line, name in calls(ast.parse(path.read_text())):
            found.setdefault(module, {})[name] = line
    wrong = [
        f"{module}:{line}: {name}; go through shards.safe_io or fashion_dist.io, or say here why not"
        for module, names in found.items()
        for name, line in names.items()
        if module not in DOORS and name not in ALLOWED.get(module, ())
    ]
    assert not wrong, "\n".join(wrong)
    stale = [f"{module}: {name}" for module, names in ALLOWED.items() for name in names - found.get(module, {}).keys()]
    assert not stale, f"no longer needed here: {', '.join(stale)}"


def test_the_lint_sees_each_kind() -> None:
    code = """
path.write_text("x"); path.open("ab"); open(name, mode="w"); shutil.rmtree(x); os.remove(x); pickle.loads(x)
torch.load(x); torch.load(x, weights_only=False); np.load(x, allow_pickle=True); eval(x); path.unlink()
path.open("rb"); torch.load(x, weights_only=True); np.load(x); text.replace("a", "b")
"""
    assert [name for _, name in sorted(calls(ast.parse(code)), key=lambda found: found[0])] == [
        "write_text", "open for writing", "open for writing", "shutil.rmtree", "os.remove", "pickle.loads",
        "torch.load of code", "torch.load of code", "np.load of code", "eval", "unlink",
    ]  # fmt: skip
    assert (ROOT / "shards" / "safe_io.py").is_file()
