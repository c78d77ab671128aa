"""The contract on the wire: every class there and back, faults with their path, and golden files per tag.

`UNDERSTUDY_UPDATE_GOLDEN=1 pytest tests/messages` writes the golden files anew; look at the difference.
"""

from __future__ import annotations

import json
import math
import os
import re
import typing
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import inspect

from understudy.messages import (
    benchmarks,
    cache,
    catalogue,
    catalogue_events,
    comparison,
    consent,
    cost,
    embed,
    events,
    generate,
    graph,
    keys,
    listing,
    money,
    operate,
    privacy,
    pulls,
    records,
    run,
    safety,
    tools,
    topology,
)
from understudy.messages.base import Ask, Message, Part
from understudy.messages.upcasts import UPCASTS
from understudy.messages.wire import REGISTRY, WireError, decode, decode_as, encode, tag_of

GOLDEN = Path(__file__).parent / "golden"
TAGS = sorted(REGISTRY)
CLASSES = sorted(
    {
        c
        for module in (
            *(generate, embed, tools, run, events, listing, catalogue_events, catalogue, operate, keys, topology),
            *(cost, money, consent, privacy, safety, cache, records, pulls, benchmarks, comparison, graph),
        )
        for c in vars(module).values()
        if isinstance(c, type) and issubclass(c, Message | Ask | Part) and c.__module__ == module.__name__
    },
    key=lambda c: c.__name__,
)

# --- from types to values ------------------------------------------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=4), lambda x: st.lists(x, max_size=2)
)


def bounds(kind: Any) -> tuple[Any, Any]:
    low = kind.ge if kind.ge is not None else kind.gt
    return low, kind.le if kind.le is not None else kind.lt


def values(kind: Any) -> st.SearchStrategy[Any]:
    """A strategy of what fits a type, as the type itself says."""
    match kind:
        case inspect.IntType():
            low, high = bounds(kind)
            return st.integers(-(2**53) if low is None else low, 2**53 if high is None else high)
        case inspect.FloatType():
            low, high = bounds(kind)
            open_at = {"exclude_min": kind.gt is not None, "exclude_max": kind.lt is not None}
            return st.floats(low, high, allow_nan=False, allow_infinity=False, **open_at)
        case inspect.StrType(pattern=None):
            return st.text(min_size=kind.min_length or 0, max_size=(kind.min_length or 0) + 6)
        case inspect.StrType():
            return st.from_regex(str(kind.pattern).replace("$", r"\Z"), alphabet="abz/:.-_09Aé").filter(
                lambda s: (kind.min_length or 0) <= len(s) <= (kind.max_length or 99)
            )
        case inspect.BoolType():
            return st.booleans()
        case inspect.NoneType():
            return st.none()
        case inspect.AnyType():
            return JSON
        case inspect.LiteralType():
            return st.sampled_from(kind.values)
        case inspect.UnionType():
            return st.one_of([values(t) for t in kind.types])
        case inspect.VarTupleType():
            low = kind.min_length or 0
            return st.lists(values(kind.item_type), min_size=low, max_size=low + 1).map(tuple)
        case inspect.DictType():
            return st.dictionaries(values(kind.key_type), values(kind.value_type), max_size=2)
        case inspect.StructType():
            return structs(kind.cls)
        case inspect.Metadata():
            return values(kind.type)
        case _:
            raise NotImplementedError(kind)


def structs(cls: Any) -> st.SearchStrategy[Any]:
    info = typing.cast(inspect.StructType, inspect.type_info(cls))
    return st.deferred(lambda: st.builds(cls, **{f.name: values(f.type) for f in info.fields}))


def sample(kind: Any, n: int = 0) -> Any:
    """One fixed value that differs from most defaults."""
    match kind:
        case inspect.IntType():
            low, high = bounds(kind)
            value = 7 + n % 5 + (low or 0)
            return value if high is None else min(high, value)
        case inspect.FloatType():
            return 0.25
        case inspect.StrType(pattern=None):
            return f"text-{n}"
        case inspect.StrType():
            found = (f"word{n}", f"{n}.5", "2026-12-31")
            return next(word for word in found if re.search(str(kind.pattern), word))
        case inspect.BoolType():
            return True
        case inspect.AnyType():
            return {"any": [1, None]}
        case inspect.LiteralType():
            return kind.values[-1]
        case inspect.UnionType():
            return sample(next(t for t in kind.types if not isinstance(t, inspect.NoneType)), n)
        case inspect.VarTupleType():
            return (sample(kind.item_type, n),)
        case inspect.DictType():
            return {sample(kind.key_type, n): sample(kind.value_type, n)}
        case inspect.Metadata():
            return sample(kind.type, n)
        case inspect.StructType():
            return kind.cls(**{f.name: sample(f.type, i) for i, f in enumerate(kind.fields)})
        case _:
            raise NotImplementedError(kind)


# --- there and back ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tag", TAGS)
def test_round_trip(tag: str) -> None:
    cls = REGISTRY[tag]

    @settings(max_examples=15, deadline=None)
    @given(structs(cls))
    def there_and_back(message: Any) -> None:
        payload = encode(message)
        assert decode(payload) == decode_as(cls, payload) == message
        assert encode(decode(payload)) == payload and json.loads(payload)["type"] == tag

    there_and_back()


@pytest.mark.parametrize("tag", TAGS)
def test_golden(tag: str) -> None:
    """A file written by an older version still means the same, and the newest shape is kept beside the code."""
    path, message = GOLDEN / f"{tag}.json", sample(inspect.type_info(REGISTRY[tag]))
    pretty = json.dumps(json.loads(encode(message)), indent=1, ensure_ascii=False) + "\n"
    if os.environ.get("UNDERSTUDY_UPDATE_GOLDEN"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(pretty, encoding="utf-8")
    text = path.read_text(encoding="utf-8")
    assert text == pretty, "the wire shape changed: only add fields, or write a next version and an upcast"
    assert decode(text.encode()) == message


def test_no_golden_file_without_its_class() -> None:
    assert sorted(p.stem for p in GOLDEN.glob("*.json")) == TAGS


def test_every_tag_has_a_family_a_name_and_a_version() -> None:
    assert all(re.fullmatch(r"[a-z]+\.[a-z]+\.v[1-9]", tag) for tag in TAGS)
    assert all(tag_of(cls) == tag for tag, cls in REGISTRY.items())
    assert len(TAGS) == sum(issubclass(c, Message | Ask) and c not in (events.Event, keys.KeyChanged) for c in CLASSES)


# --- defaults ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tag", TAGS)
def test_defaults_are_left_out(tag: str) -> None:
    info = typing.cast(inspect.StructType, inspect.type_info(REGISTRY[tag]))
    required = {f.encode_name: sample(f.type) for f in info.fields if f.required}
    message = REGISTRY[tag](**required)
    assert set(json.loads(encode(message))) == {"type", *required}


def test_a_small_ask_needs_no_tag_and_no_optional_field() -> None:
    ask = decode_as(generate.Generate, b'{"messages":[{"role":"user","content":"Hi"}]}')
    assert (ask.stream, ask.task, ask.on_refusal, ask.stop) == (False, None, "answer", ())


def test_facts_tolerate_new_fields_and_asks_refuse_them() -> None:
    fact = b'{"type":"model.unloaded.v1","at_ms":1,"model":"m","instance":"i","of_tomorrow":[1]}'
    assert decode(fact) == events.ModelUnloaded(at_ms=1, model="m", instance="i")
    with pytest.raises(WireError, match="of_tomorrow"):
        decode(b'{"type":"model.list.v1","of_tomorrow":1}')


# --- faults --------------------------------------------------------------------------------------------------------

HI = '"messages":[{"role":"user","content":"Hi"}]'


@pytest.mark.parametrize(
    ("payload", "code", "path"),
    [
        ('{"type":"model.nothing.v1"}', "unknown_tag", "$.type"),
        ("{}", "unknown_tag", "$.type"),
        ('{"type":"model.generate.v2",' + HI + "}", "unknown_tag", "$.type"),
        ("", "invalid", "$"),
        ("[]", "invalid", "$"),
        ('{"type":5}', "invalid", "$"),
        ('{"type":"model.list.v1"', "invalid", "$"),
        ('{"type":"model.generate.v1"}', "invalid", "$"),
        ('{"type":"model.generate.v1","messages":[]}', "invalid", "$.messages"),
        ('{"type":"model.generate.v1","messages":[{"role":"boss","content":""}]}', "invalid", "$.messages[0].role"),
        ('{"type":"model.generate.v1","messages":[{"role":"user","content":5}]}', "invalid", "$.messages[0].content"),
        ('{"type":"model.generate.v1","temperature":2.1,' + HI + "}", "invalid", "$.temperature"),
        ('{"type":"model.generate.v1","top_p":0,' + HI + "}", "invalid", "$.top_p"),
        ('{"type":"model.generate.v1","deadline_ms":0,' + HI + "}", "invalid", "$.deadline_ms"),
        ('{"type":"model.generate.v1","model":"a b",' + HI + "}", "invalid", "$.model"),
        ('{"type":"model.generate.v1","stop":[""],' + HI + "}", "invalid", "$.stop[0]"),
        (
            '{"type":"model.generate.v1","requirements":{"min_quality":2},' + HI + "}",
            "invalid",
            "$.requirements.min_quality",
        ),
        ('{"type":"model.generate.v1","request_id":"a\\u0000",' + HI + "}", "invalid", "$.request_id"),
        ('{"type":"feedback.give.v1","run_id":"r","rating":NaN}', "invalid", "$"),
        ('{"type":"feedback.give.v1","run_id":"r","rating":null}', "invalid", "$.rating"),
        ('{"type":"feedback.give.v1","run_id":"r","rating":1.5}', "invalid", "$.rating"),
        ("[" * 100_000, "invalid", "$"),
    ],
)
def test_faults_have_a_code_and_a_path(payload: str, code: str, path: str) -> None:
    with pytest.raises(WireError) as caught:
        decode(payload.encode())
    assert (caught.value.code, caught.value.path) == (code, path)
    assert caught.value.text and len(caught.value.text) < 300


def test_bytes_that_are_no_text() -> None:
    for payload in (b"\xff\xfe\x00", b'{"type":"model.list.v1\xff"}', b'{"type":"\xed\xa0\x80"}'):
        with pytest.raises(WireError):
            decode(payload)


@given(st.binary(max_size=80))
def test_no_bytes_raise_anything_else(payload: bytes) -> None:
    with pytest.raises(WireError):
        decode(payload)


# --- floats --------------------------------------------------------------------------------------------------------


def floats_of(kind: Any) -> bool:
    match kind:
        case inspect.FloatType():
            return True
        case inspect.UnionType():
            return any(floats_of(t) for t in kind.types)
        case inspect.DictType():
            return floats_of(kind.value_type)
        case inspect.VarTupleType():
            return floats_of(kind.item_type)
        case inspect.Metadata():
            return floats_of(kind.type)
        case _:
            return False


def float_fields(cls: Any) -> list[inspect.Field]:
    return [f for f in typing.cast(inspect.StructType, inspect.type_info(cls)).fields if floats_of(f.type)]


@pytest.mark.parametrize("cls", [c for c in CLASSES if float_fields(c)], ids=lambda c: c.__name__)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_nan_and_infinity_are_refused_where_they_arise(cls: Any, bad: float) -> None:
    right = sample(inspect.type_info(cls))
    for field in float_fields(cls):
        found = getattr(right, field.name)
        wrong = {"k": bad} if isinstance(found, dict) else ((bad,),) if isinstance(found, tuple) else bad
        with pytest.raises(ValueError, match=f"{cls.__name__}.{field.name}"):
            encode(msgspec.structs.replace(right, **{field.name: wrong}))


# --- versions ------------------------------------------------------------------------------------------------------


def test_an_older_version_is_lifted(monkeypatch: pytest.MonkeyPatch) -> None:
    def lift(body: dict[str, Any]) -> dict[str, Any]:
        return {"type": "model.unloaded.v1", "at_ms": body["at"], "model": body["model"], "instance": "old"}

    monkeypatch.setitem(UPCASTS, "model.unloaded.v0", lift)
    lifted = decode(b'{"type":"model.unloaded.v0","at":3,"model":"m"}')
    assert lifted == events.ModelUnloaded(at_ms=3, model="m", instance="old")


@pytest.mark.parametrize("cls", CLASSES, ids=lambda c: c.__name__)
def test_messages_cannot_be_changed(cls: Any) -> None:
    message = sample(inspect.type_info(cls))
    name = next(iter(cls.__struct_fields__), None)
    if name is not None:
        with pytest.raises(AttributeError):
            setattr(message, name, None)
