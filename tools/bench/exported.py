"""What an export is judged by: sums and digests of the log's own bytes, and the folds made of either side.

`Raw` reads the log with nats-py and the standard library alone, nothing of ours: what our readers left out, doubled or
put elsewhere, and what our columns make of it, shows beside it.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable
from decimal import Decimal
from typing import Any, NamedTuple

import msgspec
import nats
from nats.js.api import AckPolicy, ConsumerConfig

from understudy.actors.selector import core
from understudy.actors.selector.state import State
from understudy.messages.benchmarks import BenchmarkMeasured
from understudy.messages.buckets import Bucket, OutcomeBrief, count
from understudy.messages.events import Event, FeedbackGiven
from understudy.messages.wire import WireError, reader_of

FETCH = 1000


class Sums(msgspec.Struct):
    """Figures of a log that need no fold. `rows`: a digest over position, subject, store time and bytes of each."""

    rows: str = ""
    count: int = 0
    types: dict[str, int] = {}
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost_usd: str = "0"
    attempts: int = 0
    first_token_ms: float = 0.0
    rating: float = 0.0


class Raw:
    """The sums, message by message, of what the server hands out."""

    def __init__(self) -> None:
        self._digest, self._types, self._cost = hashlib.sha256(), Counter[str](), Decimal(0)
        self.sums = Sums()

    def take(self, seq: int, subject: str, stored_ms: int, payload: bytes) -> None:
        """Count one message."""
        self._digest.update(b"%d %b %d %d " % (seq, subject.encode(), stored_ms, len(payload)) + payload)
        said: dict[str, Any] = json.loads(payload)
        self._types[said["type"]] += 1
        sums = self.sums
        sums.count += 1
        sums.rating += said.get("rating", 0.0)
        if said["type"] == "request.ended.v1":
            usage = said.get("usage", {})
            sums.prompt_tokens += usage.get("prompt_tokens", 0)
            sums.completion_tokens += usage.get("completion_tokens", 0)
            self._cost += Decimal(said.get("cost_usd", "0"))
            sums.attempts += len(said.get("attempts", ()))
            spoke = [one for one in said.get("attempts", ()) if one["outcome"] == "ok"]
            sums.first_token_ms += spoke[0].get("first_token_ms", 0.0) if spoke else 0.0

    def done(self) -> Sums:
        """The sums, whole."""
        rounded = {"first_token_ms": round(self.sums.first_token_ms, 3), "rating": round(self.sums.rating, 6)}
        types, cost = dict(sorted(self._types.items())), f"{self._cost:f}"
        return msgspec.structs.replace(
            self.sums, rows=self._digest.hexdigest(), types=types, cost_usd=_plain(cost), **rounded
        )


def _plain(decimal: str) -> str:
    return decimal.rstrip("0").rstrip(".") if "." in decimal else decimal


async def raw_log(url: str, stream: str, subject: str) -> tuple[Sums, list[tuple[int, bytes]]]:
    """The sums of a whole stream, and position and bytes of each message."""
    raw, rows = Raw(), list[tuple[int, bytes]]()
    nc = await nats.connect(url)
    try:
        js = nc.jetstream()
        state = (await js.stream_info(stream)).state
        sub = await js.pull_subscribe(subject, stream=stream, config=ConsumerConfig(ack_policy=AckPolicy.NONE))
        while len(rows) < state.messages:
            for one in await sub.fetch(FETCH, timeout=10):
                place = one.metadata
                stored_ns = int(one.reply.split(".")[7])  # its `timestamp` is rounded to a float
                raw.take(place.sequence.stream, one.subject, stored_ns // 1_000_000, one.data)
                rows.append((place.sequence.stream, one.data))
    finally:
        await nc.close()
    return raw.done(), rows


def sums_of(frame: Any) -> Sums:
    """The same of a data frame's columns (pandas); the digest of its rows as they stand there."""
    digest = hashlib.sha256()
    stored_ms = frame["stored_at"].astype("datetime64[ms, UTC]").astype("int64")
    for row in zip(frame["seq"], frame["subject"], stored_ms, frame["payload"], strict=True):
        digest.update(b"%d %b %d %d " % (row[0], row[1].encode(), row[2], len(row[3])) + row[3])
    ended = frame[frame["type"] == "request.ended.v1"]
    cost: Decimal = sum(ended["cost_usd"], Decimal(0))
    return Sums(
        rows=digest.hexdigest(),
        count=len(frame),
        types={str(name): int(n) for name, n in sorted(frame["type"].value_counts().items())},
        prompt_tokens=int(ended["prompt_tokens"].sum()),
        completion_tokens=int(ended["completion_tokens"].sum()),
        cost_usd=_plain(f"{cost:f}"),
        attempts=int(ended["attempts"].map(len).sum()),
        first_token_ms=round(float(ended["first_token_ms"].sum()), 3),
        rating=round(float(frame["rating"].sum()), 6),
    )


class Folds(NamedTuple):
    """Hashes of what a log folds to: the selector's state, as its snapshot holds it, and the counters of outcomes."""

    selector: str
    buckets: str


_read = reader_of(core.FOLDS)
_counted = reader_of((OutcomeBrief, FeedbackGiven, BenchmarkMeasured))


def folds(rows: Iterable[tuple[int, bytes]]) -> Folds:
    """Fold messages (position, bytes) from the start."""
    state, found = State(), dict[tuple[str, str, int], Bucket]()

    def bucket(model: str, task: str, hour: int) -> Bucket:
        return found.setdefault((model, task, hour), Bucket())

    for seq, payload in rows:
        try:
            event, counted = _read(payload), _counted(payload)
        except WireError:
            continue
        if isinstance(event, Event):
            state.knowledge.apply(seq, event)
        if isinstance(counted, OutcomeBrief | FeedbackGiven | BenchmarkMeasured):
            count(counted, bucket)
    ordered = [(*key, one) for key, one in sorted(found.items())]
    return Folds(_hash(core.fold_state(state)), _hash(ordered))


def _hash(value: Any) -> str:
    return hashlib.sha256(msgspec.json.encode(value)).hexdigest()
