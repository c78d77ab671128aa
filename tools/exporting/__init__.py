"""The log, or what is wanted of it, in a file that can be gone on with: each event once, in order, none lost.

What is written goes to the disk in parts, and after each the manifest is replaced, which says up to where that holds.
Who begins again, after a kill or a week later, cuts off what the manifest does not know and goes on behind it. Another
log, another query, a file that somebody else has changed are refused: they would make a hole that nobody sees.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Protocol

import msgspec

from understudy.actors.host.log_sync import sync_folder
from understudy.bus.client import Client
from understudy.bus.log_query import LogQuery, Span, matching
from understudy.bus.port import Received, StreamState
from understudy.bus.subjects import evt_stream
from understudy.tools.common import Refused

PART_ROWS, PART_BYTES = 50_000, 64_000_000
"""A part is written when it has so many rows, or payloads of so many bytes."""
TELL_S = 2.0
KEPT = "and stays as it is: nothing that may have a hole was added."

FORMATS = ("jsonl", "csv", "parquet")


class Manifest(msgspec.Struct, kw_only=True):
    """How far an export is. `created` tells its log from any other; `asked` is the query as it was said, so that ages
    (`10m`) count from when the export was begun; `parts` and `bytes`: of the file, as far as they are valid."""

    format: str
    stream: str
    created: str
    asked: dict[str, str | list[str]]
    query: LogQuery
    through_seq: int = 0
    rows: int = 0
    parts: int = 0
    bytes: int = 0


class Writer(Protocol):
    """Where the rows go."""

    def open(self, manifest: Manifest) -> None:
        """Drop what the manifest does not know. Raises Refused where something is missing that it knows."""
        ...

    def append(self, rows: list[Received], manifest: Manifest) -> None:
        """Write a part to the disk and count it in the manifest, which is saved by whoever called."""
        ...

    def handle(self) -> int:
        """An open file that is the export for as long as it is written: it is locked."""
        ...

    def close(self) -> None: ...


class Done(msgspec.Struct, frozen=True, kw_only=True):
    """What was exported: `new_rows` of the `rows` this time."""

    out: str
    format: str
    rows: int
    new_rows: int
    through_seq: int
    s: float


Tell = Callable[[str], None]


async def export(client: Client, out: Path, manifest_at: Path, writer: Writer, wanted: Manifest, tell: Tell) -> Done:
    """Begin, or go on. Raises Refused, OSError, BusError; what was written until then stays and is gone on with."""
    began = time.monotonic()
    await client.span(wanted.query)  # who may not read the log is told so at once
    await _begun(client, manifest_at, out, wanted)  # who is refused leaves nothing behind
    with _locked(writer, manifest_at):
        manifest, state = await _begun(client, manifest_at, out, wanted)  # somebody may have written it until just now
        span = await client.span(manifest.query)
        save(manifest, manifest_at)  # first: from here on what lies there is an export
        writer.open(manifest)
        before = manifest.rows
        after = max(span.after_seq, manifest.through_seq)
        job = _Job(writer, manifest, manifest_at, tell, Span(after, span.upto_seq), state)
        await job.run(client)
    took_s = round(time.monotonic() - began, 3)
    done = {"rows": manifest.rows, "new_rows": manifest.rows - before, "through_seq": manifest.through_seq}
    return Done(out=str(out), format=manifest.format, **done, s=took_s)


class _Job:
    """Reads on while the part before is written."""

    def __init__(
        self, writer: Writer, manifest: Manifest, at: Path, tell: Tell, span: Span, state: StreamState
    ) -> None:
        self._writer, self._manifest, self._at, self._tell, self._span = writer, manifest, at, tell, span
        self._state, self._part_after = state, span.after_seq
        self._rows: list[Received] = []
        self._bytes = 0
        self._writing: asyncio.Task[None] | None = None
        self._told_s = time.monotonic()

    async def run(self, client: Client) -> None:
        seen = self._span.after_seq
        try:
            async for found in matching(client.bus, client.app, self._manifest.query, self._span):
                seen = found.upto_seq
                self._rows += found.messages
                self._bytes += sum(len(one.payload) for one in found.messages)
                if len(self._rows) >= PART_ROWS or self._bytes >= PART_BYTES:
                    await self._write(client, seen)
                self._progress(seen)
            await self._write(client, max(seen, self._span.upto_seq))
        finally:
            if self._writing is not None:
                await self._writing

    async def _write(self, client: Client, through_seq: int) -> None:
        if self._writing is not None:
            await self._writing
        self._writing = asyncio.create_task(self._part(client, self._rows, self._part_after, through_seq))
        self._rows, self._bytes, self._part_after = [], 0, through_seq

    async def _part(self, client: Client, rows: list[Received], after_seq: int, through_seq: int) -> None:
        await self._still_whole(client, after_seq)
        await asyncio.to_thread(self._append, rows, through_seq)

    async def _still_whole(self, client: Client, after_seq: int) -> None:
        """Raises Refused where the log lost events behind a position, or is another one, since the export began."""
        now = await client.bus.stream_state(evt_stream(client.app))
        if now.created != self._state.created:
            raise Refused(
                "other_log", f"the log was made anew while it was read; what was written is of the old, {KEPT}"
            )
        if now.first_seq > max(after_seq + 1, self._state.first_seq):
            text = f"the log was cut while it was read and begins at {now.first_seq}; what was written goes to"
            raise Refused("log_cut", f"{text} {after_seq}, {KEPT}")

    def _append(self, rows: list[Received], through_seq: int) -> None:
        if rows:
            self._writer.append(rows, self._manifest)
        self._manifest.rows += len(rows)
        self._manifest.through_seq = through_seq
        save(self._manifest, self._at)

    def _progress(self, seen: int) -> None:
        now = time.monotonic()
        if now - self._told_s >= TELL_S:
            self._told_s = now
            first, last = self._span
            share = (seen - first) / max(1, last - first)
            self._tell(f"{self._manifest.rows + len(self._rows):,} events, at {seen:,} of {last:,} ({share:.0%})")


def save(manifest: Manifest, at: Path) -> None:
    """Replace the manifest in one step, durably."""
    draft = at.with_name(at.name + ".draft")
    with draft.open("wb") as file:
        file.write(msgspec.json.format(msgspec.json.encode(manifest)) + b"\n")
        file.flush()
        os.fsync(file.fileno())
    draft.replace(at)
    sync_folder(at.parent)


async def _begun(client: Client, at: Path, out: Path, wanted: Manifest) -> tuple[Manifest, StreamState]:
    state = await client.bus.stream_state(evt_stream(client.app))
    return _found(at, out, msgspec.structs.replace(wanted, created=state.created), state), state


def _found(at: Path, out: Path, wanted: Manifest, state: StreamState) -> Manifest:
    """The manifest of what is to be gone on with, or a new one. Raises Refused."""
    try:
        found = msgspec.json.decode(at.read_bytes(), type=Manifest)
    except FileNotFoundError:
        if _is_used(out):
            raise Refused("exists", f"{out} is there already and no export that can be gone on with") from None
        return wanted
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise Refused("invalid", f"{at} is no manifest of an export: {error}") from None
    again = f"Name another file, or remove {out} and {at} to begin anew."
    if (found.stream, found.created) != (wanted.stream, wanted.created):
        ours, theirs = f"{wanted.stream} of {wanted.created}", f"{found.stream} of {found.created}"
        raise Refused("other_log", f"{out} holds events of another log ({theirs}; here is {ours}). {again}")
    if (found.format, found.asked) != (wanted.format, wanted.asked):
        raise Refused("other_export", f"{out} was begun as {found.format} with {_said(found.asked)}. {again}")
    if found.through_seq > state.last_seq:
        text = f"{out} goes to {found.through_seq}, but the log ends at {state.last_seq}: it has lost events. {again}"
        raise Refused("other_log", text)
    if 0 < found.through_seq < state.first_seq - 1:
        text = f"{out} goes to {found.through_seq}, but the log begins at {state.first_seq}: what lies between is gone."
        raise Refused("log_cut", f"{text} {again}")
    return found


def _is_used(out: Path) -> bool:
    """Is there something that is not what a killed export leaves behind before its first manifest?"""
    if out.is_dir():
        return any(path.suffix != ".draft" for path in out.iterdir())
    return out.exists() and out.stat().st_size > 0


def _said(asked: dict[str, str | list[str]]) -> str:
    return " ".join(f"--{name} {value}" for name, value in asked.items()) or "no restriction"


@contextlib.contextmanager
def _locked(writer: Writer, at: Path) -> Generator[None]:
    """Nobody else writes it meanwhile."""
    at.parent.mkdir(parents=True, exist_ok=True)
    try:
        try:
            fcntl.flock(writer.handle(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Refused("busy", f"another export writes {at.parent / at.name} just now") from None
        yield
    finally:
        writer.close()
