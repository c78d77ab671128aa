"""One request to the fake provider and what is sent for it, whatever dialect it came in."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any, Literal, Protocol

import msgspec
from msgspec import Struct

from understudy.tools.fake.script import ChatRequest, Fault, Reply


class BadRequest(Exception):
    """A request that its dialect refuses with 400."""

    def __init__(self, text: str, param: str | None = None) -> None:
        super().__init__(text)
        self.param = param


class Seen(Struct):
    """One chat request in the log. `ended` is client_closed when the client left before the answer's end."""

    model: str
    stream: bool
    prefill_chars: int
    started_ms: float
    ended_ms: float | None = None
    ended: Literal["open", "done", "fault", "client_closed", "stopped"] = "open"
    status: int | None = None  # HTTP status, once known
    tokens_sent: int = 0  # content chunks written to a stream
    key: str = ""  # `key_hash` of what the request came with
    request: ChatRequest | None = None  # as received; not part of /control/log

    def public(self) -> dict[str, Any]:
        """Return what /control/log shows."""
        return {field: getattr(self, field) for field in self.__struct_fields__ if field != "request"}


def key_hash(key: str | None) -> str:
    """Return what the log shows of a key; '' for none."""
    return hashlib.sha256(key.encode()).hexdigest()[:12] if key else ""


class Exchange(Struct, frozen=True):
    """One accepted request and everything its answer depends on."""

    shape: Shape
    request: ChatRequest
    fault: Fault
    reply: Reply
    seen: Seen
    id: str
    created: int  # Unix seconds

    @property
    def model(self) -> str:
        """Return the model that is said to have answered."""
        return self.fault.echo_model or self.request.model


class Shape(Protocol):
    """A dialect: the module `<name>_shape.py`."""

    PATH: str  # where requests come in
    STREAM_TYPE: str  # the media type of a streamed answer
    COMMENT: bytes  # what may stand between events and means nothing
    ID: str  # how ids of answers begin

    @staticmethod
    def key_of(headers: Mapping[str, str]) -> str | None:
        """Return the key that a request came with."""
        ...

    @staticmethod
    def request(data: bytes, headers: Mapping[str, str]) -> ChatRequest:
        """Read a request body; raise msgspec's errors or BadRequest."""
        ...

    @staticmethod
    def problem(status: int, message: str, code: str | None = None, param: str | None = None) -> dict[str, Any]:
        """Return an error in this dialect's envelope."""
        ...

    @staticmethod
    def fault_error(fault: Fault) -> dict[str, Any]:
        """Return a record's error in this dialect's envelope."""
        ...

    @staticmethod
    def opening(x: Exchange) -> bytes:
        """Return what comes before the first token."""
        ...

    @staticmethod
    def token(x: Exchange, text: str) -> bytes:
        """Return one piece of the text."""
        ...

    @staticmethod
    def calls(x: Exchange) -> list[bytes]:
        """Return the tool calls, in as many events as this dialect needs."""
        ...

    @staticmethod
    def closing(x: Exchange) -> tuple[bytes, bytes]:
        """Return why it ends, and what comes after."""
        ...

    @staticmethod
    def broken(event: bytes) -> bytes:
        """Return an event whose JSON is cut short."""
        ...

    @staticmethod
    def error_event(x: Exchange) -> bytes:
        """Return the error that comes inside a stream under status 200."""
        ...

    @staticmethod
    def whole(x: Exchange) -> dict[str, Any]:
        """Return the answer of a request without stream."""
        ...


Step = tuple[Literal["first", "token", "data", "error", "malformed", "stall", "reset", "cut"], bytes]


def line(event: Mapping[str, Any]) -> bytes:
    """Return one server-sent event."""
    return b"data: " + msgspec.json.encode(event) + b"\n\n"


def message_of(fault: Fault) -> str:
    """Return a record's error in words, for dialects that have an envelope of their own."""
    error = fault.body.get("error") if isinstance(fault.body, dict) else None
    if isinstance(error, dict) and isinstance(error.get("message"), str):
        return error["message"]
    status = fault.status
    return f"The fake provider refuses with {status}." if 200 < status < 500 else "The fake provider failed."


def _trip(x: Exchange, sent: int, total: int) -> Literal["error", "malformed", "stall", "reset", "cut"] | None:
    """Name the fault that strikes after so many of all content chunks, if one does."""
    fault = x.fault
    if fault.error_event_after is not None and sent == min(fault.error_event_after, total):
        return "error"
    if fault.malformed_after is not None and sent == min(fault.malformed_after, total):
        return "malformed"
    if fault.stall_after is not None and sent == min(fault.stall_after, total):
        return "stall"
    if fault.reset_after is not None and sent == min(fault.reset_after, total):
        return "reset"
    return "cut" if fault.cut_after is not None and sent == min(fault.cut_after, total) else None


def steps(x: Exchange) -> Iterator[Step]:
    """List what a stream does, in order; stall, reset, cut and error are the last step."""
    shape = x.shape
    chunks = [*(shape.token(x, token) for token in x.reply.tokens), *shape.calls(x)]
    why, after = shape.closing(x)
    for sent in range(len(chunks) + 1):
        trip = _trip(x, sent, len(chunks))
        if trip not in (None, "malformed"):
            yield trip, shape.error_event(x) if trip == "error" else b""
            return
        if sent == 0:
            yield "first", shape.opening(x)
        last = sent == len(chunks)
        event = why if last else chunks[sent]
        if trip == "malformed":
            yield "malformed", shape.broken(event)
        else:
            yield "data" if last else "token", event
    if after:
        yield "data", after
