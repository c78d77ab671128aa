"""The log as a table: one row per message of the log, in its order; every column with its type and its meaning. Pure.

`facts_of` reads what the columns say out of an event's bytes, whichever event it is, and skips the rest unbuilt. What
it cannot read still is a row: its place in the log and its bytes, nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from operator import attrgetter, or_
from typing import Annotated, Any, Literal, NamedTuple, TypeAlias, cast

import msgspec

from understudy.messages.events import Event
from understudy.messages.money import UsdText
from understudy.messages.wire import REGISTRY, readable_tag

Kind = Literal["integer", "float", "text", "flag", "time", "usd", "words", "attempts", "bytes"]
"""`time`: UTC, milliseconds. `usd`: exact, 12 digits behind the point (see
`UsdText`). `words`: a list of texts. `attempts`: a list of `ATTEMPT`."""


class Column(NamedTuple):
    """One column. It is empty (null) where the event has no such field."""

    name: str
    kind: Kind
    meaning: str


PLACE: tuple[Column, ...] = (
    Column("seq", "integer", "position in the log"),
    Column("stored_at", "time", "when the server stored it"),
    Column("subject", "text", "NATS subject"),
)
"""Before the facts: where the message stands. Never empty."""

FACTS: tuple[Column, ...] = (
    Column("type", "text", "the event's tag with its version, e.g. `request.ended.v1`; empty: unreadable"),
    Column("at", "time", "when the writer stated it, by its own clock"),
    Column("run_id", "text", "the run it is about"),
    Column("model", "text", "the model it is about; of an outcome the one that had the last word"),
    Column("models", "words", "several models (of a provider's list, their prices, what is loaded)"),
    Column("from_model", "text", "`model.switched`: who spoke before"),
    Column("provider", "text", "the provider it is about"),
    Column("task", "text", "the request's task"),
    Column("outcome", "text", "`request.ended`: `finished`, or the code of the failure"),
    Column("reason", "text", "why: of a failed attempt, a change of health, a rating, ..."),
    Column("was", "text", "the state before (health), or the key before"),
    Column("by", "text", "`model.recovered`: what brought it about"),
    Column("mode", "text", "`model.switched`: continue, restart, replace"),
    Column("finish_reason", "text", "stop, length, refusal, tool_calls"),
    Column("attempt", "integer", "the attempt's number within its run"),
    Column("attempts", "attempts", "`request.ended`: every model that was tried"),
    Column(
        "first_token_ms", "float", "until the first token: of the failed attempt, or of the one that was the answer"
    ),
    Column("total_ms", "float", "how long the run, or the failed attempt, took"),
    Column("tokens", "integer", "of a failed attempt: tokens that came"),
    Column("prompt_tokens", "integer", "of a whole run"),
    Column("completion_tokens", "integer", "of a whole run"),
    Column("cost_usd", "usd", "of a whole run, or as the event says (`cost.*`); add up those of one type alone"),
    Column("charge_usd", "usd", "of a failed attempt; in its run's `cost_usd` already"),
    Column("rating", "float", "`feedback.given`: 0 to 1"),
    Column("status", "integer", "HTTP status"),
    Column("retry_after_ms", "integer", "how long a provider asked to wait"),
    Column("seams", "integer", "so often another model went on with the text"),
    Column("text_chars", "integer", "characters of the answer"),
    Column("tool_calls", "integer", "tool calls of the answer"),
    Column("vectors", "integer", "vectors of the answer"),
    Column("degraded", "flag", "the task's emergency reply"),
    Column("cached", "flag", "a kept answer: no model was asked"),
    Column("labels", "words", "words of the application, and ours"),
    Column("conversation", "text", "keyed hash"),
    Column("user", "text", "keyed hash"),
    Column("instance", "text", "the process that states it, or was loaded"),
    Column("topology", "text", "hash of the topology that held"),
    Column("as_of_seq", "integer", "the position that the decision was made at"),
    Column("name", "text", "name of a key"),
    Column("key_id", "text", "of a provider's key"),
)
"""What the event says. A field that it left out has its default here, as everywhere."""

BYTES: tuple[Column, ...] = (
    Column("foreign", "flag", "no event, but what the server had answered somebody with; it has no payload"),
    Column("payload", "bytes", "the event's very bytes: all other fields, and what a re-import folds"),
)
"""Behind the facts. Never empty."""

COLUMNS = (*PLACE, *FACTS, *BYTES)

ATTEMPT: tuple[Column, ...] = (
    Column("model", "text", "who was tried"),
    Column("outcome", "text", "`ok`, or the reason word of the failure"),
    Column("first_token_ms", "float", "until its first token; empty: none came"),
    Column("total_ms", "float", "until its end"),
    Column("tokens", "integer", "tokens that came"),
    Column("status", "integer", "HTTP status, where there was one"),
)

Int64 = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
MaybeInt: TypeAlias = Int64 | None
MaybeUsd: TypeAlias = UsdText | None


class AttemptFacts(msgspec.Struct, frozen=True, gc=False):
    """See `Attempt`."""

    model: str
    outcome: str
    first_token_ms: float | None = None
    total_ms: float = 0.0
    tokens: Int64 = 0
    status: Int64 | None = None


class _Usage(msgspec.Struct, frozen=True, gc=False):
    prompt_tokens: Int64 = 0
    completion_tokens: Int64 = 0


class _Charge(msgspec.Struct, frozen=True, gc=False):
    cost_usd: UsdText


class _Entry(msgspec.Struct, frozen=True, gc=False):
    id: str = ""
    model: str = ""


_READ_AS: dict[Kind, Any] = {
    "integer": MaybeInt,
    "float": float | None,
    "text": str | None,
    "flag": bool | None,
    "usd": MaybeUsd,
    "words": tuple[str, ...] | None,
    "attempts": tuple[AttemptFacts, ...] | None,
}
_MADE = {"type", "at", "models", "first_token_ms", "prompt_tokens", "completion_tokens", "charge_usd"}
"""Columns that are not simply the field of their name."""
_FIELDS: dict[str, Any] = {
    "at_ms": MaybeInt,
    **{one.name: _READ_AS[one.kind] for one in FACTS if one.name not in _MADE},
    "first_token_ms": float | None,
    "models": msgspec.Raw,
    "prices": msgspec.Raw,
    "usage": _Usage | None,
    "charge": _Charge | None,
}


class Facts(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """Base of the light forms of events, which `_light` makes: all have the fields of `_FIELDS`."""


def _light(tag: str | None, cls: type[Event]) -> type[Facts]:
    """What the columns say of an event, with its own defaults; what it does not have, or says with '', is None."""
    own = {field.name: field.default for field in msgspec.structs.fields(cls)}
    defaults: dict[str, Any] = dict.fromkeys(_FIELDS) | {
        n: d for n, d in own.items() if d not in (msgspec.NODEFAULT, "")
    }
    defaults |= {"models": msgspec.Raw(), "prices": msgspec.Raw(), "usage": _Usage() if "usage" in own else None}
    fields = [(name, read_as, defaults[name]) for name, read_as in _FIELDS.items()]
    tagged: dict[str, Any] = {} if tag is None else {"tag_field": "type", "tag": tag}
    made = msgspec.defstruct(f"Facts of {tag}", fields, bases=(Facts,), frozen=True, gc=False, **tagged)
    return cast(type[Facts], made)


_TAGS = {_light(tag, cls): tag for tag, cls in REGISTRY.items() if issubclass(cls, Event)}
_OTHER = _light(None, Event)
_SAID = {_OTHER: set(_FIELDS)} | {light: set(REGISTRY[tag].__struct_fields__) for light, tag in _TAGS.items()}
"""The fields that an event has: nobody looks for the others, of which most columns are made in most parts of a log."""
_read: Callable[[bytes], Facts] = msgspec.json.Decoder(reduce(or_, _TAGS)).decode
_read_other: Callable[[bytes], Facts] = msgspec.json.Decoder(_OTHER).decode
_read_models = msgspec.json.Decoder(list[str | _Entry] | dict[str, msgspec.Raw]).decode
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
NOTHING = _OTHER()
"""What cannot be read."""


def facts_of(payload: bytes) -> Facts:
    """What the columns say of an event, as far as it can be read; kinds that this version does not know too."""
    try:
        return _read(payload)
    except _UNREADABLE:
        try:
            return _read_other(payload)
        except _UNREADABLE:
            return NOTHING


def tag_of(facts: Facts, payload: bytes) -> str | None:
    """The column `type`."""
    return _TAGS.get(type(facts)) or readable_tag(payload) or None


def values(facts: Sequence[Any], payloads: Sequence[bytes]) -> dict[str, list[Any]]:
    """The columns `FACTS` of so many `Facts`: `time` in Unix milliseconds, `usd` as text, the rest as decoded."""
    made: dict[str, list[Any]] = {
        "type": [tag_of(one, payload) for one, payload in zip(facts, payloads, strict=True)],
        "at": [one.at_ms for one in facts],
        "models": [models_of(one) or None for one in facts],
        "first_token_ms": [_first_token_ms(one) for one in facts],
        "prompt_tokens": [None if one.usage is None else one.usage.prompt_tokens for one in facts],
        "completion_tokens": [None if one.usage is None else one.usage.completion_tokens for one in facts],
        "charge_usd": [None if one.charge is None else one.charge.cost_usd for one in facts],
    }
    said = set[str]().union(*(_SAID[one] for one in set(map(type, facts))))
    for name in (c.name for c in FACTS if c.name not in made):
        made[name] = list(map(attrgetter(name), facts)) if name in said else [None] * len(facts)
    return {c.name: made[c.name] for c in FACTS}


def _first_token_ms(facts: Any) -> float | None:
    attempts: Sequence[AttemptFacts] | None = facts.attempts
    if not attempts:
        return facts.first_token_ms
    return next((one.first_token_ms for one in attempts if one.outcome == "ok"), None)


def models_of(facts: Any) -> list[str]:
    """Whom an event names besides `model`: in `models` (ids, entries with an `id`, an object by id), or `prices`."""
    raw: msgspec.Raw = facts.models or facts.prices
    try:
        found = _read_models(raw) if raw else []
    except _UNREADABLE:
        return []
    return [one if isinstance(one, str) else one.id or one.model for one in found]


def is_about(facts: Any, model: str | None, task: str | None, run_id: str | None) -> bool:
    """Is this (one of `Facts`) about this model (as whoever it names), this task, this run? None: any."""
    if (run_id is not None and facts.run_id != run_id) or (task is not None and facts.task != task):
        return False
    if model is None or model in (facts.model, facts.from_model):
        return True
    tried: Sequence[AttemptFacts] = facts.attempts or ()
    return any(one.model == model for one in tried) or model in models_of(facts)
