"""The OpenAI dialect and its event stream: bodies, chunks, errors, waiting times, cuts anywhere."""

from __future__ import annotations

import email.utils
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from understudy.actors.runner.dialect import Piece, retry_after_ms, served_by
from understudy.actors.runner.dialects import openai_chat as openai
from understudy.actors.runner.sse import MAX_LINE_BYTES, Lines, Malformed
from understudy.messages.generate import Parameters, Turn, Usage
from understudy.messages.run import RunEnded, RunModel
from understudy.messages.topology import Model
from understudy.messages.wire import decode, encode

TURN = Turn(role="user", content="Hi")


def body(stop: tuple[str, ...] = (), **fields: Any) -> Any:
    p = Parameters(max_tokens=5, temperature=0.5, top_p=0.9, seed=2**40 + 3, stop=stop)
    run = RunModel(run_id="r", attempt=0, model="m", messages=(TURN,), parameters=p, remaining_ms=1.0, **fields)
    return json.loads(openai.body(run, "name-there", Model(provider="p")))


def test_the_request_is_always_streamed() -> None:
    assert body() == {
        "model": "name-there",
        "messages": [{"role": "user", "content": "Hi"}],
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_tokens": 5,
        "temperature": 0.5,
        "top_p": 0.9,
        "seed": 3,
    }
    assert body(stop=("END",))["stop"] == ["END"]


def test_continuing_natively_and_instructed() -> None:
    native = body(prefill="One {two}", continuation="native")["messages"]
    assert native[1:] == [{"role": "assistant", "content": "One {two}"}]
    asked = body(prefill="One {two}", continuation="instructed")["messages"]
    assert asked[1]["role"] == "user" and asked[1]["content"].endswith("<<<One {two}>>>")


def chunk(**delta: Any) -> dict[str, Any]:
    finish = delta.pop("finish", None)
    return {"model": "m", "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}


@pytest.mark.parametrize(
    ("data", "piece"),
    [
        (b"[DONE]", Piece(done=True)),
        (chunk(role="assistant"), Piece(model="m")),
        (chunk(content="Hi"), Piece(text="Hi", model="m")),
        (chunk(content=None, finish="stop"), Piece(finish="stop", model="m")),
        (chunk(finish="length"), Piece(finish="length", model="m")),
        (chunk(refusal="No"), Piece(text="No", refused=True, model="m")),
        (chunk(refusal="No", finish="stop"), Piece(text="No", refused=True, finish="stop", model="m")),
        (chunk(finish="content_filter"), Piece(finish="refusal", model="m")),
        (chunk(finish="error"), Piece(failure="error_event", model="m")),
        (
            {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 4}},
            Piece(prompt_tokens=3, completion_tokens=4),
        ),
        ({"choices": [], "usage": {"prompt_tokens": -1, "completion_tokens": 4}}, Piece(completion_tokens=4)),
        ({"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2**53}}, Piece(prompt_tokens=3)),
        ({"choices": [], "usage": {"prompt_tokens": -1, "completion_tokens": 10**30}}, Piece()),
        ({"choices": [], "usage": None}, Piece()),
        ({"choices": [], "new_field": 1}, Piece()),
        ({"error": {"message": "x"}}, Piece(failure="error_event")),
        ({"error": "x"}, Piece(failure="error_event")),
        (b"", Piece(failure="malformed")),
        (b"{", Piece(failure="malformed")),
        (b"[1]", Piece(failure="malformed")),
        (b"\xff\xfe", Piece(failure="malformed")),
        ({"choices": "no"}, Piece(failure="malformed")),
        ({"choices": [{"delta": {"content": 5}}]}, Piece(failure="malformed")),
    ],
)
def test_one_data_field(data: Any, piece: Piece) -> None:
    assert openai.read(data if isinstance(data, bytes) else json.dumps(data).encode()) == piece


@pytest.mark.parametrize(
    ("said", "told"),
    [(None, None), ("m", None), ("m-0613", "m-0613"), ("", None), ("said in words", None), ("x" * 201, None)],
)
def test_who_served_is_told_where_it_is_another_model(said: Any, told: Any) -> None:
    assert served_by(said, "m") == told


def test_of_a_usage_with_one_senseless_count_the_other_is_kept() -> None:
    end = Piece()
    for usage in ({"prompt_tokens": 3, "completion_tokens": -4}, None):
        end.merge(openai.read(json.dumps({"choices": [], "usage": usage}).encode()))
    assert (end.prompt_tokens, end.completion_tokens) == (3, None)


@given(st.none() | st.integers(), st.none() | st.integers())
def test_any_usage_leaves_an_end_that_a_selector_can_read(prompt: int | None, completion: int | None) -> None:
    counts = {"prompt_tokens": prompt, "completion_tokens": completion}
    piece = openai.read(json.dumps({"choices": [], "usage": counts}).encode())
    counted = Usage(prompt_tokens=piece.prompt_tokens or 0, completion_tokens=piece.completion_tokens or 0)
    end = RunEnded(run_id="r", attempt=0, pieces=0, finish_reason="stop", usage=counted)
    assert piece.failure == "malformed" or decode(encode(end)) == end


@given(st.binary(max_size=60))
def test_no_bytes_raise(data: bytes) -> None:
    assert isinstance(openai.read(data), Piece)


@pytest.mark.parametrize(
    ("status", "payload", "reason"),
    [
        (400, b"", "caller_fault"),
        (413, b"", "caller_fault"),
        (422, b"", "caller_fault"),
        (400, b'{"error":{"code":"context_length_exceeded"}}', "context_too_long"),
        (400, b"This model's maximum context length is 8192 tokens", "context_too_long"),
        (401, b"", "auth"),
        (403, b"", "auth"),
        (402, b"", "payment"),
        (404, b"", "server_error"),
        (404, b"<html><h1>404 Not Found</h1>nginx", "server_error"),
        (404, b'{"detail":"Not Found"}', "server_error"),
        (404, b'{"error":{"message":"x","code":"model_not_found"}}', "model_not_found"),
        (
            404,
            b'{"error":{"message":"The model `m` does not exist.","type":"NotFoundError","code":404}}',
            "model_not_found",
        ),
        (404, b'{"object":"error","message":"The model `m` does not exist.","code":404}', "model_not_found"),
        (404, b'{"error":{"message":"model \'m\' not found","type":"not_found_error"}}', "model_not_found"),
        (408, b"", "server_error"),
        (429, b"", "rate_limited"),
        (500, b"context_length_exceeded", "server_error"),
        (503, b"", "server_error"),
        (529, b"", "server_error"),
        (302, b"", "error_event"),
        (418, b"", "error_event"),
    ],
)
def test_http_errors_become_our_words(status: int, payload: bytes, reason: str) -> None:
    assert openai.reason_of(status, payload) == reason


NOW = 1_700_000_000.0


@pytest.mark.parametrize(
    ("headers", "wait"),
    [
        ({}, None),
        ({"retry-after": "2"}, 2000),
        ({"retry-after": " 0.5 "}, 500),
        ({"retry-after": "0"}, 0),
        ({"retry-after": email.utils.formatdate(NOW + 7, usegmt=True)}, 7000),
        ({"retry-after": email.utils.formatdate(NOW - 7, usegmt=True)}, 0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "-3"}, None),
        ({"retry-after": "9" * 400}, None),
        ({"retry-after": "9" * 30}, 86_400_000),
        ({"retry-after-ms": "1e300"}, 86_400_000),
        ({"retry-after": "²"}, None),
        ({"retry-after-ms": "250", "retry-after": "9"}, 250),
        ({"retry-after-ms": "-1"}, 0),
        ({"retry-after-ms": "nan"}, None),
        ({"retry-after-ms": "inf"}, None),
    ],
)
def test_how_long_to_wait(headers: dict[str, str], wait: int | None) -> None:
    assert retry_after_ms(headers, NOW) == wait


# --- server-sent events --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "fields"),
    [
        (b"data: a\n\ndata: b\n\n", [b"a", b"b"]),
        (b"data:a\r\n\r\n", [b"a"]),
        (b": ping\n\nevent: x\nid: 1\nretry: 5\ndata: a\n", [b"a"]),
        (b"data: no end", []),
        (b"", []),
    ],
)
def test_lines(sent: bytes, fields: list[bytes]) -> None:
    assert list(Lines().feed(sent)) == fields


@pytest.mark.parametrize("sent", [b"<html>\n", b'{"error": 1}\n', b"dat: a\n"])
def test_what_is_no_event_stream_is_malformed(sent: bytes) -> None:
    with pytest.raises(Malformed):
        list(Lines().feed(sent))


def test_a_line_without_end_is_malformed() -> None:
    with pytest.raises(Malformed):
        list(Lines().feed(b"data: " + b"x" * MAX_LINE_BYTES))


@given(st.lists(st.text(alphabet="aé☃🎭 ", min_size=1), max_size=6), st.lists(st.integers(1, 9), min_size=1))
def test_cuts_may_fall_anywhere(texts: list[str], cuts: list[int]) -> None:
    whole = "".join(f"data: {t}\r\n\r\n: ping\n" for t in texts).encode()
    lines, found, at, i = Lines(), [], 0, 0
    while at < len(whole):
        size = cuts[i % len(cuts)]
        found += list(lines.feed(whole[at : at + size]))
        at, i = at + size, i + 1
    assert [f.decode() for f in found] == [t.strip() for t in texts]
