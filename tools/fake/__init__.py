"""The fake provider: a real HTTP server on loopback that speaks OpenAI chat completions and fails on demand.

Tests start it in their own process (`FakeProvider`, server.py); people start it with
`python -m understudy.tools.fake`. How a model name behaves is data (faults.json, read by script.py). Here are
the shapes of what goes over the wire, as pure functions.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Literal

import msgspec
from msgspec import Struct

from understudy.tools.fake.script import ChatRequest, Fault, Reply


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
    request: ChatRequest | None = None  # as received; not part of /control/log

    def public(self) -> dict[str, Any]:
        """Return what /control/log shows."""
        return {field: getattr(self, field) for field in self.__struct_fields__ if field != "request"}


class Exchange(Struct, frozen=True):
    """One accepted request and everything its answer depends on."""

    request: ChatRequest
    fault: Fault
    reply: Reply
    seen: Seen
    id: str
    created: int  # Unix seconds

    def head(self, kind: str) -> dict[str, Any]:
        """Return the fields that every answer object begins with."""
        model = self.fault.echo_model or self.request.model
        head = {"id": self.id, "object": kind, "created": self.created, "model": model}
        return {**head, "system_fingerprint": "fp_fake"}

    def usage(self) -> dict[str, int]:
        """Return the token counts."""
        prompt, completion = self.reply.prompt_tokens, len(self.reply.tokens)
        return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}

    def wants_usage(self) -> bool:
        """Tell whether the stream carries usage fields."""
        options = self.request.stream_options
        return options is not None and options.include_usage and not self.fault.no_usage


def error_body(message: str, kind: str, code: str | None = None, param: str | None = None) -> dict[str, Any]:
    """Return an error as OpenAI writes it."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def fault_error(fault: Fault) -> dict[str, Any]:
    """Return the record's JSON error, or a plain one for its status."""
    if isinstance(fault.body, dict):
        return fault.body
    if fault.status < 500 and fault.status != 200:
        return error_body(f"The fake provider refuses with {fault.status}.", "invalid_request_error")
    return error_body("The fake provider failed.", "server_error")


def chunk(x: Exchange, delta: Mapping[str, Any], finish: str | None = None) -> dict[str, Any]:
    """Return one streamed chunk."""
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    body = {**x.head("chat.completion.chunk"), "choices": [choice]}
    return {**body, "usage": None} if x.wants_usage() else body


def completion(x: Exchange) -> dict[str, Any]:
    """Return the whole answer of a request without stream, an error under 200 included."""
    fault = x.fault
    if fault.error_event_after == 0:
        return fault_error(fault)
    text, refused, finish = "".join(x.reply.tokens), fault.refusal is not None, x.reply.finish
    choice: dict[str, Any] = {"index": 0, "logprobs": None, "finish_reason": finish}
    if fault.error_event_after is not None:
        text = "".join(x.reply.tokens[: fault.error_event_after])
        choice |= {"finish_reason": "error", "error": fault_error(fault).get("error")}
    choice["message"] = {"role": "assistant", "content": None if refused else text}
    choice["message"]["refusal"] = text if refused else None
    body = {**x.head("chat.completion"), "choices": [choice]}
    return body if fault.no_usage else {**body, "usage": x.usage()}


Step = tuple[Literal["first", "token", "data", "error", "malformed", "stall", "reset", "cut"], bytes]


def line(event: Mapping[str, Any]) -> bytes:
    """Return one server-sent event."""
    return b"data: " + msgspec.json.encode(event) + b"\n\n"


def _trip(x: Exchange, sent: int) -> Literal["error", "malformed", "stall", "reset", "cut"] | None:
    """Name the fault that strikes after so many content chunks, if one does."""
    fault, total = x.fault, len(x.reply.tokens)
    if fault.error_event_after is not None and sent == min(fault.error_event_after, total):
        return "error"
    if fault.malformed_after is not None and sent == min(fault.malformed_after, total):
        return "malformed"
    if fault.stall_after is not None and sent == min(fault.stall_after, total):
        return "stall"
    if fault.reset_after is not None and sent == min(fault.reset_after, total):
        return "reset"
    return "cut" if fault.cut_after is not None and sent == min(fault.cut_after, total) else None


def error_event(x: Exchange) -> bytes:
    """Return the error that comes inside a stream under status 200."""
    error = fault_error(x.fault)
    if x.fault.error_shape == "openai":
        return line(error)
    return line({**chunk(x, {"role": "assistant", "content": ""}, "error"), **error})


def steps(x: Exchange) -> Iterator[Step]:
    """List what a stream does, in order; stall, reset, cut and error are the last step."""
    tokens, key = x.reply.tokens, "content" if x.fault.refusal is None else "refusal"
    opening = {"role": "assistant", "content": "" if key == "content" else None, "refusal": None}
    for sent in range(len(tokens) + 1):
        trip = _trip(x, sent)
        if trip not in (None, "malformed"):
            yield trip, error_event(x) if trip == "error" else b""
            return
        if sent == 0:
            yield "first", line(chunk(x, opening))
        last = sent == len(tokens)
        event = line(chunk(x, {}, x.reply.finish) if last else chunk(x, {key: tokens[sent]}))
        if trip == "malformed":
            yield "malformed", event[:-5] + b"\n\n"
        else:
            yield "data" if last else "token", event
    if x.wants_usage():
        yield "data", line({**x.head("chat.completion.chunk"), "choices": [], "usage": x.usage()})
    yield "data", b"data: [DONE]\n\n"
