"""Requests for vectors: chosen among models that can, failed over, ended and recorded as any other."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from understudy.messages.embed import Embed, Embedded
from understudy.messages.events import RequestEnded
from understudy.messages.generate import Failed
from understudy.messages.wire import encode

ABLE = {"capabilities": ["embeddings"], "continues": "none"}
MODELS: dict[str, Any] = {"a": {}, "b": ABLE, "c": {**ABLE, "context_tokens": 50}}


def embed(s: Any, **fields: Any) -> None:
    s.put(msgspec.convert({"input": ["one", "two"], **fields}, Embed))


def outcome(s: Any) -> RequestEnded:
    (stored,) = s.stores("end.")
    return stored.event


def test_who_chats_does_not_embed_and_the_other_way_round(stage: Any) -> None:
    s = stage(MODELS)
    embed(s)
    assert (s.call().model, s.call().input, s.call().messages) == ("b", ("one", "two"), ())
    s.ask("r2")
    assert s.call("r2").model == "a"
    s.ask("r3", "other", requirements={"capabilities": ["embeddings"]})
    assert [(f.code, f.path) for f in s.said(Failed, "other")] == [("invalid", "$.requirements.capabilities")]


def test_vectors_reach_the_caller_and_the_log_holds_their_number(stage: Any) -> None:
    s = stage(MODELS)
    embed(s, labels=["x"])
    s.ended(vectors="[[0.5,1],[2,3]]")
    assert (outcome(s).outcome, outcome(s).vectors, outcome(s).text_chars) == ("finished", 2, 0)
    s.stored()
    (end,) = s.said(Embedded)
    whole = msgspec.json.decode(encode(end), type=Embedded)
    assert whole.vectors == ((0.5, 1.0), (2.0, 3.0))
    assert (whole.model, whole.usage.prompt_tokens, whole.labels) == ("b", 3, ("x",))


def test_the_next_one_is_asked_and_no_canned_words_stand_in(stage: Any) -> None:
    s = stage(MODELS, tasks={"general": {"emergency_reply": "One moment."}})
    embed(s)
    s.failed("server_error", status=500)
    assert s.call().model == "c"
    s.failed("server_error", status=500)
    assert outcome(s).outcome == "all_failed"
    s.stored()
    assert [f.code for f in s.said(Failed)] == ["all_failed"]


def test_vectors_have_half_of_the_time_that_is_left(stage: Any) -> None:
    """All of them come at once, so the first token's limit would be the whole work's."""
    s = stage(MODELS)
    embed(s, deadline_ms=50_000)
    assert s.timers["r1"].at_ms == s.now + 25_000
    s.wake()
    assert s.call().model == "c" and outcome_of_attempt(s) == "first_token_timeout"
    s = stage(MODELS)
    embed(s, deadline_ms=12_000)
    assert s.timers["r1"].at_ms == s.now + 10_000, "never less than the latency class gives"


def outcome_of_attempt(s: Any) -> str:
    (stored,) = s.stores("attempt.")
    return stored.event.reason


def test_an_empty_answer_is_none(stage: Any) -> None:
    s = stage(MODELS)
    embed(s)
    s.ended()
    assert s.call().model == "c"


def test_each_text_has_the_window_to_itself(stage: Any) -> None:
    s = stage({**MODELS, "b": {}})
    embed(s, input=["x" * 100] * 10)
    assert s.call().model == "c"
    s.put(msgspec.convert({"input": ["x" * 400]}, Embed), "other", "r2")
    assert s.said(Failed, "other")[0].rejected == {"no_capability": 2, "context_too_small": 1}


@pytest.mark.parametrize(
    ("fields", "path"),
    [({"input": ["one", " \n"]}, "$.input[1]"), ({"input": ["a\x00"]}, "$.input[0]")],
)
def test_what_is_refused(stage: Any, fields: dict[str, Any], path: str) -> None:
    s = stage(MODELS)
    embed(s, **fields)
    assert [(f.code, f.path) for f in s.said(Failed)] == [("invalid", path)]
