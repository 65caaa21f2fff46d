"""The pages name files, symbols, commands, flags, settings and messages that there are."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import os
import re
import shlex
from functools import cache
from pathlib import Path
from typing import Any

import bench
import pytest
from pages import PAGES, ROOT, blocks, saved_as, spans

from fashion_dist import cli, commands, tasks
from fashion_dist.config import Config
from fashion_dist.models import registry

EXAMPLES = {path: text for page in PAGES for path, text in saved_as(page).items()}
"""Files that a page has the reader write; tests of contracts run them."""
PACKAGES = ("fashion_dist", "shards", "jobs", "tests", "slurm")
ENDINGS = ("csv", "txt", "md", "py", "json", "jsonl", "toml", "html", "parquet", "conf", "lua")


def of_pages(found: Any) -> Any:
    """A test for each item that `found(page)` yields, named after the page and the item."""
    cases = [(page, item) for page in PAGES for item in dict.fromkeys(found(page))]
    assert cases, "the pages have none"
    return pytest.mark.parametrize("item", [pytest.param(item, id=f"{page.stem}: {item}") for page, item in cases])


def links(page: Path) -> list[str]:
    """Path#heading, below the repository, of every link to a file of ours."""
    targets = re.findall(r"\]\((?![a-z]+:)([^)\s]+)\)", page.read_text())
    here = page.relative_to(ROOT)
    return [os.path.normpath(here.parent / target) if target[0] != "#" else f"{here}{target}" for target in targets]


def anchors(page: Path) -> set[str]:
    """The headings of a page as GitHub links to them."""
    titles = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@of_pages(links)
def test_links_lead_somewhere(item: str) -> None:
    path, _, anchor = item.partition("#")
    assert (ROOT / path).exists()
    assert not anchor or anchor in anchors(ROOT / path)


def test_every_page_is_linked_from_the_readme() -> None:
    linked = set(links(ROOT / "README.md"))
    assert {str(page.relative_to(ROOT)) for page in PAGES} - {"README.md"} <= linked


def paths(page: Path) -> list[str]:
    return [span for span in spans(page) if re.fullmatch(rf"({'|'.join(PACKAGES)}|docs|data|models)/[\w./-]*", span)]


@of_pages(paths)
def test_files_exist(item: str) -> None:
    assert item in EXAMPLES or any(
        any(folder.glob(re.sub(r"\bNAME\b", "*", item))) for folder in (ROOT, ROOT / "fashion_dist")
    )


def symbols(page: Path) -> list[str]:
    dotted = [span for span in spans(page) if re.fullmatch(rf"({'|'.join(PACKAGES)})(\.\w+)+", span)]
    return [name for name in dotted if not name.endswith(ENDINGS)]


@of_pages(symbols)
def test_symbols_exist(item: str) -> None:
    module, _, rest = item.rpartition(".")
    members = [rest]
    while True:
        try:
            found: Any = importlib.import_module(item if not members else module)
            break
        except ModuleNotFoundError:
            module, _, rest = module.rpartition(".")
            members.insert(0, rest)
    for name in members:
        if dataclasses.is_dataclass(found) and name in {f.name for f in dataclasses.fields(found)}:
            return
        if not hasattr(found, name):
            found = importlib.import_module(f"{found.__name__}.{name}")
            continue
        found = getattr(found, name)


@cache
def classes() -> dict[str, set[str]]:
    """Every class of the product, with the names in its body; those of one name together."""
    found: dict[str, set[str]] = {}
    for tree in trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                body = found.setdefault(node.name, set())
                body |= {n.name for n in node.body if isinstance(n, ast.FunctionDef)}
                body |= {
                    n.target.id for n in node.body if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name)
                }
    return found


@cache
def trees() -> list[ast.Module]:
    return [ast.parse(path.read_text()) for package in PACKAGES[:2] for path in sorted((ROOT / package).rglob("*.py"))]


@of_pages(lambda page: [s for s in spans(page) if re.fullmatch(r"[A-Z]\w+\.[a-z]\w+", s) and not s.endswith(ENDINGS)])
def test_members_of_classes_exist(item: str) -> None:
    name, _, member = item.partition(".")
    assert member in classes()[name]


def typed(page: Path) -> list[str]:
    """The commands of a page's shell blocks, a line each."""
    lines = [line for code in blocks(page) for line in code.replace("\\\n", " ").splitlines()]
    parts = [part.strip() for line in lines for part in re.split(r" && |(?:^|\s)# ", line)]
    return [part for part in parts if re.match(r"(fashion-dist|(\S*python )?jobs/|python jobs/)", part)]


@of_pages(typed)
def test_commands_parse(item: str) -> None:
    words = shlex.split(item, comments=True)
    name, argv = command_of(words)
    args = cli.parse(args_of(name, argv), argv[1:] if name == "bench" else argv)
    if name in ("launch", "sweep") and args.task:  # type: ignore[attr-defined]
        check_settings(args)


def command_of(words: list[str]) -> tuple[str, list[str]]:
    """The command that the words call, and its arguments."""
    if words[0] == "fashion-dist":
        return words[1], words[2:]
    script = next(i for i, word in enumerate(words) if word.startswith("jobs/"))
    return Path(words[script]).stem, words[script + 1 :]


def args_of(name: str, argv: list[str]) -> Any:
    assert name in commands.known()
    if name != "bench":
        return importlib.import_module(f"fashion_dist.commands.{name}").Args
    assert argv[0] in bench.names()
    return importlib.import_module(f"bench.{argv[0]}").Args


def check_settings(args: Any) -> None:
    """Refuse what launching would refuse of the task, the model and `--set`."""
    settings = cli.settings(args.set)
    if hasattr(args, "sweep"):
        settings = tuple(setting.partition(",")[0] for setting in settings)
    if f"fashion_dist/tasks/{args.task}.py" in EXAMPLES:
        return
    recipe = tasks.load(args.task).recipe
    if f"fashion_dist/models/{args.model}.py" in EXAMPLES:
        settings = tuple(setting for setting in settings if not setting.startswith("model."))
        recipe.override(settings).check()
        return
    flags = {"model.name": args.model, "model.weights": args.weights}
    asked = recipe.override(f"{key}={value}" for key, value in flags.items() if value and value != "FILE")
    registry.resolve(asked.override(settings)).check()


def partial(page: Path) -> list[str]:
    """Commands in prose and tables, with placeholders: `status RUN --watch`, `fashion-dist pack --verify DIR`."""
    known = "|".join(commands.known())
    return [s for s in spans(page) if re.match(rf"(fashion-dist |python jobs/)\S|({known}) (--|RUN|SWEEP)", s)]


@of_pages(partial)
def test_flags_exist(item: str) -> None:
    words = [word.strip("[]") for word in item.replace("|", " ").split()]
    name, argv = command_of(words) if words[0] in ("fashion-dist", "python") else (words[0], words[1:])
    if name == "bench" and argv[0] == "NAME":
        return
    kind = cli.CommonArgs if name == "NAME" else args_of(name, argv)
    assert_flags(argv, [kind])


def assert_flags(words: list[str], kinds: list[Any]) -> None:
    known = {"--" + f.name.replace("_", "-") for kind in kinds for f in dataclasses.fields(kind)} | {"--help"}
    assert {word.partition("=")[0] for word in words if word.startswith("--")} <= known


@of_pages(lambda page: [s for s in spans(page) if re.match(r"--[a-z]", s) and "..." not in s.partition(" ")[0]])
def test_bare_flags_are_some_command_s(item: str) -> None:
    kinds = [args_of(name, []) for name in commands.COMMANDS]
    kinds += [importlib.import_module(f"bench.{name}").Args for name in ("loader", "train", "pack")]
    others = {
        "--purge",
        "--parsable",
        "--gres",
        "--reservation",
        "--exclusive",
        "--signal",
    }  # of up.sh, down.sh and sbatch
    assert_flags([word for word in item.split() if word not in others], kinds)


def keys(page: Path) -> list[str]:
    told = [word.partition("=")[0] for span in spans(page) if span.startswith("--set ") for word in span.split()[1:]]
    alone = [s.partition("=")[0] for s in spans(page) if re.fullmatch(r"(model|optim|data|train|task)\.\w+(=\S+)?", s)]
    return [key for key in told + alone if "." in key and not key.endswith(ENDINGS) and "NAME" not in key]


@of_pages(keys)
def test_settings_exist(item: str) -> None:
    known = {key for name in tasks.names() for key in tasks.load(name).recipe.flat()}
    known |= {key for model in registry.own_models() for key in own(model)}
    of_timm = {"model.drop_path_rate", "model.img_size"}
    of_examples = {f"model.{name}" for text in EXAMPLES.values() for name in re.findall(r"^    (\w+): ", text, re.M)}
    assert item in known | of_timm | of_examples


def own(model: str) -> list[str]:
    config = registry.resolve(Config("a", "b").override([f"model.name={model}"]))
    return [f"model.{name}" for name in config.model.args]


@of_pages(lambda page: re.findall(r"(?:^|&& )make ([a-z-]+)", "\n".join([*blocks(page), *spans(page)]), re.MULTILINE))
def test_targets_of_make_exist(item: str) -> None:
    assert re.search(rf"^{item}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


@of_pages(lambda page: re.findall(r"FASHION_DIST_[A-Z]+\b", page.read_text()))
def test_variables_are_read(item: str) -> None:
    sources = [*ROOT.glob("fashion_dist/**/*.py"), *ROOT.glob("slurm/local/*.sh")]
    assert any(re.search(rf"\b{item}\b", path.read_text()) for path in sources)


@cache
def messages() -> list[str]:
    """Every text that the product makes, with `...` where a value is put in."""
    found = []
    for tree in trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.JoinedStr):
                parts = [n.value if isinstance(n, ast.Constant) else "..." for n in node.values]
                found.append("".join(map(str, parts)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return found


TROUBLES = re.findall(r"`([^`]+)`", "".join(re.findall(r"^### (.*)$", PAGES[-1].read_text(), re.MULTILINE)))


@pytest.mark.parametrize("message", TROUBLES)
def test_the_product_says_what_troubleshooting_explains(message: str) -> None:
    parts = [part for part in message.split("...") if part.strip(" ;:()")]
    assert any(re.search(".*".join(map(re.escape, parts)), said, re.DOTALL) for said in messages())


def test_troubleshooting_explains_messages() -> None:
    assert PAGES[-1].name == "troubleshooting.md" and len(TROUBLES) > 20
