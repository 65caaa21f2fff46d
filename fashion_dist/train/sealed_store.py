"""The store in which ranks meet, safe from whoever else can reach its port.

A TCPStore takes keys and values from anybody. Here a value is encrypted and authenticated under a secret that only the
job's owner can read, so that others can see keys, delete them or count them up, which stops a start, and nothing else.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import socket
from datetime import timedelta

from torch.distributed import Store, TCPStore  # type: ignore[attr-defined]

from fashion_dist.errors import RunError

_NONCE, _TAG = 16, 32


def listen(address: str, world_size: int, timeout: timedelta) -> TCPStore:
    """Serve a store on a free port of `address` alone; without `master_listen_fd` it would be on every interface.

    Raises:
        RunError: this machine has no such address.
    """
    try:
        listening = socket.create_server((address, 0))
    except OSError as error:
        raise RunError(f"rank 0 cannot listen on {address}: {error}") from None
    port = listening.getsockname()[1]
    return TCPStore(
        address, port, world_size, is_master=True, timeout=timeout, wait_for_workers=False,
        master_listen_fd=listening.detach(),
    )  # fmt: skip


class SealedStore(Store):
    """A TCPStore whose values need the secret to be made, changed, moved to another key, or read.

    Counters (`add`) are the server's own and stay open: they order a barrier and carry no value.

    Args:
        store: where the sealed values are.
        secret: 32 random bytes, of one start of the job; values of another start do not open.
    """

    def __init__(self, store: Store, secret: bytes) -> None:
        super().__init__()
        self._store, self._secret = store, secret
        self._cipher, self._mac = (hmac.digest(secret, use, "sha256") for use in (b"encrypt", b"authenticate"))
        self.forged = ""
        """The first key whose value was not made with the secret."""

    def _apply(self, nonce: bytes, data: bytes) -> bytes:
        stream = hashlib.shake_256(self._cipher + nonce).digest(len(data))
        return (int.from_bytes(data, "little") ^ int.from_bytes(stream, "little")).to_bytes(len(data), "little")

    def _tag(self, key: str, nonce: bytes, sealed: bytes) -> bytes:
        name = key.encode()
        return hmac.digest(self._mac, len(name).to_bytes(8, "little") + name + nonce + sealed, "sha256")

    def set(self, key: str, value: str | bytes) -> None:
        """Put a value there for all who have the secret."""
        nonce = secrets.token_bytes(_NONCE)
        sealed = self._apply(nonce, value.encode() if isinstance(value, str) else bytes(value))
        self._store.set(key, nonce + sealed + self._tag(key, nonce, sealed))  # type: ignore[arg-type]

    def get(self, key: str) -> bytes:
        """Wait for a value.

        Raises:
            RunError: it was not made with the secret.
        """
        found = self._store.get(key)
        nonce, sealed, tag = found[:_NONCE], found[_NONCE:-_TAG], found[-_TAG:]
        if len(found) < _NONCE + _TAG or not hmac.compare_digest(tag, self._tag(key, nonce, sealed)):
            self.forged = self.forged or key
            raise RunError(f"the store's value of {key!r} was not made with the run's secret")
        return self._apply(nonce, sealed)

    def clone(self) -> Store:
        """A connection of its own, for another thread."""
        return SealedStore(self._store.clone(), self._secret)

    def add(self, key: str, value: int) -> int:
        """Count up; returns the new count, which is not authenticated."""
        return self._store.add(key, value)

    def check(self, keys: list[str]) -> bool:
        """Whether all keys are there; says nothing of their values."""
        return self._store.check(keys)

    def wait(self, keys: list[str], timeout: timedelta | None = None) -> None:
        """Wait until all keys are there; says nothing of their values."""
        self._store.wait(keys, timeout) if timeout is not None else self._store.wait(keys)

    def delete_key(self, key: str) -> bool:
        """Remove a key."""
        return self._store.delete_key(key)

    def num_keys(self) -> int:
        """How many keys there are."""
        return self._store.num_keys()

    deleteKey, getNumKeys = delete_key, num_keys  # noqa: N815 - the names under which C++ calls them
