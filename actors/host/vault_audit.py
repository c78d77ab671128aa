"""The vault's audit: a file of entries that are only appended, each with the hash of the one before and a seal.

Who changes an entry breaks its hash; who recomputes the hashes breaks the seals, which need the vault's own key; who
drops the newest entries leaves the mark behind that the sealed body of the vault keeps of them (`vault.Mark`), and, who
takes back the vault too, the hashes that the event log keeps (`messages/keys.py`). An entry is written before what it
is about is done, so a crash may leave one more entry than the vault knows of, never one less: the next writer says
of it that it was not done.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import itertools
import os
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from understudy.actors.host.vault import Mark, Vault, locked, open_own
from understudy.actors.host.vault_root import VaultError

TAIL_BYTES = 16_384
DAY_MS = 86_400_000
NOT_DONE = "not_done"
"""Purpose of an entry that says: those from number `outcome` up to this one were written, and then not done."""


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

    def __init__(self, vault: Vault, now_s: Callable[[], float] = time.time) -> None:
        """`now_s`: seconds since 1970."""
        self.vault, self.path = vault, audit_path(vault.path)
        self._key, self._now_s = vault.audit_key(), now_s

    def write(self, actor: str, purpose: str, name: str, key_id: str, outcome: str = "ok", was: str = "") -> Entry:
        """Append an entry, then save the vault with its mark. Raises VaultError."""
        _set_torn_tail_aside(self.path)
        before = self._before(actor)
        entry = self._append(before, actor, purpose, name, key_id, outcome, was)
        self.vault.save(Mark(entry.n, entry.hash))
        return entry

    def use(self, actor: str, purpose: str, name: str, key_id: str) -> None:
        """A key is handed out: written down once a UTC day for each actor, purpose and key, as processes start again
        and again, and the audit is kept for ever.

        Where it does not end as the vault knows it, always: what follows there tells of that. Raises VaultError.
        """
        last, wanted = _last(self.path), (actor, purpose, name, key_id, "ok")
        known = last is not None and self._is_ours(last) and Mark(last.n, last.hash) == self.vault.body.mark
        if not known or all(wanted != (e.actor, e.purpose, e.name, e.key_id, e.outcome) for e in self._todays()):
            self.write(*wanted)

    def _todays(self) -> list[Entry]:
        """Those that end the audit, are of this day, and were done."""
        found: list[Entry] = []
        today = int(self._now_s() * 1000) // DAY_MS
        for entry in map(_read, reversed(_lines(self.path))):
            if entry is None or not self._is_ours(entry) or entry.at_ms // DAY_MS != today:
                break
            found.append(entry)
        return _done(found)

    def _append(
        self, before: Mark, actor: str, purpose: str, name: str, key_id: str, outcome: str, was: str = ""
    ) -> Entry:
        now = int(self._now_s() * 1000)
        entry = Entry(before.n + 1, now, actor, purpose, name, key_id, outcome, before.hash, was)
        entry = msgspec.structs.replace(entry, hash=hash_of(entry))
        entry = msgspec.structs.replace(entry, seal=_seal(self._key, entry))
        _append(self.path, msgspec.json.encode(entry) + b"\n")
        return entry

    def _before(self, actor: str) -> Mark:
        """What the next entry follows: the vault's mark, so that entries which are gone stay missed; or what was
        written after it, by one who then was stopped, and an entry that tells so."""
        mark, last = self.vault.body.mark, _last(self.path)
        if last is None or last.n <= mark.n or not self._is_ours(last):
            return mark
        told = self._append(Mark(last.n, last.hash), actor, NOT_DONE, "", "", str(mark.n + 1))
        return Mark(told.n, told.hash)

    def proven(self) -> list[Entry]:
        """Entries that this vault sealed and that were done: none ahead of its mark, none said to be not done."""
        sealed = [e for e in entries(self.vault.path) if self._is_ours(e)]
        return [e for e in _done(sealed) if e.n <= self.vault.body.mark.n]

    def _is_ours(self, entry: Entry) -> bool:
        return entry.hash == hash_of(entry) and _same(entry.seal, _seal(self._key, entry))

    def verify(self, anchors: Sequence[Anchor] = ()) -> tuple[int, list[Finding]]:
        """How many entries there are, and what is wrong with them. The vault's own mark is always looked at.

        An anchor of the log was done when it was told: where the vault takes it for not done, the vault is an old one.
        """
        mark = self.vault.body.mark
        lines = _lines(self.path)
        found = verify(lines, self._key, [Anchor(mark.n, mark.hash, "the vault"), *anchors])
        there, done = {e.hash for e in entries(self.vault.path)}, {e.hash for e in self.proven()}
        back = "was taken back: {} knows that it was done, and the vault is from before it"
        found += [Finding(a.n, back.format(a.where)) for a in anchors if a.hash in there and a.hash not in done]
        return len(lines), list(dict.fromkeys(found))


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
        elif not _same(entry.seal, _seal(key, entry)):
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
    return [entry for entry in map(_read, _lines(audit_path(vault))) if entry is not None]


def _read(line: bytes) -> Entry | None:
    try:
        return msgspec.json.decode(line, type=Entry)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None


def _done(sealed: Iterable[Entry]) -> list[Entry]:
    """Without those of which a later one says that they were not done."""
    found = list(sealed)
    undone = {n for e in found if e.purpose == NOT_DONE for n in range(int(e.outcome), e.n)}
    return [e for e in found if e.n not in undone]


def set_aside(vault: Path) -> list[str]:
    """An audit whose vault is not there (never finished, or taken away) begins no other's. It is kept; says so."""
    audit = audit_path(vault)
    if not audit.exists():
        return []
    kept = next(p for n in itertools.count(1) if not (p := audit.with_name(f"{audit.name}.before-{n}")).exists())
    try:
        audit.rename(kept)
    except OSError as error:
        raise VaultError("unwritable", f"the folder of {vault} cannot be written: {error.strerror}") from None
    return [f"an audit without its vault was there; it is kept as {kept}"]


def _seal(key: bytes, entry: Entry) -> str:
    return hmac.digest(key, entry.hash.encode(), hashlib.sha256).hex()


def _same(one: str, other: str) -> bool:
    return hmac.compare_digest(one.encode(), other.encode())


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
        with os.fdopen(open_own(path, os.O_WRONLY | os.O_APPEND), "wb", buffering=0) as file:
            before = file.seek(0, os.SEEK_END)
            try:
                while line:  # a disk that fills up, or a limit, takes a part and says how much
                    line = line[file.write(line) :]
                os.fsync(file.fileno())
            except OSError:
                with contextlib.suppress(OSError):
                    file.truncate(before)
                raise
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
