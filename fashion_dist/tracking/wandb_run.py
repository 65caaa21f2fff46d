"""Weights & Biases: the only importer of wandb.

metrics.jsonl is the truth. W&B is told the same lines; when it fails, one warning is logged and training goes on.
Offline (the default without a key), `fashion-dist sync` replays the file into one W&B run later.

Every row of W&B's history is one line of the file, and W&B's own step is the row's number. So the number of rows that
the server has says how far it got, and `synced.jsonl` says which lines those were: after any death the next start or
sync goes on with the first line that did not arrive, and sends none twice.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import logging
import math
import netrc
import os
import re
import socket
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlparse
from urllib.request import getproxies, proxy_bypass

from fashion_dist import tasks
from fashion_dist.config import Config
from fashion_dist.errors import ConfigError, InputError
from fashion_dist.io import append, parse_dataclass, read_json, read_lines, write_text
from fashion_dist.paths import RunDir
from fashion_dist.tracking.metrics_log import PLAIN, iter_metrics
from fashion_dist.tracking.wandb_media import Media
from shards.safe_io import expanded

if TYPE_CHECKING:
    import wandb

logger = logging.getLogger(__name__)

WandbMode = Literal["auto", "online", "offline", "off"]


_MODES = {"": 0, "auto": 0, "online": 0, "run": 0, "shared": 0, "offline": 1, "dryrun": 1, "off": 2, "disabled": 2}
"""How much less than all may be done, of our words and W&B's."""


def allowed_mode(asked: WandbMode) -> Literal["online", "offline", "off"]:
    """What W&B may do: the least of what a command asks for, `WANDB_MODE` says and the user's own settings of W&B say;
    `auto` sends with a key.

    Raises:
        ConfigError: `WANDB_MODE` is no mode.
    """
    said = os.environ.get("WANDB_MODE", "")
    if said.lower() not in _MODES:
        raise ConfigError(f"WANDB_MODE={said} is not possible; allowed: online, offline, disabled")
    levels = [_MODES[asked], _MODES[said.lower()], int(asked == "auto" and not os.environ.get("WANDB_API_KEY"))]
    kept = _client().setup().settings.mode if max(levels) < _MODES["off"] else ""
    modes: tuple[Literal["online", "offline", "off"], ...] = ("online", "offline", "off")
    return modes[max(*levels, _MODES.get(kept, 0))]


def require_safe_server(url: str) -> None:
    """Refuse to send the key in clear.

    Raises:
        ConfigError: the server is on another machine and is not spoken to over TLS.
    """
    parts = urlparse(url)
    loopback = parts.hostname in ("localhost", "::1") or (parts.hostname or "").startswith("127.")
    if parts.scheme != "https" and not (parts.scheme == "http" and loopback):
        raise ConfigError(f"W&B at {url} would be sent the key in clear; allowed: https://, or http:// on this machine")


def _client() -> Any:
    """The module wandb with its settings of the environment and the user's own folder.

    It also believes `./wandb/settings`, where the server's address may stand, and the current folder may be anybody's:
    so it reads its settings, once in a process, in an empty folder. `WANDB_MODE` is read by `allowed_mode` alone.

    Raises:
        ConfigError: they are nothing that W&B takes.
    """
    import wandb

    here, said = os.open(".", os.O_RDONLY), os.environ.pop("WANDB_MODE", None)
    try:
        with tempfile.TemporaryDirectory() as empty:
            os.chdir(empty)
            try:
                wandb.setup()
            except (ValueError, wandb.errors.UsageError) as error:
                raise _refused(error) from None
            finally:
                os.chdir(here)
    finally:
        os.close(here)
        os.environ.update({} if said is None else {"WANDB_MODE": said})
    return wandb


def _refused(error: Exception) -> ConfigError:
    return ConfigError(f"W&B does not take its settings (WANDB_* and ~/.config/wandb): {' '.join(str(error).split())}")


def project() -> str:
    """The project that runs are sent to."""
    return os.environ.get("WANDB_PROJECT") or "fashion-dist"


def is_here(target: str) -> bool:
    """Whether a `SyncLine.target` is where a run would be sent to now."""
    settings = _client().setup().settings
    url, _, path = target.partition(" ")
    entity, _, rest = path.partition("/")
    return (url, rest.partition("/")[0]) == (settings.base_url, project()) and settings.entity in (None, "", entity)


def start_wandb(run: RunDir, config: Config, mode: WandbMode, group: str = "") -> WandbRun | None:
    """W&B's side of a run, which is to be told all its lines: offline, its folder is new; online, what arrived is left
    out. None where it is off, or does not start.
    """
    mode = allowed_mode(mode)
    if mode == "off":
        return None
    if mode == "online" and (silent := _silent_server()):
        told = "W&B at %s cannot be reached from here; this start is offline, fashion-dist sync sends it"
        logger.warning(told, silent)
        mode = "offline"
    try:
        return WandbRun(run, config, mode, group, run.path)
    except Exception as error:  # a full disk, a missing server, a broken install: none may end the training
        logger.warning("W&B did not start (%s); training goes on with metrics.jsonl alone", error)
        return None


REACH_S = 0.8
"""Longest wait for W&B's server; on a node without a network its own client waits 90 s, and peers with it."""


def _silent_server() -> str:
    """Where W&B's client connects to, the server or the proxy before it, if nothing listens there; else nothing."""
    url = urlparse(os.environ.get("WANDB_BASE_URL") or _client().Settings().base_url)
    proxy = getproxies().get(url.scheme, "")
    if proxy and not proxy_bypass(url.hostname or ""):
        url = urlparse(proxy if "://" in proxy else f"http://{proxy}")
    host, port = url.hostname or "", url.port or (443 if url.scheme == "https" else 80)
    reached: list[bool] = []

    def connect() -> None:
        with contextlib.suppress(OSError), socket.create_connection((host, port), REACH_S):
            reached.append(True)

    thread = threading.Thread(target=connect, name="reach W&B", daemon=True)  # looking the name up may hang as well
    thread.start()
    thread.join(REACH_S)
    return "" if reached else f"{host}:{port}"


def show_pictures(run: RunDir, config: Config, mode: WandbMode, group: str, pictures: Mapping[str, Path]) -> bool:
    """Show image files, by name, in the W&B run of a run that is not training; says whether W&B took them."""
    feed = start_wandb(run, config, mode, group)
    if feed is None:
        return False
    try:
        for point in iter_metrics(run.metrics):
            feed.log(point)
        feed.show_pictures(pictures)
        feed.finish()
    except Exception as error:  # as in MetricsLogger; the page is written whatever W&B says
        logger.warning("W&B did not take the pictures (%s)", error)
        return False
    return True


class WandbRun:
    """The W&B run of a run, and which lines it has (see the module); online it is taken up where the server has it.

    `offline` begins a folder of W&B's, whole in itself; W&B's own files go to `folder`, and it shows it under `group`.
    """

    def __init__(
        self, run: RunDir, config: Config, mode: Literal["online", "offline"], group: str, folder: Path
    ) -> None:  # fmt: skip
        client = _client()
        if mode == "online":
            require_safe_server(str(client.setup().settings.base_url))
        try:
            started = client.init(
                id=run.run_id, name=run.home.names.all().get(run.run_id, run.run_id), project=project(), dir=folder,
                mode=mode, resume="allow", config=config.flat(), tags=[config.task, config.model.name],
                group=group or config.task, job_type="trial" if group else "train",
                settings=client.Settings(silent=True, console="off", disable_git=True, save_code=False),
            )  # fmt: skip
        except (ValueError, client.errors.UsageError) as error:
            raise _refused(error) from None
        starts = read_json(run.attempts).get("attempts", [])
        hardware = {f"start {each['attempt']}": each["hardware"] for each in starts if each.get("hardware")}
        started.config.update({"hardware": hardware}, allow_val_change=True)
        started.define_metric("step", hidden=True)
        started.define_metric("epoch", hidden=True)
        for axis in ("train/*", "system/*"):
            started.define_metric(axis, step_metric="step")
        for axis in ("val/*", "test/*"):
            started.define_metric(axis, step_metric="epoch")
        self.wandb: wandb.Run = started
        self._next = int(started.starting_step)
        self._monitor = tasks.load(config.task).monitored(config)
        self._best: float | None = None
        self._note = SyncRecord(run.synced, f"{started.settings.base_url} {started.path}") if mode == "online" else None
        self._sent: set[str] = set()
        if self._note is not None:
            first = [key_of(point) for point in itertools.islice(iter_metrics(run.metrics), self._next)]
            self._sent = set(self._note.agree(self._next, first))
        self.rows = 0
        """Rows sent by this object."""

    def log(self, line: Mapping[str, Any]) -> bool:
        """Add a line of metrics.jsonl; False where the run has it already."""
        head = {"step": line["step"], "epoch": line["epoch"]}
        split = line["split"]
        values = {f"{split}/{name}": math.nan if v is None else v for name, v in line.items() if name not in PLAIN}
        if split == "val":
            self._tell_best(line)
        return self.send_row(key_of(line), head | values)

    def _tell_best(self, point: Mapping[str, Any]) -> None:
        """Keep the best value in the summary, by which W&B compares runs, also those that never end well."""
        value = point.get(self._monitor.metric)
        if self._monitor.is_better(value, self._best):
            self._best = value
            self.wandb.summary.update({f"best/{self._monitor.metric}": value, "best/epoch": point["epoch"]})

    def send_row(self, key: str, values: Mapping[str, Any]) -> bool:
        """Add a row, once for each key."""
        if key in self._sent:
            return False
        if self._note is not None:
            self._note.add(key)
        self._sent.add(key)
        self.wandb.log(dict(values), step=self._next)
        self._next += 1
        self.rows += 1
        return True

    def show(self, media: Media) -> None:
        """Add what there is to see of a run beside its curves: summary, confusions, examples, files."""
        import wandb

        self.wandb.summary.update(dict(media.summary))
        row: dict[str, Any] = {"shown/artifacts": len(media.artifacts)}  # a row by which it is known to be there
        for split, (names, cells) in media.confusions.items():
            table = wandb.Table(columns=["Actual", "Predicted", "nPredictions"], data=list(_cells(names, cells)))
            row[f"{split}/confusion"] = wandb.plot_table(
                "wandb/confusion_matrix/v1", table,
                {"Actual": "Actual", "Predicted": "Predicted", "nPredictions": "nPredictions"},
                {"title": f"{split}: confusion"},
            )  # fmt: skip
        if media.examples:
            columns: list[str | int] = ["image", *media.examples[0].values]
            shown = [[wandb.Image(one.image, caption=one.key), *one.values.values()] for one in media.examples]
            row[f"{media.split}/examples"] = wandb.Table(columns=columns, data=shown)
        self.send_row(f"shown {media.fingerprint}", row)
        self.show_pictures(media.pictures)
        for item in media.artifacts:
            name = re.sub(r"[^A-Za-z0-9_.-]+", "-", item.name)[:120]
            artifact = wandb.Artifact(name, type=item.type, metadata=dict(item.facts))
            for path in item.files:
                artifact.add_file(str(path), name=path.name)
            for path in item.references:
                artifact.add_reference(path.as_uri(), checksum=False)
            if item.is_input and not self.wandb.offline:  # W&B cannot say so offline
                self.wandb.use_artifact(artifact)
            else:
                self.wandb.log_artifact(artifact)

    def show_pictures(self, pictures: Mapping[str, Path]) -> None:
        """Add a row of image files, by name, once for each content."""
        import wandb

        if pictures:
            row = {f"report/{name}": wandb.Image(str(path)) for name, path in pictures.items()}
            self.send_row(pictures_key(pictures), row)

    def finish(self) -> None:
        """Wait until everything has arrived; the note says so."""
        self.wandb.finish()
        if self._note is not None:
            self._note.arrived(self._next)


def key_of(point: Mapping[str, Any]) -> str:
    """What tells a line of metrics.jsonl from the others."""
    return f"{point['split']} {point['step']} {point['epoch']}"


def pictures_key(pictures: Mapping[str, Path]) -> str:
    """What tells these pictures, by name, from others."""
    digest = hashlib.sha256()
    for name, path in sorted(pictures.items()):
        digest.update(f"{name} ".encode() + hashlib.sha256(path.read_bytes()).digest())
    return f"pictures {digest.hexdigest()[:16]}"


def _cells(names: Sequence[str], cells: Sequence[Sequence[int]]) -> Iterator[list[Any]]:
    for actual, row in zip(names, cells, strict=True):
        for predicted, count in zip(names, row, strict=True):
            yield [actual, predicted, int(count)]


@dataclass(frozen=True)
class SyncLine:
    """A line of `synced.jsonl`: a row that was sent to a server, or how many had arrived there."""

    target: str
    key: str | None = None
    arrived: int | None = None

    @classmethod
    def read(cls, path: Path) -> list[SyncLine]:
        """All lines, oldest first; a torn one, or one of another kind, is passed over."""
        found = []
        for line in read_lines(path):
            with contextlib.suppress(InputError):
                found.append(parse_dataclass(cls, line, path))
        return found


class SyncRecord:
    """`synced.jsonl`: which rows one W&B server was sent, in order; written before they are sent."""

    def __init__(self, path: Path, target: str) -> None:
        self._path, self._target = path, target

    def agree(self, rows: int, first: Sequence[str]) -> list[str]:
        """The keys of the `rows` rows that the server has; noted ones beyond did not arrive and are forgotten.

        What nobody noted are the `first` lines of the file.
        """
        lines = SyncLine.read(self._path)
        keys = [line.key for line in lines if line.target == self._target and line.key is not None]
        kept = keys[:rows] if len(keys) >= rows else [*keys, *first[len(keys) : rows]]
        if kept != keys:
            lines = [line for line in lines if line.target != self._target]
            lines += [SyncLine(self._target, key) for key in kept]
            told = ({name: value for name, value in vars(line).items() if value is not None} for line in lines)
            write_text(self._path, "".join(json.dumps(line) + "\n" for line in told))
        return kept

    def add(self, key: str) -> None:
        """One row is about to be sent."""
        self._append({"key": key})

    def arrived(self, rows: int) -> None:
        """The server has so many rows."""
        self._append({"arrived": rows})

    def _append(self, values: Mapping[str, Any]) -> None:
        with append(self._path) as file:
            file.write(json.dumps({"target": self._target, **values}) + "\n")


def require_key() -> None:
    """Refuse to sync without a key; it is read from the environment or the netrc file, and written nowhere.

    Raises:
        ConfigError: there is none for the server, it would be sent in clear, or `WANDB_MODE` forbids to send.
    """
    if allowed_mode("online") != "online":
        said = os.environ.get("WANDB_MODE", "")
        who = f"WANDB_MODE={said}" if _MODES[said.lower()] else "the mode in ~/.config/wandb/settings"
        raise ConfigError(f"{who} forbids to send anything; unset it, or use --to-folder DIR")
    named = os.environ.get("WANDB_BASE_URL")
    url = named or str(_client().setup().settings.base_url)
    require_safe_server(url)
    host = urlparse(url).hostname or ""
    path = expanded(os.environ.get("NETRC", "~/.netrc"))
    try:
        kept = netrc.netrc(path) if path.is_file() else None
    except (netrc.NetrcParseError, OSError):
        kept = None
    hosts = [host] if named else [host, "api.wandb.ai"]  # under which the client wrote it for years
    known = kept is not None and any(kept.authenticators(one) is not None for one in hosts)
    if not os.environ.get("WANDB_API_KEY") and not known:
        raise ConfigError(
            f"no key for W&B at {host}: set WANDB_API_KEY, or have it in {path}; --to-folder DIR needs none"
        )
