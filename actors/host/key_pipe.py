"""The pipe on which one process gets its provider's key, and orders about it by the key's id.

The reading end is inherited by that process alone. The writing end stays with the supervisor, who writes orders, and is
inherited by the short-lived child that writes a key (`key_opener.py`). What becomes of an order is said on standard
output, as everything a process tells the supervisor.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Any, Literal, Protocol

import msgspec

from understudy.actors.host.linux import hold_secrets

CHECK_S = 30.0
MOST_KEY_CHARS = 2_000
"""With its frame a key goes through the pipe in one write (PIPE_BUF, 4,096 bytes), escaped as JSON too."""


class Frame(msgspec.Struct, frozen=True):
    """`hold`: here is a key; it is not used yet, unless it is the first. `check`: ask the provider whether it takes the
    key. `use`: for new calls from now on. `wait`: for calls on other keys to end. `forget`: never again. Less than
    PIPE_BUF, so written and read whole."""

    do: Literal["hold", "check", "use", "wait", "forget"]
    key_id: str
    key: str = ""
    wait_ms: int = 0  # wait: so long may they go on before it is told how many still do
    n: int = 0  # of the order, for its answer

    def __repr__(self) -> str:
        """Without the key."""
        return f"Frame({self.do}, {self.key_id})"

    def line(self) -> bytes:
        """As it is written."""
        return msgspec.json.encode(self) + b"\n"


class Told(msgspec.Struct, frozen=True):
    """What a process says of order `n`. `known`: whether the provider's answer to a check tells anything. `left`: calls
    that still run on other keys."""

    n: int
    ok: bool = True
    why: str = ""
    status: int | None = None
    known: bool = True
    left: int = 0


class NotTold(Exception):
    """The process did not carry an order out; the text says why."""


class KeyPipe:
    """The supervisor's side, one per process. It never reads.

    `one` is held by who changes which keys the process has. `handed`: its first key is in the pipe. `key_id`: of the
    key that new calls use. `held`: of all keys that it has. `unsure`: of those that it may have.
    """

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe()
        os.set_blocking(self.writer, False)  # a process that is stuck must not hold us up
        self.handed, self.key_id, self.held, self.unsure = False, "", set[str](), set[str]()
        self.one = asyncio.Lock()
        self._waiting: dict[int, asyncio.Future[Told]] = {}
        self._n = 0

    def inherited(self) -> None:
        """The process has its end."""
        os.close(self.reader)
        self.reader = -1

    @property
    def closed(self) -> bool:
        """The process has ended."""
        return self.writer < 0

    def close(self) -> None:
        """The process has ended."""
        for fd in (self.reader, self.writer):
            if fd >= 0:
                os.close(fd)
        self.reader = self.writer = -1
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(NotTold("the process ended"))

    async def order(self, do: Literal["check", "use", "wait", "forget"], key_id: str, wait_ms: int = 0) -> Told:
        """What a check found; of others that they were carried out. Raises NotTold."""
        if self.closed:
            raise NotTold("the process has ended")
        self._n += 1
        n, future = self._n, asyncio.get_running_loop().create_future()
        self._waiting[n] = future
        try:
            os.write(self.writer, Frame(do=do, key_id=key_id, wait_ms=wait_ms, n=n).line())
            async with asyncio.timeout(CHECK_S + wait_ms / 1000):
                told = await future
        except (OSError, TimeoutError) as error:
            raise NotTold(f"the process does not answer ({type(error).__name__})") from None
        finally:
            del self._waiting[n]
        if do != "check" and not told.ok:
            raise NotTold(told.why)
        return told

    async def use(self, key_id: str) -> None:
        """For new calls. Raises NotTold."""
        await self.order("use", key_id)
        self.key_id = key_id

    async def forget(self, key_id: str) -> None:
        """No call begins with it any longer. Raises NotTold."""
        await self.order("forget", key_id)
        self.held.discard(key_id)
        self.unsure.discard(key_id)
        if self.key_id == key_id:
            self.key_id = ""

    def heard(self, said: Any) -> None:
        """An answer of the process."""
        told = msgspec.convert(said, Told)
        future = self._waiting.get(told.n)
        if future is not None and not future.done():
            future.set_result(told)


# --- in the process that uses the key --------------------------------------------------------------------------------


class Keyed(Protocol):
    """What an edge does about keys (`runner/http_keys.py`)."""

    def hold(self, key_id: str, key: str) -> None: ...
    def use(self, key_id: str) -> None: ...
    def forget(self, key_id: str) -> None: ...
    async def others_ended(self, key_id: str, within_ms: float) -> int: ...
    async def check(self, key_id: str) -> tuple[bool, str, int | None, bool]: ...


def first_key(fd: int) -> Frame | None:
    """Wait for the first key; None when the supervisor is gone. From here on this process holds a secret."""
    hold_secrets()
    line = b""
    while byte := os.read(fd, 1):  # one byte at a time: what follows is for `follow`
        line += byte
        if byte == b"\n":
            frame, line = msgspec.json.decode(line, type=Frame), b""
            if frame.do == "hold" and frame.key:  # an order about a key that is not here yet is about nothing
                return frame
    return None


async def follow(fd: int, keyed: Keyed, say: Callable[..., None]) -> None:
    """Carry orders out, one after the other where they must be, until the supervisor's end is closed."""
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(fd, "rb", 0)
    )
    slow = set[asyncio.Task[None]]()
    while line := await reader.readline():
        frame = msgspec.json.decode(line, type=Frame)
        try:
            match frame.do:
                case "hold":
                    keyed.hold(frame.key_id, frame.key)
                case "use":
                    keyed.use(frame.key_id)
                    say(key=Told(frame.n))
                case "forget":
                    keyed.forget(frame.key_id)
                    say(key=Told(frame.n))
                case "check" | "wait":
                    task = asyncio.create_task(_slowly(frame, keyed, say))
                    slow.add(task)
                    task.add_done_callback(slow.discard)
        except (ValueError, KeyError):  # a key that cannot stand in a request, or none of this id
            say(key=_not_held(frame))


async def _slowly(frame: Frame, keyed: Keyed, say: Callable[..., None]) -> None:
    if frame.do == "check":
        try:
            ok, why, status, known = await keyed.check(frame.key_id)
        except KeyError:
            say(key=_not_held(frame))
        else:
            say(key=Told(frame.n, ok, why, status, known))
        return
    left = await keyed.others_ended(frame.key_id, frame.wait_ms)
    say(key=Told(frame.n, left=left))


def _not_held(frame: Frame) -> Told:
    return Told(frame.n, ok=False, why=f"the process does not hold {frame.key_id}, or cannot send it")
