"""Another user of the machine goes for the ranks' start: real processes, and a real second user id."""

from __future__ import annotations

import contextlib
import ctypes
import json
import multiprocessing
import os
import pickle
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist  # noqa: TID251

from fashion_dist.errors import RunError
from fashion_dist.train import distributed
from fashion_dist.train.distributed import World, init_process_group, pack_arrays, unpack_arrays
from fashion_dist.train.sealed_store import SealedStore, listen

STRANGER = 65534
CLONE_NEWNET = 0x40000000
WORD = b"a value of the job's own"
TIMEOUT = timedelta(seconds=1.5)


class Bomb:
    """What unpickling runs as whoever unpickles."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.canary,)


@dataclass(frozen=True)
class Node:
    """Where a rank is: a network namespace (none is this one), its interface and the address there."""

    namespace: str = ""
    interface: str = "lo"
    address: str = "127.0.0.1"

    def enter(self) -> None:
        """Move this process there."""
        if self.namespace:
            with Path("/run/netns", self.namespace).open() as file:
                assert ctypes.CDLL(None, use_errno=True).setns(file.fileno(), CLONE_NEWNET) == 0, ctypes.get_errno()


def _rank(rank: int, nodes: tuple[Node, ...], launches: int, folder: str, told: Any, barrier: Any, gone: Any) -> None:
    one = len(nodes) == 1
    node = nodes[0 if one else rank]
    node.enter()
    world = World(rank, 2, rank, 2, 0, 1) if one else World(rank, 2, 0, 1, rank, 2)
    os.environ["GLOO_SOCKET_IFNAME"] = node.interface
    real = distributed._open_store
    for launch in range(launches + 1):
        barrier.wait()
        if launch == launches:
            gone.wait()
        if launch == launches and rank == 1:  # a peer that gloo took, and that cannot answer
            distributed._open_store = lambda *words: (real(*words)[0], b"guessed")
        outcome = ""
        try:
            where = Path(folder) / "run" / f"attempt-{launch}.json"
            with init_process_group(world, where, node.address, TIMEOUT.total_seconds()) as group:
                if rank == 0:
                    dist.distributed_c10d._get_default_store().set("word", WORD)
                said = group.gather({"rank": rank})
                arrays = group.gather_arrays({"index": np.full(3 + rank, rank)})
                true = said == [{"rank": 0}, {"rank": 1}] and [a["index"].tolist() for a in arrays] == [
                    [0] * 3,
                    [1] * 4,
                ]
                outcome = "true" if true else f"FALSE VALUE {said} {arrays}"
                time.sleep(0.05)
                group.barrier()
        except RunError as error:
            outcome = str(error)
        except Exception as error:
            outcome = f"died: {error}"
        if dist.is_initialized():
            dist.destroy_process_group()
        dist.distributed_c10d._world.group_count = 0  # a job of its own would begin anew
        told.put((launch, rank, outcome))


def _ports() -> set[int]:
    """Where root listens on this machine; every user may ask."""
    found = set()
    for line in (Path("/proc/net/tcp").read_text() + Path("/proc/net/tcp6").read_text()).splitlines():
        words = line.split()
        if len(words) > 7 and words[3] == "0A" and words[7] == "0":
            found.add(int(words[1].rpartition(":")[2], 16))
    return found


def _stranger(node: Node, folder: str, canary: str, notes: Path, ready: Any, stop: Any, told: Any) -> None:
    "imported while that is allowed".encode("idna")
    node.enter()
    known = {(node.address, port) for port in _ports()}
    os.setgroups([])
    os.setgid(STRANGER)
    os.setuid(STRANGER)
    torch.set_num_threads(1)
    joined, seen, bomb = [], [], pickle.dumps(Bomb(Path(canary)))

    def go_for(address: str, port: int) -> None:
        attack = port % 4  # a quarter each: read, overwrite with code, move values about, or be gloo's peer
        with contextlib.suppress(OSError, RuntimeError, dist.DistError):
            if attack == 3:
                peer = socket.create_connection((address, port))
                peer.sendall(b"".join(number.to_bytes(8, "little") for number in range(4)) + bomb)
            store = dist.TCPStore(address, port, 2, is_master=False, timeout=timedelta(seconds=0.3))
            store.list_keys()
            joined.append(port)
            until = time.monotonic() + 0.5
            while time.monotonic() < until:
                for key in store.list_keys():
                    if store.check([key]):
                        seen.append(store.get(key))
                    if attack in (1, 2):
                        store.set(key, bomb if attack == 1 else seen[0])  # type: ignore[arg-type]

    with contextlib.suppress(OSError):
        seen.append(b"".join(path.read_bytes() for path in (Path(folder) / "run").iterdir()))
        raise AssertionError("the run folder can be read")
    ready.set()
    while not stop.is_set():
        here = {(node.address, port) for port in _ports()} - known
        with notes.open("a") as file:  # for the strangers on other nodes, who see no ports of this one
            file.writelines(f"{address} {port}\n" for address, port in here)
        told_ports = {(address, int(port)) for address, port in map(str.split, notes.read_text().splitlines())}
        for address, port in (here | told_ports) - known:
            known.add((address, port))
            threading.Thread(target=go_for, args=(address, port), daemon=True).start()  # gloo's ports never answer
    told.put((len(joined), list(seen)))
    told.close()
    told.join_thread()
    os._exit(0)


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


@contextlib.contextmanager
def namespaces(count: int) -> Iterator[list[str]]:
    """Network namespaces of this test's own: strangers go for every port that they see, of other tests' runs, too."""
    names = [f"stranger{os.getpid()}{end}" for end in "ab"[:count]]
    try:
        for name in names:
            ip("netns", "add", name)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no network namespaces here")
    try:
        for name in names:
            ip("-n", name, "link", "set", "lo", "up")
        yield names
    finally:
        for name in names:
            ip("netns", "delete", name)


@pytest.fixture
def one_node() -> Iterator[tuple[Node, ...]]:
    with namespaces(1) as names:
        yield (Node(names[0]),)


@pytest.fixture
def two_nodes() -> Iterator[tuple[Node, ...]]:
    """Joined by a cable."""
    with namespaces(2) as names:
        nodes = tuple(Node(name, f"cable{end}", f"10.99.77.{end + 1}") for end, name in enumerate(names))
        here = ["link", "add", "cable0", "netns", names[0]]
        ip(*here, "type", "veth", "peer", "name", "cable1", "netns", names[1])
        for node in nodes:
            ip("-n", node.namespace, "address", "add", f"{node.address}/24", "dev", node.interface)
            ip("-n", node.namespace, "link", "set", node.interface, "up")
        yield nodes


def attack(folder: Path, nodes: tuple[Node, ...], launches: int) -> None:
    """Launches two ranks that often, on one node or one on each, with a stranger on every node, and once more with a
    peer that cannot prove itself."""
    folder.chmod(0o755)
    (folder / "run").mkdir(mode=0o700)
    (folder / "canaries").mkdir()
    notes = Path(tempfile.mkdtemp()) / "ports"  # pytest's own folders are closed to other users
    notes.parent.chmod(0o755)
    notes.touch()
    notes.chmod(0o666)
    canary = folder / "canaries" / "ran"
    spawn = multiprocessing.get_context("spawn")
    told, heard, barrier = spawn.Queue(), spawn.Queue(), spawn.Barrier(2)
    stop, gone = spawn.Event(), spawn.Event()
    ready = [spawn.Event() for _ in nodes]
    strangers = [
        spawn.Process(target=_stranger, args=(node, str(folder), str(canary), notes, event, stop, heard))
        for node, event in zip(nodes, ready, strict=True)
    ]
    ranks = [
        spawn.Process(target=_rank, args=(rank, nodes, launches, str(folder), told, barrier, gone)) for rank in range(2)
    ]
    for process in strangers:
        process.start()
    assert all(event.wait(60) for event in ready)
    for process in ranks:
        process.start()
    outcomes = [told.get(timeout=120) for _ in range(2 * launches)]
    stop.set()
    heard_of = [heard.get(timeout=30) for _ in strangers]
    joined, seen = sum(count for count, _ in heard_of), [value for _, values in heard_of for value in values]
    gone.set()
    last = {rank: outcome for _, rank, outcome in (told.get(timeout=60) for _ in ranks)}[0]
    for process in (*strangers, *ranks):
        process.join(30)
    shutil.rmtree(notes.parent)
    assert joined >= launches // 3, f"the strangers found {joined} of {launches} stores"
    assert not canary.exists(), "code of the stranger ran"
    assert [outcome for outcome in outcomes if "FALSE" in outcome[2]] == []
    assert not any(WORD in value for value in seen), "a value was read"
    assert launches < 30 or any(outcome[2] == "true" for outcome in outcomes)
    print(joined, Counter(outcome[2][8:60] for outcome in outcomes))
    assert "does not know this run's secret" in last and "docs/security.md" in last
    assert "rank 1 of the control group is not who it says" in last


LAUNCHES = pytest.mark.parametrize("launches", [3, pytest.param(30, marks=pytest.mark.slow)])
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


@needs_root
@LAUNCHES
def test_a_stranger_can_stop_a_start_and_nothing_else(
    launches: int, one_node: tuple[Node, ...], tmp_path: Path
) -> None:
    attack(tmp_path, one_node, launches)


@needs_root
@LAUNCHES
def test_strangers_on_both_of_two_nodes_can_do_no_more(
    launches: int, two_nodes: tuple[Node, ...], tmp_path: Path
) -> None:
    attack(tmp_path, two_nodes, launches)


def test_a_sealed_value_cannot_be_made_changed_moved_or_read() -> None:
    server = listen("127.0.0.1", 1, TIMEOUT)
    open_store = dist.TCPStore("127.0.0.1", server.port, 1, is_master=False, timeout=TIMEOUT)
    sealed, other = SealedStore(server, b"s" * 32), SealedStore(open_store, b"t" * 32)
    for value in (b"", b"x", WORD * 1000):
        sealed.set("key", value)
        assert sealed.get("key") == value and sealed.clone().get("key") == value
        assert not value[1:] or value not in open_store.get("key")
    raw = open_store.get("key")
    dist.PrefixStore("a", sealed).set("moved", WORD)
    for forged in (b"", b"short", WORD * 9, raw[:-1], raw[:20] + bytes([raw[20] ^ 1]) + raw[21:]):
        open_store.set("key", forged)  # type: ignore[arg-type]
        with pytest.raises(RunError, match="not made with the run's secret"):
            sealed.get("key")
    open_store.set("key", open_store.get("a/moved"))  # type: ignore[arg-type]
    with pytest.raises(RunError, match="'key' was not made"):
        sealed.get("key")
    with pytest.raises(RunError, match="not made with the run's secret"):
        other.get("a/moved")
    assert dist.PrefixStore("a", sealed).get("moved") == WORD
    assert (sealed.forged, other.forged) == ("key", "a/moved")


def test_the_store_of_one_node_is_on_loopback_alone() -> None:
    server = listen("127.0.0.1", 1, TIMEOUT)
    listening = [
        line.split()[1]
        for name in ("tcp", "tcp6")
        for line in Path(f"/proc/net/{name}").read_text().splitlines()
        if line.split()[1].endswith(f":{server.port:04X}") and line.split()[3] == "0A"
    ]
    assert listening == [f"0100007F:{server.port:04X}"]
    with pytest.raises(RunError, match=r"rank 0 cannot listen on 192\.0\.2\.77"):
        listen("192.0.2.77", 1, TIMEOUT)


def test_nccl_is_given_the_sealed_store_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """NCCL's id, which names its port, travels through the store; without a card, what is handed to torch is seen."""
    given: dict[str, Any] = {}

    def joined(backend: str, **words: Any) -> None:
        given.update(words, backend=backend)
        words["store"].set("id", WORD)
        assert words["store"].get("id") == WORD and WORD not in words["store"]._store.get("id")
        raise dist.DistError("no card")

    monkeypatch.setattr(dist, "init_process_group", joined)
    monkeypatch.setattr(torch.cuda, "set_device", lambda _device: None)
    monkeypatch.setattr(World, "device", lambda _world: torch.device("cuda", 0))
    with pytest.raises(RunError, match="could not join"), init_process_group(World(0, 2, 0, 1, 0, 2), tmp_path / "a"):
        pass
    assert given["backend"] == "nccl" and type(given["store"]) is SealedStore


def test_arrays_travel_without_pickle() -> None:
    arrays = {"a": np.arange(12.0).reshape(3, 4)[:, ::2], "b": np.array(["x", "yé"]), "c": np.zeros((0, 7), "int8")}
    back = unpack_arrays(pack_arrays(arrays))
    assert {name: (a.dtype, a.tolist()) for name, a in back.items()} == {
        n: (a.dtype, a.tolist()) for n, a in arrays.items()
    }
    assert unpack_arrays(pack_arrays({})) == {}
    with pytest.raises(AssertionError, match="arrays of objects"):
        pack_arrays({"a": np.array([object()])})
    bad = json.dumps([["a", "|O", [1]]]).encode()
    with pytest.raises(ValueError, match="OBJECT"):
        unpack_arrays(len(bad).to_bytes(8, "little") + bad + bytes(8))
