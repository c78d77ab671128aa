"""Anthropic's and Ollama's dialects: bodies, fields, errors, in the vendors' shapes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from understudy.actors.runner.dialect import CallPiece, Dialect, Piece
from understudy.actors.runner.dialects import BY_KIND, anthropic, ollama, openrouter
from understudy.actors.runner.json_lines import JsonLines
from understudy.actors.runner.sse import MAX_LINE_BYTES, Malformed
from understudy.messages.generate import Parameters, Turn
from understudy.messages.run import RunModel
from understudy.messages.topology import Model

HOUSE, HI = Turn(role="system", content="Be kind."), Turn(role="user", content="Hi")


def run_of(
    *turns: Turn, stop: tuple[str, ...] = (), top_p: float = 1.0, temperature: float = 0.5, **fields: Any
) -> RunModel:
    p = Parameters(max_tokens=5, temperature=temperature, top_p=top_p, seed=2**40 + 3, stop=stop)
    return RunModel(run_id="r", attempt=0, model="m", messages=turns, parameters=p, remaining_ms=1.0, **fields)


def body(dialect: Dialect, run: RunModel) -> Any:
    return json.loads(dialect.body(run, "name-there", Model(provider="p", context_tokens=2048)))


def test_anthropic_request() -> None:
    assert body(anthropic, run_of(HOUSE, HI)) == {
        "model": "name-there",
        "system": "Be kind.",
        "messages": [{"role": "user", "content": "Hi"}],
        "stream": True,
        "max_tokens": 5,
        "temperature": 0.5,
    }
    more = body(anthropic, run_of(HI, stop=("END",), top_p=0.9, temperature=1.5))
    assert (more["stop_sequences"], more["temperature"]) == (["END"], 1.0)
    assert "top_p" not in more and "system" not in more
    assert anthropic.key_fields("k") == {"anthropic-version": "2023-06-01", "x-api-key": "k"}


def test_ollama_request() -> None:
    assert body(ollama, run_of(HOUSE, HI, stop=("END",))) == {
        "model": "name-there",
        "messages": [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi"}],
        "stream": True,
        "options": {"num_ctx": 2048, "num_predict": 5, "temperature": 0.5, "top_p": 1.0, "seed": 3, "stop": ["END"]},
        "truncate": False,
        "shift": False,
    }


def test_openrouter_request() -> None:
    """Nobody who keeps what he is sent, and no fallback but ours."""
    asked = body(openrouter, run_of(HI))
    assert (asked["provider"]["data_collection"], asked["provider"]["allow_fallbacks"]) == ("deny", False)
    assert asked["messages"] == [{"role": "user", "content": "Hi"}]


@pytest.mark.parametrize(
    ("native", "failure"), [("stop", None), ("end_turn", None), (None, None), ("error", "error_event"),
                            ("network_error", "error_event")],
)  # fmt: skip
def test_openrouter_may_say_stop_of_what_broke_upstream(native: str | None, failure: str | None) -> None:
    chunk = {"choices": [{"delta": {"content": ""}, "finish_reason": "stop", "native_finish_reason": native}]}
    piece = openrouter.read(json.dumps(chunk).encode())
    assert (piece.finish, piece.failure) == ("stop", failure)


@pytest.mark.parametrize(("last", "sent"), [("One two", "One two"), ("One two \n", "One two"), (" ", None)])
def test_anthropic_is_sent_no_white_space_at_the_end(last: str, sent: str | None) -> None:
    for run in (
        run_of(HI, prefill=last, continuation="native"),
        run_of(HI, Turn(role="assistant", content=last)),
    ):
        rest = body(anthropic, run)["messages"][1:]
        assert rest == ([] if sent is None else [{"role": "assistant", "content": sent}])


@pytest.mark.parametrize(
    ("event", "piece"),
    [
        (
            {
                "type": "message_start",
                "message": {
                    "id": "msg_1",
                    "model": "m",
                    "usage": {"input_tokens": 3, "cache_read_input_tokens": 4, "output_tokens": 1},
                },
            },
            Piece(model="m", fresh_tokens=3, cached_tokens=4),
        ),
        ({"type": "ping"}, Piece()),
        ({"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}, Piece()),
        ({"type": "content_block_delta", "delta": {"type": "text_delta", "text": "Hi"}}, Piece(text="Hi")),
        ({"type": "content_block_delta", "delta": {"type": "thinking_delta", "thinking": "hm"}}, Piece(reasoning="hm")),
        (
            {"type": "content_block_delta", "index": 2, "delta": {"type": "input_json_delta", "partial_json": "{"}},
            Piece(calls=[CallPiece(2, arguments="{")]),
        ),
        ({"type": "content_block_stop", "index": 0}, Piece()),
        (
            {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 9}},
            Piece(finish="stop", completion_tokens=9),
        ),
        ({"type": "message_delta", "delta": {"stop_reason": "stop_sequence"}}, Piece(finish="stop")),
        ({"type": "message_delta", "delta": {"stop_reason": "max_tokens"}}, Piece(finish="length")),
        ({"type": "message_delta", "delta": {"stop_reason": "model_context_window_exceeded"}}, Piece(finish="length")),
        ({"type": "message_delta", "delta": {"stop_reason": "refusal"}}, Piece(finish="refusal")),
        ({"type": "message_delta", "delta": {"stop_reason": "pause_turn"}}, Piece()),
        ({"type": "message_delta", "delta": {}}, Piece()),
        ({"type": "message_stop"}, Piece(done=True)),
        ({"type": "error", "error": {"type": "overloaded_error", "message": "x"}}, Piece(failure="error_event")),
        ({"type": "something_new", "delta": None}, Piece()),
        ({"delta": {}}, Piece(failure="malformed")),
        (b"{", Piece(failure="malformed")),
    ],
)
def test_one_event_of_anthropic(event: Any, piece: Piece) -> None:
    assert anthropic.read(event if isinstance(event, bytes) else json.dumps(event).encode()) == piece


def test_anthropics_counts_are_cumulative_and_the_prompts_stays() -> None:
    end = Piece()
    for event in (
        {"type": "message_start", "message": {"usage": {"input_tokens": 3, "output_tokens": 1}}},
        {"type": "message_delta", "delta": {"stop_reason": None}, "usage": {"output_tokens": 20}},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 48}},
        {"type": "message_stop"},
    ):
        end.merge(anthropic.read(json.dumps(event).encode()))
    assert (end.prompt_tokens, end.completion_tokens, end.finish, end.done) == (3, 48, "stop", True)


@pytest.mark.parametrize(
    ("line", "piece"),
    [
        ({"model": "m", "message": {"role": "assistant", "content": "Hi"}, "done": False}, Piece(text="Hi", model="m")),
        ({"message": {"role": "assistant", "content": "", "thinking": "hm"}, "done": False}, Piece(reasoning="hm")),
        (
            {"done": True, "done_reason": "length", "prompt_eval_count": 3, "eval_count": 4},
            Piece(done=True, finish="length", prompt_tokens=3, completion_tokens=4),
        ),
        ({"done": True, "done_reason": "stop"}, Piece(done=True, finish="stop")),
        ({"done": True}, Piece(done=True)),
        ({"done": True, "done_reason": "load"}, Piece(done=True)),
        ({"error": "an error was encountered while running the model"}, Piece(failure="error_event")),
        (b'{"done":', Piece(failure="malformed")),
        (b"[]", Piece(failure="malformed")),
    ],
)
def test_one_line_of_ollama(line: Any, piece: Piece) -> None:
    assert ollama.read(line if isinstance(line, bytes) else json.dumps(line).encode()) == piece


@pytest.mark.parametrize(
    ("kind", "status", "payload", "reason"),
    [
        ("ollama", 404, b'{"error":"model \'x\' not found"}', "model_not_found"),
        ("ollama", 404, b'{"error":"model \\"x\\" not found, try pulling it first"}', "model_not_found"),
        ("ollama", 400, b'{"error":"the input length exceeds the context length"}', "context_too_long"),
        ("ollama", 400, b'{"error":{"type":"exceed_context_size_error"}}', "context_too_long"),
        ("openai", 400, b'{"error":{"type":"exceed_context_size_error"}}', "context_too_long"),
        ("openrouter", 404, b'{"error":{"code":404,"availability":{"code":"no_endpoints"}}}', "no_endpoints"),
        ("openrouter", 404, b'{"error":{"code":404,"availability":{"code":"privacy_restricted"}}}', "no_endpoints"),
        ("openrouter", 404, b'{"error":{"code":404,"availability":{"code":"model_not_found"}}}', "model_not_found"),
        ("openrouter", 404, b"<html>", "server_error"),
        (
            "openrouter",
            404,
            b'{"error":{"message":"No endpoints found that support tool use","code":404}}',
            "no_endpoints",
        ),
        ("openrouter", 404, b'{"error":{"message":"x","code":404,"metadata":{}}}', "no_endpoints"),
        ("openrouter", 404, b'{"error":{"code":404,"availability":{"code":"free_variant_ended"}}}', "model_not_found"),
        (
            "anthropic",
            404,
            b'{"type":"error","error":{"type":"not_found_error","message":"model: x"}}',
            "model_not_found",
        ),
        ("anthropic", 404, b"<html>", "server_error"),
        ("openai_responses", 404, b"<html>", "server_error"),
        ("openai_responses", 404, b'{"error":{"code":"model_not_found"}}', "model_not_found"),
        ("ollama", 404, b"404 page not found", "server_error"),
        ("ollama", 404, b'{"error":"path not found"}', "server_error"),
        ("openrouter", 402, b"", "payment"),
        ("ollama", 503, b'{"error":"server busy, please try again"}', "server_error"),
        ("anthropic", 529, b'{"type":"error","error":{"type":"overloaded_error"}}', "server_error"),
        ("anthropic", 400, b'{"error":{"message":"prompt is too long: 2 tokens > 1 maximum"}}', "context_too_long"),
        ("anthropic", 400, b'{"error":{"type":"billing_error","message":"credit"}}', "payment"),
        ("anthropic", 400, b'{"error":{"message":"Your credit balance is too low to access"}}', "payment"),
        ("anthropic", 400, b'{"error":{"message":"`max_tokens` exceed context limit: 2 + 1 > 2"}}', "context_too_long"),
        ("anthropic", 429, b"", "rate_limited"),
    ],
)
def test_http_errors_become_our_words(kind: str, status: int, payload: bytes, reason: str) -> None:
    assert BY_KIND[kind].reason_of(status, payload) == reason


@given(st.binary(max_size=60), st.sampled_from(sorted(BY_KIND)))
def test_no_bytes_raise(data: bytes, kind: str) -> None:
    assert isinstance(BY_KIND[kind].read(data), Piece)


@given(st.lists(st.dictionaries(st.text(), st.text(), max_size=2), max_size=5), st.integers(1, 9))
def test_lines_are_whole_however_they_are_cut(values: list[dict[str, str]], step: int) -> None:
    data = b"".join(json.dumps(value, ensure_ascii=False).encode() + b"\n" for value in values)
    framing, found = JsonLines(), list[bytes]()
    for at in range(0, len(data), step):
        found += framing.feed(data[at : at + step])
    assert [json.loads(one) for one in found] == values


def test_a_line_without_end_is_no_answer() -> None:
    framing = JsonLines()
    with pytest.raises(Malformed):
        list(framing.feed(b"x" * (MAX_LINE_BYTES + 1)))
