"""What providers say, read by closed words: reasons to end, errors inside a stream, counts, calls without deltas."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from understudy.actors.runner.dialect import CallPiece, Piece
from understudy.actors.runner.dialects import BY_KIND


def read(kind: str, data: Any) -> Piece:
    return BY_KIND[kind].read(data if isinstance(data, bytes) else json.dumps(data).encode())


def finished(reason: Any, **more: Any) -> dict[str, Any]:
    return {"choices": [{"delta": {}, "finish_reason": reason, **more}]}


@pytest.mark.parametrize(
    ("said", "meant"),
    [("stop", "stop"), ("length", "length"), ("tool_calls", "tool_calls"), ("function_call", "tool_calls"),
     ("content_filter", "refusal"), ("eos", "stop"), ("eos_token", "stop"), ("max_tokens", "length"), ("", None),
     ("abort", None), ("insufficient_system_resource", None), ("STOP", None), (None, None)],
)  # fmt: skip
def test_a_reason_to_end_is_one_that_we_know(said: str | None, meant: str | None) -> None:
    assert read("openai", finished(said)) == Piece(finish=meant)


@pytest.mark.parametrize("native", [1, ["error"], {"a": 1}, True])
def test_a_native_reason_of_any_shape_raises_nothing(native: Any) -> None:
    assert read("openrouter", finished("stop", native_finish_reason=native)) == Piece(finish="stop")


ERRORS = [
    ("openai", {"error": {"code": "rate_limit_exceeded", "message": "x"}}, "rate_limited"),
    ("openai", {"error": {"code": "context_length_exceeded"}}, "context_too_long"),
    ("openai", {"error": {"code": None, "type": "insufficient_quota"}}, "payment"),
    ("openai", {"error": {"code": 401}}, "auth"),
    ("openai", {"error": {"code": 500, "type": "server_error"}}, "error_event"),
    ("openai", {"error": "x"}, "error_event"),
    ("openrouter", {"error": {"code": 429, "metadata": {"error_type": "rate_limit_exceeded"}}}, "rate_limited"),
    ("openrouter", {"error": {"code": 400, "metadata": {"error_type": "context_length_exceeded"}}}, "context_too_long"),
    ("openrouter", {"error": {"code": 402, "metadata": None}}, "payment"),
    ("anthropic", {"type": "error", "error": {"type": "rate_limit_error"}}, "rate_limited"),
    ("anthropic", {"type": "error", "error": {"type": "billing_error"}}, "payment"),
    ("anthropic", {"type": "error", "error": {"type": "overloaded_error"}}, "error_event"),
    ("anthropic", {"type": "error"}, "error_event"),
    ("openai_responses", {"type": "error", "code": "rate_limit_exceeded"}, "rate_limited"),
    ("openai_responses", {"type": "response.failed", "response": {"error": {"code": "rate_limit_exceeded"}}},
     "rate_limited"),
    ("openai_responses", {"type": "response.failed", "response": {"error": {"code": "server_error"}}}, "error_event"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "event", "reason"), ERRORS)
def test_errors_inside_a_stream(kind: str, event: Any, reason: str) -> None:
    assert read(kind, event).failure == reason


def merged(*events: Any) -> Piece:
    end = Piece()
    for event in events:
        end.merge(read("anthropic", event))
    return end


def test_anthropics_counts_are_merged_each_by_itself() -> None:
    begun = {"input_tokens": 10, "cache_read_input_tokens": 900, "cache_creation_input_tokens": 100}
    start = {"type": "message_start", "message": {"usage": begun}}
    later = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"input_tokens": 10}}
    end = merged(start, later)
    assert (end.prompt_tokens, end.cached_tokens) == (1_010, 900)
    assert merged({**later, "usage": {"cache_read_input_tokens": 5}}).prompt_tokens is None


CALLED = {"type": "function_call", "call_id": "c1", "name": "look", "arguments": '{"a":1}'}


@pytest.mark.parametrize(
    ("kind", "event", "piece"),
    [
        ("openai_responses", {"type": "response.function_call_arguments.done", "output_index": 2, "arguments": "{}"},
         Piece(calls=[CallPiece(2, arguments="{}", again=True)])),
        ("openai_responses", {"type": "response.output_item.done", "output_index": 2, "item": CALLED},
         Piece(calls=[CallPiece(2, "c1", "look", '{"a":1}', again=True)])),
        ("openai_responses", {"type": "response.output_item.done", "item": {"type": "message"}}, Piece()),
        ("openai_responses", {"type": "response.output_text.done", "text": "Hi"}, Piece(text_again="Hi")),
        ("openai_responses", {"type": "response.refusal.delta", "delta": "No"}, Piece(text="No", refused=True)),
        ("anthropic", {"type": "content_block_start", "index": 1, "content_block": {
            "type": "tool_use", "id": "t1", "name": "look", "input": {"a": 1}}},
         Piece(calls=[CallPiece(1, "t1", "look", '{"a":1}')])),
        ("anthropic", {"type": "content_block_start", "index": 1, "content_block": {
            "type": "tool_use", "id": "t1", "name": "look", "input": {}}}, Piece(calls=[CallPiece(1, "t1", "look")])),
    ],
)  # fmt: skip
def test_what_comes_whole_is_read(kind: str, event: Any, piece: Piece) -> None:
    assert read(kind, event) == piece


DEEP = '{"a":' * 1_200 + "1" + "}" * 1_200


@pytest.mark.parametrize("kind", sorted(BY_KIND))
@pytest.mark.parametrize("field", ["error", "x", "delta", "message", "choices"])
def test_what_nests_too_deeply_is_not_the_dialect(kind: str, field: str) -> None:
    data = f'{{"type":"error","{field}":{DEEP}}}'.encode()
    assert BY_KIND[kind].read(data).failure == "malformed"


NAMES = st.sampled_from(
    ["choices", "delta", "content", "refusal", "tool_calls", "index", "id", "function", "name", "arguments", "usage",
     "finish_reason", "native_finish_reason", "prompt_tokens", "completion_tokens", "prompt_tokens_details", "cost",
     "cached_tokens", "error", "code", "metadata", "error_type", "type", "model", "message", "content_block", "input",
     "partial_json", "stop_reason", "item", "call_id", "output_index", "response", "incomplete_details", "reason",
     "done", "done_reason", "eval_count", "thinking", "text"]
)  # fmt: skip
KINDS_OF_EVENT = st.sampled_from(
    ["error", "message_start", "content_block_start", "content_block_delta", "message_delta", "message_stop",
     "tool_use", "text_delta", "input_json_delta", "function_call", "response.output_text.delta",
     "response.output_text.done",
     "response.output_item.added", "response.output_item.done", "response.function_call_arguments.done",
     "response.completed", "response.incomplete", "response.failed"]
)  # fmt: skip
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from(["stop", "length", "error", "content_filter", "max_output_tokens", "x"]) | KINDS_OF_EVENT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=12,
)  # fmt: skip
EVENTS = st.dictionaries(NAMES, VALUES, max_size=5) | st.builds(
    lambda kind, rest: {**rest, "type": kind}, KINDS_OF_EVENT, st.dictionaries(NAMES, VALUES, max_size=5)
)


@given(EVENTS, st.sampled_from(sorted(BY_KIND)))
def test_no_json_over_the_known_names_raises(event: dict[str, Any], kind: str) -> None:
    piece = read(kind, event)
    assert piece.finish in (None, "stop", "length", "refusal", "tool_calls")
    Piece().merge(piece)


def test_the_same_generator_finds_a_reader_that_raises() -> None:
    """A control: somebody who believes that every value is a word falls over it."""

    @given(EVENTS)
    def careless(event: dict[str, Any]) -> None:
        assert len({*event.values()}) <= len(event)

    with pytest.raises(TypeError):
        careless()
