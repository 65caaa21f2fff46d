"""Another user of the machine goes for the ranks' start: real processes, and a real second user id."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import pickle
import socket
import threading
import time
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
LAUNCHES = 30
WORD = b"a value of the job's own"
TIMEOUT = timedelta(seconds=1.5)


class Bomb:
    """What unpickling runs as whoever unpickles."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.canary,)


def _rank(rank: int, folder: str, told: Any, barrier: Any, gone: Any) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    real = distributed._open_store
    for launch in range(LAUNCHES + 1):
        barrier.wait()
        if launch == LAUNCHES:
            gone.wait()
        if launch == LAUNCHES and rank == 1:  # a peer that gloo took, and that cannot answer
            distributed._open_store = lambda *words: (real(*words)[0], b"guessed")
        outcome = ""
        try:
            where = Path(folder) / "run" / f"attempt-{launch}.json"
            with init_process_group(World(rank, 2, rank, 2, 0, 1), where, timeout_s=TIMEOUT.total_seconds()) as group:
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


def _stranger(folder: str, canary: str, old: set[int], ready: Any, stop: Any, told: Any) -> None:
    "imported while that is allowed".encode("idna")
    os.setgroups([])
    os.setgid(STRANGER)
    os.setuid(STRANGER)
    torch.set_num_threads(1)
    known, joined, seen, bomb = set(old), [], [], pickle.dumps(Bomb(Path(canary)))

    def go_for(port: int) -> None:
        attack = port % 4  # a quarter each: read, overwrite with code, move values about, or be gloo's peer
        with contextlib.suppress(OSError, RuntimeError, dist.DistError):
            if attack == 3:
                peer = socket.create_connection(("127.0.0.1", port))
                peer.sendall(b"".join(number.to_bytes(8, "little") for number in range(4)) + bomb)
            store = dist.TCPStore("127.0.0.1", port, 2, is_master=False, timeout=timedelta(seconds=0.3))
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
        for port in _ports() - known:
            known.add(port)
            threading.Thread(target=go_for, args=(port,), daemon=True).start()  # gloo's ports never answer
    told.put((len(joined), list(seen)))
    told.close()
    told.join_thread()
    os._exit(0)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_stranger_can_stop_a_start_and_nothing_else(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    (tmp_path / "run").mkdir(mode=0o700)
    (tmp_path / "canaries").mkdir()
    canary = tmp_path / "canaries" / "ran"
    spawn = multiprocessing.get_context("spawn")
    told, heard, barrier = spawn.Queue(), spawn.Queue(), spawn.Barrier(2)
    ready, stop, gone = spawn.Event(), spawn.Event(), spawn.Event()
    stranger = spawn.Process(target=_stranger, args=(str(tmp_path), str(canary), _ports(), ready, stop, heard))
    ranks = [spawn.Process(target=_rank, args=(rank, str(tmp_path), told, barrier, gone)) for rank in range(2)]
    stranger.start()
    assert ready.wait(60)
    for process in ranks:
        process.start()
    outcomes = [told.get(timeout=120) for _ in range(2 * LAUNCHES)]
    stop.set()
    joined, seen = heard.get(timeout=30)
    stranger.join(30)
    gone.set()
    last = {rank: outcome for _, rank, outcome in (told.get(timeout=60) for _ in ranks)}[0]
    for process in ranks:
        process.join(30)
    assert joined >= LAUNCHES // 3, f"the stranger found {joined} of {LAUNCHES} stores"
    assert not canary.exists(), "code of the stranger ran"
    assert [outcome for outcome in outcomes if "FALSE" in outcome[2]] == []
    assert not any(WORD in value for value in seen), "a value was read"
    assert any(outcome[2] == "true" for outcome in outcomes)
    assert "does not know this run's secret" in last and "docs/security.md" in last
    assert "rank 1 of the control group is not who it says" in last


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
