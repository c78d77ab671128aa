"""Snapshots of folded state: a short cut at a cold start, never a second truth. Whatever does not match is not used.

One file per actor, whoever of its instances wrote it last: all of them fold the same log to the same state. Its first
line is the sha256 of the rest.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from understudy import actors, messages
from understudy.actors.host.core_port import Core
from understudy.actors.host.log_sync import Blocks, sync_folder
from understudy.bus.port import StreamState

FORMAT = 1


class Unusable(Exception):
    """Why a snapshot cannot be used; the log is folded from its start instead."""


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """A fold at a position. `code` stands for everything that the fold depends on beside the log."""

    format: int
    actor: str
    code: str
    stream: str
    created: str
    seq: int
    fold: msgspec.Raw


class Snapshots:
    """The snapshot file of one actor; `instance` keeps those apart who write at the same time."""

    def __init__(
        self, folder: Path, core: Core, actor: str, instance: str, settings: Any, log: Blocks | None = None
    ) -> None:
        """`log` is synced before each file: no fold may outlive the events that it was made of."""
        self.path = folder / f"{actor}.snapshot"
        self._draft, self._one_writer = folder / f"{instance}.draft", threading.Lock()
        self._core, self._actor, self._code = core, actor, code_hash(actor, settings)
        self._log = log

    def encode(self, state: Any, stream: str, created: str, seq: int) -> bytes:
        """The file's content for this state, which must be the fold up to `seq` and nothing else."""
        fold = msgspec.Raw(msgspec.json.encode(self._core.fold_state(state)))
        body = msgspec.json.encode(
            Snapshot(
                format=FORMAT, actor=self._actor, code=self._code, stream=stream, created=created, seq=seq, fold=fold
            )
        )
        return hashlib.sha256(body).hexdigest().encode() + b"\n" + body

    def write(self, content: bytes) -> None:
        """Replace the file in one step, durably: a crash leaves the old one or the new one. Blocks; raises OSError."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self._one_writer:  # the one at the stop waits for the one under way
            if self._log is not None:
                self._log.sync()
            with self._draft.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            self._draft.replace(self.path)
        sync_folder(self.path.parent)

    def load(self, stream: str, now: StreamState) -> tuple[int, Any] | None:
        """Position and fold; None when there is no snapshot. Raises Unusable, which says what does not match."""
        with contextlib.suppress(FileNotFoundError):
            found = _read(self.path)
            wanted = {"format": FORMAT, "actor": self._actor, "code": self._code}
            wanted |= {"stream": stream, "created": now.created}
            for name, value in wanted.items():
                if getattr(found, name) != value:
                    raise Unusable(f"other {name}: {getattr(found, name)!s:.40}, now {value!s:.40}")
            if found.seq > now.last_seq:
                raise Unusable(f"at {found.seq}, but the log ends at {now.last_seq}: it lost events")
            if found.seq + 1 < now.first_seq:
                raise Unusable(f"at {found.seq}, but the log begins at {now.first_seq}: what lies between is gone")
            try:
                return found.seq, msgspec.json.decode(found.fold, type=self._core.Fold)
            except msgspec.MsgspecError as error:
                raise Unusable(f"fold: {error}") from None
        return None


def _read(path: Path) -> Snapshot:
    try:
        digest, _, body = path.read_bytes().partition(b"\n")
    except FileNotFoundError:
        raise
    except OSError as error:
        raise Unusable(f"cannot be read: {error.strerror}") from None
    if hashlib.sha256(body).hexdigest().encode() != digest:
        raise Unusable("damaged: its sha256 does not match")
    try:
        return msgspec.json.decode(body, type=Snapshot)
    except msgspec.MsgspecError as error:
        raise Unusable(f"form: {error}") from None


def code_hash(actor: str, settings: Any) -> str:
    """A hash of all that decides how a log is folded: the actor's source, the messages' source, the settings.

    Whole folders rather than a list of modules: folding once too often costs a minute, a stale fold costs the truth.
    """
    return _hash_of([Path(actors.__path__[0]) / actor, Path(messages.__path__[0])], msgspec.json.encode(settings))


def _hash_of(folders: Sequence[Path], more: bytes) -> str:
    digest = hashlib.sha256()
    for folder in folders:
        for path in sorted(folder.rglob("*.py")):
            digest.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    digest.update(more)
    return digest.hexdigest()[:32]
