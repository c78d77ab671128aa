"""The vault's audit: a file of entries that are only appended, each with the hash of the one before and a seal.

Who changes an entry breaks its hash; who recomputes the hashes breaks the seals, which need the vault's own key; who
drops the newest entries leaves the mark behind that the sealed body of the vault keeps of them (`vault.Mark`), and, who
takes back the vault too, the hashes that the event log keeps (`messages/keys.py`). An entry is written before what it
is about is done, so a crash may leave one more entry than the vault knows of, never one less.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import time
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from understudy.actors.host.vault import Mark, Vault, locked, read_public
from understudy.actors.host.vault_root import VaultError

TAIL_BYTES = 16_384


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What was done with a key. `actor`: who (`runner-lab`, `operator:name`); `purpose`: what for."""

    n: int
    at_ms: int
    actor: str
    purpose: str
    name: str
    key_id: str
    outcome: str
    prev: str
    was: str = ""  # the key that was replaced
    hash: str = ""
    seal: str = ""


class Finding(NamedTuple):
    """Something that is wrong with the audit, and at which entry."""

    n: int
    what: str


class Anchor(NamedTuple):
    """What another place knows of an entry."""

    n: int
    hash: str
    where: str


def audit_path(vault: Path) -> Path:
    """Beside the vault."""
    return vault.with_name(vault.name + ".audit")


@contextlib.contextmanager
def opened(path: Path, root: bytes) -> Generator[Book]:
    """The vault and its audit for one writer, together. Raises VaultError."""
    with locked(path):
        yield Book(Vault.open(path, root))


class Book:
    """A vault whose every change and use is written down first."""

    def __init__(self, vault: Vault) -> None:
        self.vault, self.path = vault, audit_path(vault.path)
        self._key = vault.audit_key()

    def write(self, actor: str, purpose: str, name: str, key_id: str, outcome: str = "ok", was: str = "") -> Entry:
        """Append an entry, then save the vault with its mark. Raises VaultError."""
        _set_torn_tail_aside(self.path)
        before = self._before()
        now = int(time.time() * 1000)
        entry = Entry(before.n + 1, now, actor, purpose, name, key_id, outcome, before.hash, was)
        entry = msgspec.structs.replace(entry, hash=hash_of(entry))
        entry = msgspec.structs.replace(entry, seal=_seal(self._key, entry))
        _append(self.path, msgspec.json.encode(entry) + b"\n")
        self.vault.save(Mark(entry.n, entry.hash))
        return entry

    def _before(self) -> Mark:
        """What the next entry follows: the vault's mark, so that entries which are gone stay missed; or what was
        written after it, by one who then was stopped."""
        mark, last = self.vault.body.mark, _last(self.path)
        ahead = last is not None and last.n > mark.n and hmac.compare_digest(last.seal, _seal(self._key, last))
        return Mark(last.n, last.hash) if ahead and last is not None else mark

    def verify(self, anchors: Sequence[Anchor] = ()) -> tuple[int, list[Finding]]:
        """How many entries there are, and what is wrong with them. The vault's own mark is always looked at."""
        mark = self.vault.body.mark
        lines = _lines(self.path)
        return len(lines), verify(lines, self._key, [Anchor(mark.n, mark.hash, "the vault"), *anchors])


def verify(lines: Sequence[bytes], key: bytes, anchors: Sequence[Anchor]) -> list[Finding]:
    """Walk the chain. Pure. The first finding names where the file was touched; later ones may follow from it."""
    found: list[Finding] = []
    hashes = {0: Mark().hash}
    expected, prev = 1, Mark().hash
    for line in lines:
        try:
            entry = msgspec.json.decode(line, type=Entry)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            found.append(Finding(expected, "cannot be read"))
            expected, prev = expected + 1, ""
            continue
        if entry.n != expected:
            found.append(Finding(expected, f"is not there; entry {entry.n} stands in its place (dropped or reordered)"))
        elif prev and entry.prev != prev:
            found.append(Finding(entry.n, "does not follow the entry before it (one of the two was rewritten)"))
        if entry.hash != hash_of(entry):
            found.append(Finding(entry.n, "was changed: its hash is another"))
        elif not hmac.compare_digest(entry.seal, _seal(key, entry)):
            found.append(Finding(entry.n, "was rewritten: its hash fits, its seal does not"))
        hashes[entry.n] = entry.hash
        expected, prev = entry.n + 1, entry.hash
    for anchor in anchors:
        if anchor.n not in hashes:
            found.append(Finding(anchor.n, f"was dropped: {anchor.where} knows of it"))
        elif hashes[anchor.n] != anchor.hash:
            found.append(Finding(anchor.n, f"is not the one that {anchor.where} knows"))
    return list(dict.fromkeys(found))


def hash_of(entry: Entry) -> str:
    """Over all of an entry but its own hash and seal, the hash of the one before included."""
    bare = msgspec.structs.replace(entry, hash="", seal="")
    return hashlib.sha256(msgspec.json.encode(bare)).hexdigest()


def entries(vault: Path) -> list[Entry]:
    """All that can be read, unproven. Needs no root key."""
    found: list[Entry] = []
    for line in _lines(audit_path(vault)):
        with contextlib.suppress(msgspec.MsgspecError, UnicodeDecodeError):
            found.append(msgspec.json.decode(line, type=Entry))
    return found


def mark_of(vault: Path) -> Mark:
    """Where the vault says that its audit stands, unproven."""
    return read_public(vault).mark


def _seal(key: bytes, entry: Entry) -> str:
    return hmac.digest(key, entry.hash.encode(), hashlib.sha256).hex()


def _lines(path: Path) -> list[bytes]:
    try:
        return [line for line in path.read_bytes().split(b"\n") if line]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise VaultError("unreadable", f"the audit {path} cannot be read: {error.strerror}") from None


def _last(path: Path) -> Entry | None:
    """The newest entry, where it can be read."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - TAIL_BYTES))
            tail = file.read().rstrip(b"\n").rpartition(b"\n")[2]
        return msgspec.json.decode(tail, type=Entry)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return None


def _append(path: Path, line: bytes) -> None:
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "wb", buffering=0) as file:
            file.write(line)
            os.fsync(file.fileno())
    except OSError as error:
        raise VaultError("unwritable", f"the audit {path} cannot be written: {error.strerror}") from None


def _set_torn_tail_aside(path: Path) -> None:
    """Half an entry that a crash left was about nothing that was done. It is kept in a file of its own."""
    if not path.exists() or _ends_well(path):
        return
    whole, _, torn = path.read_bytes().rpartition(b"\n")
    _append(path.with_name(path.name + ".torn"), torn + b"\n")
    with path.open("r+b") as file:
        file.truncate(len(whole) + 1 if whole else 0)
        os.fsync(file.fileno())


def _ends_well(path: Path) -> bool:
    with path.open("rb") as file:
        if not file.seek(0, os.SEEK_END):
            return True
        file.seek(-1, os.SEEK_END)
        return file.read() == b"\n"
