"""`fashion-dist NAME`, `python -m fashion_dist NAME` and `python jobs/NAME.py` are one thing."""

from __future__ import annotations

import json
import os
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

from fashion_dist import __version__, commands
from shards import program

ROOT = Path(__file__).parents[2]
MAIN = ROOT / "fashion_dist" / "__main__.py"


def ask(*words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    argv = [sys.executable, *words]
    return subprocess.run(argv, env=environment, capture_output=True, text=True, check=False)


def test_every_module_is_a_command_and_a_script() -> None:
    assert sorted(m.name for m in pkgutil.iter_modules(commands.__path__)) == sorted(commands.COMMANDS)
    scripts = {path.stem for path in (ROOT / "jobs").glob("*.py")}
    assert scripts == set(commands.known()) == {*commands.COMMANDS, "bench"}


def test_the_table_of_commands() -> None:
    alone, asked = ask("-m", "fashion_dist"), ask("-m", "fashion_dist", "--help")
    assert alone.returncode == asked.returncode == 0 and alone.stdout == asked.stdout
    assert all(f"  {name} " in alone.stdout for name in commands.known())
    assert ask("-m", "fashion_dist", "--version").stdout == f"fashion-dist {__version__}\n"


@pytest.mark.parametrize("words", [("--help",), ("--version",), ("status", "--help")])
def test_a_reader_that_has_seen_enough_is_no_fault(words: tuple[str, ...]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    argv = [sys.executable, "-m", "fashion_dist", *words]
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    environment = {**buffered, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(argv, env=environment, stdout=writing, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, "")


def test_an_unknown_command_names_the_known() -> None:
    said = ask("-m", "fashion_dist", "lunch", "--json")
    assert said.returncode == 2
    assert said.stderr.startswith("error: unknown command 'lunch'; known: bench, clean, collect, compare, demo, launch")
    assert json.loads(said.stdout)["exit_status"] == 2


def test_the_demo_of_a_folder_that_is_not_there_is_a_mistake(tmp_path: Path) -> None:
    said = ask("-m", "fashion_dist", "demo", "--data", str(tmp_path / "lost"), "--home", str(tmp_path / "home"))
    assert said.returncode == 2
    assert said.stderr.endswith(f"error: {tmp_path / 'lost'} does not exist\nerror: pack ended with status 2\n")


@pytest.mark.parametrize(
    "words",
    [
        ("pack", "--dataset", "table", "--source", "~nobody-so-named/x"),
        ("pack", "--dataset", "table", "--source", ".", "--out", "~nobody-so-named/x"),
        ("pack", "--verify", "~nobody-so-named/x"),
        ("pack", "--reindex", "~nobody-so-named/x"),
        ("status", "--home", "~nobody-so-named/x"),
        ("launch", "--task", "clipart", "--shards", "~nobody-so-named/x"),
        ("launch", "--task", "clipart", "--stage", "~nobody-so-named/x"),
        ("report", "run", "--notebook", "~nobody-so-named/x"),
    ],
)
def test_a_home_folder_of_nobody_is_a_sentence(tmp_path: Path, words: tuple[str, ...]) -> None:
    run = tmp_path / "runs" / "run"
    run.mkdir(parents=True)
    (run / "config.json").write_text('{"task": "clipart"}')
    home = () if "--home" in words else ("--home", str(tmp_path))
    said = ask("-m", "fashion_dist", *words, *home)
    assert said.returncode == 2 and said.stderr == (
        "error: ~nobody-so-named/x: ~nobody-so-named is no user's home folder; "
        "allowed: ./~nobody-so-named for a folder so named\n"
    )


@pytest.mark.parametrize("name", ["launch", "status"])
def test_a_script_and_the_command_answer_alike(name: str) -> None:
    script, command = ask(str(ROOT / "jobs" / f"{name}.py"), "--help"), ask("-m", "fashion_dist", name, "--help")
    assert script.returncode == command.returncode == 0
    assert script.stdout.splitlines()[1:] == command.stdout.splitlines()[1:]
    assert command.stdout.startswith(f"usage: python -m fashion_dist {name} ")


@pytest.mark.parametrize(
    ("script", "hint", "typed"),
    [
        ("/usr/bin/fashion-dist", "fashion-dist pack", "fashion-dist pack --verify 'my set'"),
        (str(MAIN), "python -m fashion_dist pack", "python -m fashion_dist pack --verify 'my set'"),
        ("jobs/pack.py", "python jobs/pack.py", f"{Path(sys.executable).name} jobs/pack.py pack --verify 'my set'"),
    ],
)
def test_hints_are_typed_as_the_user_types(script: str, hint: str, typed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [script, "pack", "--verify", "my set"])
    assert program.command("pack") == hint
    assert program.typed() == typed


def test_without_a_checkout_there_is_the_command_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program, "CHECKOUT", tmp_path)
    monkeypatch.setattr(commands, "_BENCH", tmp_path / "jobs" / "bench.py")
    monkeypatch.setattr(sys, "argv", ["a-notebook"])
    assert program.command("pack") == "fashion-dist pack"
    assert "bench" not in commands.known()


def test_bench_is_asked_through_the_command() -> None:
    said = ask("-m", "fashion_dist", "bench", "loadr")
    assert said.returncode == 2 and "unknown bench 'loadr'" in said.stderr
