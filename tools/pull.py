"""Have a provider of the kind ollama pull a model, and follow it to its end.

understudy models pull home llama3.2:1b          # one line that is rewritten: bytes, share, speed
understudy models pull home llama3.2:1b --json   # one JSON object per line; the last says how it ended

Ctrl-C ends the pull, and so does whatever ends this command or the provider's process: no pull survives a restart.
Nothing that was fetched is lost by it: asked again, Ollama goes on where it stopped. When it is there, the provider's
list is read at once, so that `understudy models --all` shows it; whether it may be selected is said by the topology
(`catalogue.admit`). Only the operator may ask, that is whoever may read the state folder of `up`. No word of a user is
sent; the server that pulls tells its registry which model it wants.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import shutil
import sys
import time
import uuid
from collections import deque

from understudy.bus.client import AnswerFailed, Client
from understudy.bus.port import BusError, Received
from understudy.bus.subjects import ACTOR_INBOX
from understudy.messages.generate import Failed
from understudy.messages.pulls import PullEnded, PullFailed, PullModel, PullProgress
from understudy.messages.wire import WireError, decode, encode, made_of
from understudy.tools.common import add_connection, complain, show, with_client

QUIET_S = 10.0
"""Progress comes every second: who says nothing for so long does not work on it."""
SPEED_S = 3.0
"""Over so long is the speed that is shown."""
UNITS = ("B", "kB", "MB", "GB", "TB")


def add(parser: argparse.ArgumentParser) -> None:
    """Arguments."""
    parser.add_argument("provider", help="a provider of the topology, of the kind ollama")
    parser.add_argument("name", help="what Ollama calls the model, for example llama3.2:1b; without a tag: its latest")
    parser.add_argument("--insecure", action="store_true", help="a registry without TLS may do (http://host:port/...)")
    add_connection(parser, again=True)


def run(args: argparse.Namespace) -> int:
    """Ask and follow: exit code 0 once the provider has the model."""
    try:
        ask = made_of(PullModel, {"provider": args.provider, "name": args.name, "insecure": args.insecure})
    except WireError as error:
        return complain("invalid", f"{error.path}: {error.text}", args)
    return with_client(args, lambda client: _follow(client, ask, args), operator=True)


async def _follow(client: Client, ask: PullModel, args: argparse.Namespace) -> int:
    queue: asyncio.Queue[Received] = asyncio.Queue()
    inbox = f"{ACTOR_INBOX}.operator.{uuid.uuid4().hex}"
    line = Line(rewritten=sys.stdout.isatty())
    sub = await client.bus.subscribe(inbox, queue.put_nowait)
    try:
        await client.bus.publish(f"{client.app}.ask.catalogue.pull", encode(ask), reply=inbox)
        while True:
            said = await _next(queue)
            if args.json:
                show(said)
            if isinstance(said, PullProgress):
                if not args.json:
                    line.show(said)
                continue
            line.end()
            return _ended(said, ask, args)
    finally:
        line.end()
        with contextlib.suppress(BusError):
            await sub.stop()


async def _next(queue: asyncio.Queue[Received]) -> PullProgress | PullEnded | PullFailed:
    """What is said next. Raises AnswerFailed: the ask was refused, or nobody is there."""
    try:
        async with asyncio.timeout(QUIET_S):
            received = await queue.get()
    except TimeoutError:
        text = f"Nothing was heard for {QUIET_S:g} s. Is this the operator's state folder (--state)? Ask again."
        raise AnswerFailed(Failed(code="bus_down", text=text)) from None
    if received.no_responders:
        text = "Nobody answers `catalogue.pull`: is `understudy up` running?"
        raise AnswerFailed(Failed(code="bus_down", text=text))
    message = decode(received.payload)
    if isinstance(message, Failed):
        raise AnswerFailed(message)
    if not isinstance(message, PullProgress | PullEnded | PullFailed):
        text = f"`catalogue.pull` was answered with {type(message).__name__}"
        raise AnswerFailed(Failed(code="internal", text=text))
    return message


def _ended(said: PullEnded | PullFailed, ask: PullModel, args: argparse.Namespace) -> int:
    if isinstance(said, PullFailed):
        return 1 if args.json else complain(said.code, said.text, args)
    if not args.json:
        print(f"pulled {said.name} into {ask.provider}: {_size(said.bytes)}, {said.digest or 'no layers'}")
    return 0


class Line:
    """Progress for people: one line that is rewritten; where that cannot be, a line for each change of status."""

    def __init__(self, rewritten: bool) -> None:
        self._rewritten, self._open = rewritten, False
        self._before: PullProgress | None = None
        self._seen: deque[tuple[float, int]] = deque()  # when how many bytes of this layer were there

    def show(self, said: PullProgress) -> None:
        """Where it is."""
        now, before = time.monotonic(), self._before
        changed = before is None or (before.status, before.digest) != (said.status, said.digest)
        if changed:
            self._seen.clear()
        self._before = said
        self._seen.append((now, said.completed_bytes))
        while self._seen[0][0] < now - SPEED_S and len(self._seen) > 2:
            self._seen.popleft()
        if self._rewritten:
            room = shutil.get_terminal_size().columns - 1  # a line that wraps could not be rewritten
            print(f"\r\x1b[K{shown(said, self._speed())[:room]}", end="", flush=True)
            self._open = True
        elif changed:
            print(shown(said, 0), flush=True)

    def _speed(self) -> float:
        (began, had), (now, has) = self._seen[0], self._seen[-1]
        return (has - had) / (now - began) if now > began else 0.0

    def end(self) -> None:
        """The next word begins a line."""
        if self._open:
            print(flush=True)
        self._open = False


def shown(said: PullProgress, speed: float) -> str:
    """Status, bytes, share, and bytes per second where there is a speed."""
    words = said.status or "asked"
    if not said.total_bytes:
        return words
    share = 100 * said.completed_bytes // said.total_bytes
    line = f"{words}  {_size(said.completed_bytes)} of {_size(said.total_bytes)}  {share} %"
    return f"{line}  {_size(speed)}/s" if speed > 0 else line


def _size(count: float) -> str:
    unit = 0
    while count >= 999.5 and unit < len(UNITS) - 1:
        count, unit = count / 1000, unit + 1
    return f"{count:.0f} {UNITS[unit]}" if not unit else f"{count:.3g} {UNITS[unit]}"
