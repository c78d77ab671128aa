"""The log as a table: what each column says of which event, and that nothing in a payload can take a row away."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from understudy.messages.columns import COLUMNS, FACTS, NOTHING, facts_of, is_about, models_of, values
from understudy.messages.events import AttemptEnded, Event, FeedbackGiven, RequestEnded
from understudy.messages.generate import Attempt, Usage
from understudy.messages.money import Charge
from understudy.messages.wire import REGISTRY, decode, encode

ENDED = RequestEnded(
    at_ms=5, run_id="r", instance="s", outcome="finished", task="t", as_of_seq=1, topology="h", digest="d", model="b"
)  # fmt: skip
TRIED = (
    Attempt(model="a", outcome="server_error", first_token_ms=3.0, total_ms=4.0, status=500),
    Attempt(model="b", outcome="ok", first_token_ms=7.5, total_ms=9.0, tokens=12),
)
SWITCHED = b'{"type":"model.switched.v1","at_ms":1,"model":"b","from_model":"a","run_id":"r","mode":"m","reason":"x"}'
PRICED = b'{"type":"model.priced.v1","at_ms":1,"provider":"p","prices":[{"model":"x","price":null}]}'
RETIRED = b'{"type":"model.retired.v1","at_ms":1,"provider":"p","models":["x","y"],"reason":"expired"}'


def row(payload: bytes) -> dict[str, Any]:
    """The columns of one event that are not empty."""
    found = {name: column[0] for name, column in values([facts_of(payload)], [payload]).items()}
    return {name: value for name, value in found.items() if value is not None}


def test_an_outcome_with_its_defaults() -> None:
    found = row(encode(ENDED))
    wanted = {"type": "request.ended.v1", "at": 5, "run_id": "r", "model": "b", "task": "t", "outcome": "finished"}
    wanted |= {
        "prompt_tokens": 0,
        "completion_tokens": 0,
        "cost_usd": "0",
        "total_ms": 0.0,
        "attempts": (),
        "labels": (),
    }
    wanted |= {"degraded": False, "cached": False, "seams": 0, "text_chars": 0, "tool_calls": 0, "vectors": 0}
    assert found == wanted | {"instance": "s", "topology": "h", "as_of_seq": 1}


def test_an_outcome_with_everything() -> None:
    full = encode(
        RequestEnded(
            **{n: getattr(ENDED, n) for n in ("at_ms", "run_id", "instance", "outcome", "task", "as_of_seq")},
            topology="h",
            digest="d",
            model="b",
            attempts=TRIED,
            usage=Usage(prompt_tokens=10, completion_tokens=12),
            cost_usd="0.000000000001",
            labels=("demo",),
            user="u",
        )
    )
    found = row(full)
    assert (found["prompt_tokens"], found["completion_tokens"], found["cost_usd"]) == (10, 12, "0.000000000001")
    assert found["first_token_ms"] == 7.5, "that of the attempt which was the answer"
    assert [(one.model, one.outcome, one.status) for one in found["attempts"]] == [
        ("a", "server_error", 500),
        ("b", "ok", None),
    ]
    assert (found["labels"], found["user"]) == (("demo",), "u") and "conversation" not in found


def test_a_failed_attempt_and_a_rating() -> None:
    charge = Charge(attempt=1, model="a", cost_usd="1.5", by="usage")
    failed = row(
        encode(AttemptEnded(at_ms=1, run_id="r", attempt=2, model="a", reason="empty", charge=charge, status=200))
    )
    assert (failed["attempt"], failed["reason"], failed["charge_usd"], failed["status"]) == (2, "empty", "1.5", 200)
    assert "cost_usd" not in failed, "it is in its run's already"
    given = row(encode(FeedbackGiven(at_ms=1, run_id="r", rating=0.25)))
    assert given == {"type": "feedback.given.v1", "at": 1, "run_id": "r", "rating": 0.25}


@pytest.mark.parametrize(
    ("payload", "kept"),
    [
        (b"", {}),
        (b"\xff\x00", {}),
        (b"[1]", {}),
        (b'{"type":"Anything at all","model":"m"}', {"model": "m"}),
        (b'{"type":"new.thing.v3","at_ms":4,"model":"m"}', {"type": "new.thing.v3", "at": 4, "model": "m"}),
        (b'{"type":"new.thing.v3","model":{"id":"m"}}', {"type": "new.thing.v3"}),
        (b'{"type":"request.ended.v1","at_ms":99999999999999999999}', {"type": "request.ended.v1"}),
        (b'{"type":"request.ended.v1","cost_usd":"much"}', {"type": "request.ended.v1"}),
        (b'{"type":"attempt.ended.v1","model":"\\ud800"}', {}),
    ],
)
def test_what_cannot_be_read_is_a_row_all_the_same(payload: bytes, kept: dict[str, Any]) -> None:
    assert row(payload) == kept
    assert kept or facts_of(payload) is NOTHING


@pytest.mark.parametrize("path", sorted((Path(__file__).parent / "golden").glob("*.json")), ids=lambda path: path.stem)
def test_every_kind_of_event_is_read(path: Path) -> None:
    payload = path.read_bytes()
    event = decode(payload)
    if isinstance(event, Event):
        found = row(payload)
        assert facts_of(payload) is not NOTHING and found["type"] == event.__struct_config__.tag
        for name in {one.name for one in FACTS} - {"models", "attempts", "labels", "first_token_ms"}:
            said = getattr(event, name, None)
            assert found.get(name) == (None if said == "" else said) or not hasattr(event, name), name


def test_no_column_is_for_nothing() -> None:
    fields = {name for cls in REGISTRY.values() if issubclass(cls, Event) for name in cls.__struct_fields__}
    made = {"type", "at", "prompt_tokens", "completion_tokens", "charge_usd"}
    assert {one.name for one in FACTS} - made <= fields
    assert len({one.name for one in COLUMNS}) == len(COLUMNS)


@pytest.mark.parametrize(
    ("payload", "model", "about"),
    [
        (encode(ENDED), "b", True),
        (encode(ENDED), "a", False),
        (SWITCHED, "a", True),
        (RETIRED, "y", True),
        (RETIRED, "z", False),
        (PRICED, "x", True),
        (b'{"type":"model.registered.v1","at_ms":1,"models":[{"id":"x","name":"n"}]}', "x", True),
        (b'{"type":"model.resident.v1","at_ms":1,"models":{"x":{"bytes":1}}}', "x", True),
        (b'{"type":"odd.v1","models":7}', "x", False),
        (b"", "x", False),
    ],
)
def test_which_model_an_event_is_about(payload: bytes, model: str, about: bool) -> None:
    assert is_about(facts_of(payload), model, None, None) is about


def test_which_run_and_task() -> None:
    found = facts_of(encode(ENDED))
    assert is_about(found, None, "t", "r") and is_about(found, None, None, None)
    assert not is_about(found, None, "other", "r") and not is_about(found, None, "t", "other")


def test_the_models_of_a_list() -> None:
    assert (row(RETIRED)["models"], row(PRICED)["models"]) == (["x", "y"], ["x"])
    assert models_of(facts_of(SWITCHED)) == [] and "models" not in row(SWITCHED)
