"""The log's side of NATS: JetStream API calls, storing events once, claims. Raw requests, no `nats.js`.

nats-py's own JetStream publishes leak futures, write into the caller's headers and know no atomic batches; the wire
protocol underneath is one request with headers, so this module speaks it directly.
"""

from __future__ import annotations

import asyncio
import json
import math
import secrets
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
from nats.aio.msg import Msg
from nats.errors import (
    BadHeaderError,
    BadSubjectError,
    ConnectionClosedError,
    Error,
    MaxPayloadError,
    NoRespondersError,
)

from understudy.bus.guarded import GuardedClient
from understudy.bus.nats_message import handed_out
from understudy.bus.port import (
    Ack,
    BusDown,
    BusError,
    Closed,
    Conflict,
    LogFull,
    NoResponders,
    OnStored,
    Outgoing,
    Received,
    TooLarge,
)

MAX_BATCH = 1000
"""Most events of one atomic batch (the server's limit)."""

_DUPLICATE_IN_BATCH = 10201
_FULL = frozenset({10002, 10023, 10028, 10047, 10077, 10122})
_CONFLICTS = frozenset({10071, 10164})
_TOO_LARGE = frozenset({10054, 10097, 10199})
_UNKNOWN_OUTCOME_CODES = frozenset({408, 409, 429})  # 409: the same id is being stored at this moment
_CLAIM_ATTEMPTS = 5
_LAST_MS = (2**63 - 1) // 1_000_000 - 1
"""The server counts nanoseconds in 64 bits: a time behind April 2262 would come before all others."""


class ApiError(msgspec.Struct, frozen=True):
    """JetStream's own error: an HTTP-like code, an exact one, a text."""

    code: int = 0
    err_code: int = 0
    description: str = ""


class PubAck(msgspec.Struct, frozen=True):
    """JetStream's answer to a publish."""

    seq: int = 0
    duplicate: bool = False
    count: int = 0
    error: ApiError | None = None


class ApiRefused(BusError):
    """The JetStream API refused a request; `err_code` is the server's exact reason."""

    code = "api_refused"

    def __init__(self, err_code: int, text: str) -> None:
        super().__init__(text)
        self.err_code = err_code


_ack_decoder = msgspec.json.Decoder(PubAck)


def translate(error: Exception) -> BusError:
    """What a nats-py exception means in the port's terms."""
    match error:
        case BusError():
            return error
        case NoRespondersError():
            return NoResponders("nobody listens")
        case MaxPayloadError():
            return TooLarge("payload and headers exceed what the server takes")
        case ConnectionClosedError():
            return Closed("this connection is closed")
        case TimeoutError():
            return BusDown("no answer in time")
        case BadSubjectError() | BadHeaderError():
            return BusError(f"{type(error).__name__}: {error}")  # ours to mend: repeating it will not help
        case _:
            return BusDown(f"{type(error).__name__}: {error}")


def refusal(error: ApiError) -> BusError:
    """What a JetStream error on a publish means in the port's terms."""
    text = f"{error.description} ({error.err_code})"
    if error.err_code in _CONFLICTS:
        return Conflict(text)
    if error.err_code in _TOO_LARGE:
        return TooLarge(text)
    if error.err_code in _FULL or "maximum bytes" in error.description:
        return LogFull(text)
    if error.code in _UNKNOWN_OUTCOME_CODES or error.code >= 500:
        return BusDown(text)
    return ApiRefused(error.err_code, text)


async def raw_request(
    client: GuardedClient, subject: str, payload: bytes, *, timeout_s: float, headers: dict[str, str] | None = None
) -> Msg:
    """One request whose failures are the port's errors."""
    try:
        return await client.request(subject, payload, timeout=timeout_s, headers=headers)
    except (Error, OSError, TimeoutError) as error:
        raise translate(error) from error


async def api(
    client: GuardedClient, call: str, body: Mapping[str, Any] | None = None, *, timeout_s: float = 3.0
) -> dict[str, Any]:
    """Call `$JS.API.<call>`. Raises ApiRefused with the server's code, BusDown when JetStream does not answer."""
    payload = json.dumps(body).encode() if body is not None else b""
    try:
        answer = await raw_request(client, f"$JS.API.{call}", payload, timeout_s=timeout_s)
    except NoResponders as error:
        raise BusDown("JetStream does not answer") from error
    content: dict[str, Any] = json.loads(answer.data)
    if "error" in content:
        error = msgspec.convert(content["error"], ApiError)
        raise ApiRefused(error.err_code, f"{call}: {error.description} ({error.err_code})")
    return content


async def log_publish(
    client: GuardedClient, subject: str, payload: bytes, headers: dict[str, str], *, timeout_s: float
) -> PubAck | None:
    """Publish to a stream; None for the empty answer to an uncommitted batch member. Errors are in the PubAck."""
    if timeout_s <= 0:
        raise BusDown("no answer in time")
    try:
        answer = await raw_request(client, subject, payload, timeout_s=timeout_s, headers=headers)
    except NoResponders as error:
        raise BusDown(f"no stream answers for {subject}") from error
    return _decode_ack(answer.data, subject) if answer.data else None


async def store(client: GuardedClient, events: Sequence[Outgoing], *, timeout_s: float) -> list[Ack]:
    """See `port.Bus.store`. Events of a batch of which some are known already are stored one by one."""
    deadline = asyncio.get_running_loop().time() + timeout_s
    if len(events) > 1:
        acks = await _store_batch(client, events, deadline)
        if acks is not None:
            return acks
    return [await _store_one(client, event, deadline) for event in events]


def put(client: GuardedClient, event: Outgoing, done: OnStored, *, timeout_s: float) -> None:
    """See `port.Bus.put`."""

    def answered(answer: Msg | Exception) -> None:
        try:
            told = _ack(answer, event.subject)
        except BusError as error:
            told = error
        done(told)

    try:
        client.inquire(event.subject, event.payload, {"Nats-Msg-Id": event.msg_id}, timeout_s, answered)
    except (Error, OSError) as error:
        asyncio.get_running_loop().call_soon(done, translate(error))


def _ack(answer: Msg | Exception, subject: str) -> Ack:
    if isinstance(answer, Exception):
        raise translate(answer)
    if answer.headers and answer.headers.get("Status") == "503":
        raise BusDown(f"no stream answers for {subject}")
    return _stored(_decode_ack(answer.data, subject), subject)


def _decode_ack(data: bytes, subject: str) -> PubAck:
    """What cannot be read says nothing about what became of the event."""
    try:
        return _ack_decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise BusDown(f"no stream's answer came for {subject}: {error}") from error


async def _store_one(client: GuardedClient, event: Outgoing, deadline: float) -> Ack:
    left_s = deadline - asyncio.get_running_loop().time()
    headers = {"Nats-Msg-Id": event.msg_id}
    answer = await log_publish(client, event.subject, event.payload, headers, timeout_s=left_s)
    return _stored(answer, event.subject)


def _stored(answer: PubAck | None, subject: str) -> Ack:
    if answer is None:
        raise ApiRefused(0, f"what answered on {subject} is not a stream")
    if answer.error is not None:
        raise refusal(answer.error)
    return Ack(answer.seq, answer.duplicate)


async def _store_batch(client: GuardedClient, events: Sequence[Outgoing], deadline: float) -> list[Ack] | None:
    """One atomic batch; None when the server refused it because it has one of the ids already."""
    if len(events) > MAX_BATCH:
        raise TooLarge(f"{len(events)} events; an atomic batch takes {MAX_BATCH}")
    batch, last = secrets.token_hex(12), len(events)
    answer: PubAck | None = None
    for i, event in enumerate(events, 1):
        headers = {"Nats-Msg-Id": event.msg_id, "Nats-Batch-Id": batch, "Nats-Batch-Sequence": str(i)}
        if i == last:
            headers["Nats-Batch-Commit"] = "1"
        if 1 < i < last:  # only the first and the last are answered
            await _publish_member(client, event, headers)
            continue
        left_s = deadline - asyncio.get_running_loop().time()
        answer = await log_publish(client, event.subject, event.payload, headers, timeout_s=left_s)
        if answer is not None and answer.error is not None:
            if answer.error.err_code == _DUPLICATE_IN_BATCH:
                return None
            raise refusal(answer.error)
    if answer is None or answer.count != last:
        raise ApiRefused(0, f"what answered on {events[-1].subject} did not commit the batch")
    return [Ack(answer.seq - last + i) for i in range(1, last + 1)]


async def _publish_member(client: GuardedClient, event: Outgoing, headers: dict[str, str]) -> None:
    try:
        await client.publish(event.subject, event.payload, headers=headers)
    except (Error, OSError) as error:
        raise translate(error) from error


def beginning(seq: int, since_ms: int) -> dict[str, Any]:
    """Where a direct get begins to look: at a time (Unix milliseconds), where there is one, or at a position."""
    return {"start_time": server_time(since_ms)} if since_ms else {"seq": seq}


def server_time(at_ms: int) -> str:
    """A time (Unix milliseconds) as the server reads it; one that its clock cannot say as the last that it can."""
    at = datetime.fromtimestamp(min(at_ms, _LAST_MS) / 1000, UTC).isoformat(timespec="milliseconds")
    return at.replace("+00:00", "Z")


async def get(
    client: GuardedClient, stream: str, begin: Mapping[str, Any], subject: str, *, timeout_s: float
) -> Received | None:
    """See `port.Bus.get`; `begin` as `beginning` makes it."""
    body = json.dumps({**begin, "next_by_subj": subject} if subject else begin).encode()
    try:
        answer = await raw_request(client, f"$JS.API.DIRECT.GET.{stream}", body, timeout_s=timeout_s)
    except NoResponders as error:
        raise BusDown(f"{stream} does not answer") from error
    headers = answer.headers or {}
    if "Nats-Sequence" not in headers:
        if headers.get("Status") != "404":  # whether there is one, it does not say
            raise BusDown(f"{stream} answered {headers.get('Status')!r} instead of a message")
        return None
    return handed_out(headers, answer.data)


async def get_many(
    client: GuardedClient, stream: str, begin: Mapping[str, Any], subject: str, at_most: int, *, timeout_s: float
) -> list[Received]:
    """See `port.Bus.get_many`. A batched direct get: each message names the one before it, so that a gap shows."""
    found: list[Received] = []
    ended: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    def on_message(_subject: str, payload: bytes, _reply: str, headers: dict[str, str] | None) -> None:
        fields = headers or {}
        if ended.done():
            return
        if "Nats-Sequence" not in fields:
            status = fields.get("Status")
            ended.set_result((status == "204" and bool(found)) or status == "404")  # 204 ends what had something
        elif fields.get("Nats-Last-Sequence") != (str(found[-1].seq) if found else "0"):
            ended.set_result(bool(found))  # one is missing: what came before it counts
        else:
            found.append(handed_out(fields, payload))

    body = json.dumps({**begin, "next_by_subj": subject, "batch": at_most}).encode()
    inbox = client.new_inbox()
    try:
        sub = await client.listen(inbox, on_message)
        try:
            client.send(f"$JS.API.DIRECT.GET.{stream}", body, inbox)
            whole = await asyncio.wait_for(ended, timeout_s)
        finally:
            await client.end_subscription(sub, deliver=False)
    except (Error, OSError, TimeoutError) as error:
        raise translate(error) from error
    if not whole:
        raise BusDown(f"{stream} did not say what it holds")
    return found


async def claim(
    client: GuardedClient, bucket: str, key: str, value: bytes, *, ttl_s: float, timeout_s: float
) -> bytes | None:
    """See `port.Bus.claim`. `ttl_s` is rounded up: the server knows whole seconds only."""
    subject, ttl = f"$KV.{bucket}.{key}", str(max(1, math.ceil(ttl_s)))
    expected = 0
    for _ in range(_CLAIM_ATTEMPTS):
        headers = {"Nats-Expected-Last-Subject-Sequence": str(expected), "Nats-TTL": ttl}
        answer = await log_publish(client, subject, value, headers, timeout_s=timeout_s)
        try:
            _stored(answer, subject)
        except Conflict:
            held, expected = await _holder(client, bucket, subject, timeout_s)
            if held is not None:
                return held
            continue
        return None
    raise BusDown(f"claim {key}: its holder kept changing")


async def _holder(client: GuardedClient, bucket: str, subject: str, timeout_s: float) -> tuple[bytes | None, int]:
    """The value that holds a claim, or None and the sequence of what is left of it (an expiry marker, a deletion)."""
    try:
        answer = await raw_request(client, f"$JS.API.DIRECT.GET.KV_{bucket}.{subject}", b"", timeout_s=timeout_s)
    except NoResponders as error:
        raise BusDown("the claims bucket does not answer") from error
    headers = answer.headers or {}
    if "Nats-Sequence" not in headers:
        return None, 0
    gone = "Nats-Marker-Reason" in headers or "KV-Operation" in headers
    return (None if gone else answer.data), int(headers["Nats-Sequence"])
