"""Has an Ollama pull models (`POST /api/pull`), on connections of its own: no call waits for one.

Closing the connection is what ends a pull; the server keeps what it has fetched. It speaks while bytes come, but is
silent while it looks a manifest up or hashes a large file: hence the long patience.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec

from understudy.actors.runner.http_pool import Client
from understudy.actors.runner.http_wire import Exchange, Failure, request_head
from understudy.actors.runner.json_lines import JsonLines
from understudy.actors.runner.sse import Malformed
from understudy.messages.address import target
from understudy.messages.pulls import MOST_WORDS, PULLING_KINDS, PullFault, PullOver, PullSaid, StartPull
from understudy.messages.step import Input
from understudy.messages.topology import Provider

PATH = "/api/pull"
CONNECTIONS = 4
ERROR_BYTES = 65_536
SILENT_S = 300.0
UNKNOWN = ("file does not exist", "not found", "manifest unknown")
"""What it says of a model that no registry has, after other words."""


class _Line(msgspec.Struct):
    status: str = ""
    digest: str = ""
    total: int = 0
    completed: int = 0
    error: str | None = None


class PullEdge:
    """Performs `StartPull` and `EndPull`. `keys` gives the header fields with the key in use; None: nothing is sent."""

    def __init__(
        self,
        provider: Provider,
        keys: Callable[[], dict[str, str] | None],
        now_ms: Callable[[], float],
        feed: Callable[[Input], None],
        silent_s: float = SILENT_S,
    ) -> None:
        """Belongs to the running loop. Raises ValueError where the address cannot be used."""
        self._to, self._keys, self._now_ms, self._feed = target(provider.url or ""), keys, now_ms, feed
        self._pulls = provider.kind in PULLING_KINDS
        self._silent_s = silent_s
        self._client = Client(self._to, limit=CONNECTIONS, connect_s=provider.connect_timeout_ms / 1000)
        self._under_way: dict[str, _Pull] = {}

    def start(self, order: StartPull) -> None:
        """Begin; what comes of it is fed later, never from here."""
        keyed = self._keys()
        if not self._pulls or keyed is None:
            fault: PullFault = "refused" if self._pulls else "unsupported"
            said = "the provider's key was revoked, and nothing is sent without one" if self._pulls else ""
            asyncio.get_running_loop().call_soon(self._feed, PullOver(self._now_ms(), order.pull_id, fault, said))
            return
        fields = {"Accept": "application/x-ndjson", "Content-Type": "application/json", **keyed}
        body = msgspec.json.encode({"model": order.name, "stream": True, "insecure": order.insecure})
        head = request_head("POST", self._to, PATH, fields)
        pull = _Pull(b"%b\r\nContent-Length: %d\r\n\r\n%b" % (head, len(body), body), self, order.pull_id)
        self._under_way[order.pull_id] = pull
        pull.patience = self._client.loop.call_later(self._silent_s, pull.cut, "stalled")
        self._client.send(pull)

    def end(self, pull_id: str) -> None:
        """Nobody wants it any longer."""
        pull = self._under_way.pop(pull_id, None)
        if pull is not None:
            pull.patience.cancel()
            self._client.cancel(pull)

    async def stop(self) -> None:
        """End what is in hand."""
        for pull_id in list(self._under_way):
            self.end(pull_id)
        await self._client.close()

    # --- for pulls -------------------------------------------------------------------------------------------------

    def heard(self, pull: _Pull) -> None:
        """It is not silent."""
        pull.patience.cancel()
        pull.patience = self._client.loop.call_later(self._silent_s, pull.cut, "stalled")

    def said(self, pull: _Pull, line: _Line) -> None:
        """A line of its answer."""
        total, completed = max(0, line.total), max(0, line.completed)
        words = _words(line.status)
        self._feed(PullSaid(self._now_ms(), pull.pull_id, words, _words(line.digest), total, completed))

    def over(self, pull: _Pull, fault: PullFault | None, said: str = "") -> None:
        """Once."""
        if pull.pull_id in self._under_way:
            self.end(pull.pull_id)
            self._feed(PullOver(self._now_ms(), pull.pull_id, fault, _words(said)))


class _Pull(Exchange):
    """The answer, line by line; an HTTP error is waited for whole."""

    __slots__ = ("_edge", "_error", "_lines", "patience", "pull_id")
    patience: asyncio.TimerHandle

    def __init__(self, request: bytes, edge: PullEdge, pull_id: str) -> None:
        super().__init__(request)
        self._edge, self.pull_id, self._lines, self._error = edge, pull_id, JsonLines(), b""

    def on_head(self) -> None:
        """It is there."""
        self._edge.heard(self)

    def on_body(self, data: bytes) -> None:
        """Some lines, or a part of one."""
        self._edge.heard(self)
        if self.status != 200:
            self._error = (self._error + data)[:ERROR_BYTES]
            return
        try:
            for line in self._lines.feed(data):
                self._take(msgspec.json.decode(line, type=_Line))
        except (Malformed, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            self.cut("malformed")

    def _take(self, line: _Line) -> None:
        if line.error is not None:
            self._refused(line.error)
        elif line.status == "success":
            self._edge.over(self, None)
        else:
            self._edge.said(self, line)

    def on_end(self, failure: Failure | None) -> None:
        """`success` would have been its last line."""
        if self.status == 200:
            self.cut("truncated")
        elif not self.status:
            self.cut("unreachable")
        else:
            try:
                said = msgspec.json.decode(self._error, type=_Line).error or ""
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                said = ""
            self._refused(f"HTTP {self.status} {said}".strip())

    def cut(self, fault: PullFault) -> None:
        """It will not end well."""
        self._edge.over(self, fault)

    def _refused(self, said: str) -> None:
        self._edge.over(self, "not_found" if any(words in said for words in UNKNOWN) else "refused", said)


def _words(text: str) -> str:
    """Of the server, for people: on one line, and not endless."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:MOST_WORDS]
