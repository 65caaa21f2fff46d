from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest
import tyro

from fashion_dist import cli
from fashion_dist.commands import COMMANDS
from fashion_dist.errors import ConfigError, InputError, RunError

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, kw_only=True)
class Args(cli.CommonArgs):
    """Do a thing."""

    task: str
    """Its name."""
    nodes: int = 1
    """How many."""
    rate: float = 0.5
    """How fast."""
    cluster: Literal["auto", "local"] = "auto"
    """Where."""
    time_min: cli.MaybeInt = None
    """How long."""
    set: tyro.conf.UseAppendAction[tuple[tuple[str, ...], ...]] = ()
    """Settings."""
    wait: bool = False
    """Follow."""


def run(main: object, *argv: str) -> int:
    with pytest.raises(SystemExit) as stop:
        cli.run(Args, main, argv)  # type: ignore[arg-type]
    assert isinstance(stop.value.code, int)
    return stop.value.code


def test_settings_may_be_given_at_once_or_one_by_one() -> None:
    args = cli.parse(Args, ["--task", "x", "--set", "a=1", "b=2", "--set", "c=3", "--wait"])
    assert cli.settings(args.set) == ("a=1", "b=2", "c=3")
    assert (args.task, args.wait, args.time_min, args.home) == ("x", True, None, "")


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--task", "x", "--node", "2"], "unknown option '--node'; nearest: --nodes"),
        (["--task", "x", "--epochs", "3"], "unknown option '--epochs'; it is a setting: --set train.epochs=3"),
        (["--task", "x", "--batch-size=8"], "it is a setting: --set train.batch_size=8"),
        (["--task", "x", "--optim.lr"], "it is a setting: --set optim.lr=VALUE"),
        (["--task", "x", "--nodes", "two"], "--nodes takes a whole number, not 'two'"),
        (["--task", "x", "--rate", "fast"], "--rate takes a number, not 'fast'"),
        (["--task", "x", "--cluster", "slum"], "'auto', 'local'"),
        (["--task", "x", "--nodes"], "--nodes"),
        (["--task", "x", "stray"], "stray"),
        ([], "--task is required"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(argv: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    def never(_: Args) -> cli.Result:
        raise AssertionError("main was called")

    assert run(never, *argv) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ") and err.count("\n") == 1 and words in err


def test_errors_have_their_status_and_json(capsys: pytest.CaptureFixture[str]) -> None:
    def mistaken(_: Args) -> cli.Result:
        raise ConfigError("no such thing")

    def failed(_: Args) -> cli.Result:
        raise RunError("rank 1 died")

    def full(_: Args) -> cli.Result:
        raise OSError(28, "No space left on device", "/x")

    def too_long(_: Args) -> cli.Result:
        Path("x" * 300).stat()
        return cli.Result("")

    def interrupted(_: Args) -> cli.Result:
        raise KeyboardInterrupt

    assert run(mistaken, "--task", "x", "--json") == 2
    out, err = capsys.readouterr()
    assert json.loads(out) == {"error": "no such thing", "exit_status": 2}
    assert err == "error: no such thing\n"
    assert run(failed, "--task", "x") == 1
    assert capsys.readouterr() == ("", "error: rank 1 died\n")
    assert run(full, "--task", "x") == 1
    assert capsys.readouterr().err == "error: /x: No space left on device\n"
    assert run(too_long, "--task", "x") == 2
    assert capsys.readouterr().err.endswith(
        "xx: File name too long; allowed: names of up to 255 bytes, paths of up to 4,095\n"
    )
    assert run(interrupted, "--task", "x") == 130
    assert capsys.readouterr() == ("", "\nerror: interrupted\n")
    assert run(interrupted, "--task", "x", "--json") == 130
    assert json.loads(capsys.readouterr().out) == {"error": "interrupted", "exit_status": 130}
    assert run(lambda _: os.kill(os.getpid(), signal.SIGTERM), "--task", "x", "--json") == 143
    assert json.loads(capsys.readouterr().out) == {"error": "terminated", "exit_status": 143}


def test_an_interrupt_of_a_whole_pipeline_is_no_traceback() -> None:
    code = (
        "import sys\nfrom fashion_dist import cli\n"
        "def stop(_): sys.stdin.read(); raise KeyboardInterrupt\n"
        "cli.run(cli.CommonArgs, stop, ['--json'])"
    )
    command, pipe = [sys.executable, "-c", code], subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, cwd=ROOT) as process:
        assert process.stdin and process.stdout and process.stderr
        process.stdout.close()
        process.stdin.close()
        assert process.stderr.read() == b"\nerror: interrupted\n"
    assert process.returncode == 130


def test_a_name_of_several_lines_says_nothing_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    def refuse(_: cli.CommonArgs) -> cli.Result:
        raise InputError("a\nerror: all is well.png: no image\n  b.png: no image")

    with pytest.raises(SystemExit) as ended:
        cli.run(cli.CommonArgs, refuse, [])
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert said == "error: a\n  error: all is well.png: no image\n  b.png: no image\n"


def test_what_the_encoding_of_stdout_lacks_is_escaped() -> None:
    code = "from fashion_dist import cli; cli.run(cli.CommonArgs, lambda _: cli.Result('Ärmel 袖'), [])"
    for encoding, said in (
        ("ascii", rb"\xc4rmel \u8896"),
        ("latin-1", b"\xc4rmel \\u8896"),
        ("utf-8", "Ärmel 袖".encode()),
    ):
        environment = {**os.environ, "PYTHONIOENCODING": encoding}
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=environment, cwd=ROOT)
        assert (done.returncode, done.stdout, done.stderr) == (0, said + b"\n", b"")


def test_a_result_is_text_or_json(capsys: pytest.CaptureFixture[str]) -> None:
    result = cli.Result(
        "made it", {"run folder": Path("/r")}, {"follow": "python x"}, {"run_id": "r-1"}, text="a\nb", exit_status=1
    )
    assert run(lambda _: result, "--task", "x") == 1
    assert capsys.readouterr().out == "a\nb\nmade it\n  run folder  /r\n  follow      python x\n"
    assert run(lambda _: result, "--task", "x", "--json") == 1
    assert json.loads(capsys.readouterr().out) == {
        "message": "made it",
        "paths": {"run folder": "/r"},
        "next": {"follow": "python x"},
        "exit_status": 1,
        "run_id": "r-1",
    }


def test_an_unforeseen_error_keeps_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError):
        cli.run(Args, lambda _: cli.Result(str(1 // 0)), ["--task", "x"])


def test_progress_in_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    with cli.Progress() as progress:
        for done in range(1001):
            progress("packing", done, 1000)
        progress.tell("half\x1bway")
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "packing: 0/1000"
    assert lines[-2].startswith("packing: 1000/1000")
    assert lines[-1] == r"half\x1bway"  # what a source holds may be anybody's
    assert len(lines) < 10  # one per item would be the mistake


@pytest.mark.parametrize(("seconds", "told"), [(2.0, "rounds: 10/10, 5/s"), (50.0, "rounds: 10/10, 5 s each")])
def test_the_pace_of_quick_and_of_slow_items(
    seconds: float, told: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    times = iter((100.0, 100.0 + seconds))
    monkeypatch.setattr(cli.time, "monotonic", lambda: next(times))
    with cli.Progress() as progress:
        progress("rounds", 0, 10)
        progress("rounds", 10, 10)
    assert capsys.readouterr().err.splitlines()[-1] == told


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_help_loads_no_torch(command: str) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    code = (
        "import runpy, sys\n"
        f"sys.argv = ['{command}.py', '--help']\n"
        "try:\n"
        f"    runpy.run_path(r'{ROOT / 'jobs' / command}.py', run_name='__main__')\n"
        "except SystemExit as stop:\n"
        "    assert stop.code == 0, stop.code\n"
        "heavy = {'torch', 'nvidia.dali', 'wandb', 'submitit', 'pyarrow', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--json" in done.stdout and "--home" in done.stdout


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "1e301"])
def test_numbers_are_finite(value: str) -> None:
    from fashion_dist.commands.launch import Args as LaunchArgs

    with pytest.raises(ConfigError, match=r"--peer-timeout-s takes a finite number"):
        cli.parse(LaunchArgs, ["--task", "clipart", f"--peer-timeout-s={value}"])
    with pytest.raises(ConfigError, match=r"--nodes takes a (finite|whole) number"):
        cli.parse(LaunchArgs, ["--task", "clipart", "--nodes", "9" * 40])


def test_a_flag_s_former_name_is_taken() -> None:
    from fashion_dist.commands.pack import Args

    assert cli.parse(Args, ["--dataset", "image_folder", "--val-fraction", "0.2"]).val == 0.2


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (
            ["--dataset", "table", "--label", "colour"],
            "--dataset has no use for --label; --reindex does; --label-column",
        ),
        (["--dataset", "table", "--prefix-keys"], "--dataset has no use for --prefix-keys; --reindex does"),
        (["--reindex", "DIR", "--resize", "4"], "--reindex has no use for --resize; it takes: --label, --image"),
        (["--reindex", "DIR", "--group-column", "z"], "--reindex has no use for --group-column"),
        (["--reindex", "DIR", "--unlabelled"], "--reindex has no use for --unlabelled"),
        (["--reindex", "DIR", "--val", "0.2"], "--val is about the classes of a label: --label FIELD"),
        (["--add", "test=DIR", "--name", "x", "--unknown", "skip"], "--add has no use for --unknown; it takes: --name"),
        (["--add", "test=DIR", "--name", "x", "--source", "DIR"], "--add has no use for --source"),
        (["--verify", "DIR", "--check", "header"], "--verify has no use for --check; it takes: --workers"),
    ],
)
def test_pack_refuses_flags_of_what_is_not_asked_for(
    argv: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from fashion_dist.commands.pack import Args, main

    with pytest.raises(SystemExit) as stop:
        cli.run(Args, main, argv)
    assert stop.value.code == 2 and capsys.readouterr().err.startswith(f"error: {told}")


@pytest.mark.parametrize(
    "argv", [["--verify", "/nowhere"], ["--reindex", "/nowhere", "--label", "cls", "--val", "0.2"]]
)
def test_flags_that_change_no_set_are_taken_everywhere(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    from fashion_dist.commands.pack import Args, main

    with pytest.raises(SystemExit):
        cli.run(Args, main, [*argv, "--no-card", "--workers", "1", "--home", "/nowhere"])
    assert capsys.readouterr().err.startswith("error: /nowhere ")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--reindex", ""], "--reindex is empty; give a value, or leave it out"),
        (["--dataset", "table", "--source="], "--source is empty"),
        (["--reindex", "a.tar", ""], "a word of the command line is empty"),
    ],
)
def test_an_empty_word_stands_for_nothing(words: list[str], told: str) -> None:
    """Such as a variable of the shell that is not set; a folder of that name would be the current one."""
    from fashion_dist.commands.pack import Args as PackArgs

    with pytest.raises(ConfigError, match=told):
        cli.parse(PackArgs, words)
