"""Bad input and odd input: each is answered, with code and path, and harms no process."""

from __future__ import annotations

import json
from typing import Any

import pytest

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(30)]


USER = [{"role": "user", "content": "Hi."}]


def body(**fields: Any) -> bytes:
    return json.dumps({"messages": USER, **fields}).encode()


BAD = {
    "nothing": (b"", "invalid", "$"),
    "not json": (b"hello", "invalid", "$"),
    "half json": (b'{"messages": [', "invalid", "$"),
    "a list": (b"[]", "invalid", "$"),
    "not utf-8": (b'{"messages": [{"role": "user", "content": "\xff\xfe"}]}', "invalid", None),
    "deep": (b"[" * 100_000, "invalid", "$"),
    "deep in a field": (b'{"messages": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "invalid", None),
    "no messages": (b"{}", "invalid", "$"),
    "empty messages": (body(messages=[]), "invalid", "$.messages"),
    "blank messages": (body(messages=[{"role": "user", "content": "  "}]), "invalid", "$.messages"),
    "messages a text": (body(messages="Hi."), "invalid", "$.messages"),
    "content a number": (body(messages=[{"role": "user", "content": 3}]), "invalid", "$.messages[0].content"),
    "content null": (body(messages=[{"role": "user", "content": None}]), "invalid", "$.messages[0].content"),
    "unknown role": (body(messages=[{"role": "wizard", "content": "Hi."}]), "invalid", "$.messages[0].role"),
    "control character": (body(messages=[{"role": "user", "content": "a\0b"}]), "invalid", "$.messages[0].content"),
    "escape character": (body(messages=[*USER, {"role": "user", "content": "\x1b[31m"}]), "invalid",
                         "$.messages[1].content"),
    "lone surrogate": (b'{"messages": [{"role": "user", "content": "\\ud800"}]}', "invalid", None),
    "unknown field": (body(mdoel="ok@1"), "invalid", "$"),
    "wrong tag": (body(type="model.cancel.v1"), "invalid", "$.type"),
    "negative max_tokens": (body(max_tokens=-5), "invalid", "$.max_tokens"),
    "zero max_tokens": (body(max_tokens=0), "invalid", "$.max_tokens"),
    "huge max_tokens": (body(max_tokens=10**30), "invalid", "$.max_tokens"),
    "fractional max_tokens": (body(max_tokens=1.5), "invalid", "$.max_tokens"),
    "hot": (body(temperature=2.5), "invalid", "$.temperature"),
    "NaN": (b'{"messages": [{"role": "user", "content": "Hi."}], "temperature": NaN}', "invalid", "$"),
    "no time": (body(deadline_ms=0), "invalid", "$.deadline_ms"),
    "stream a word": (body(stream="yes"), "invalid", "$.stream"),
    "empty stop": (body(stop=[""]), "invalid", "$.stop[0]"),
    "many stops": (body(stop=["x"] * 17), "invalid", "$.stop"),
    "negative seed": (body(seed=-1), "invalid", "$.seed"),
    "model with a space": (body(model="ok 1"), "invalid", "$.model"),
    "model with a line end": (body(model="ok@1\n"), "invalid", "$.model"),
    "empty model": (body(model=""), "invalid", "$.model"),
    "label with a space": (body(labels=["a b"]), "invalid", "$.labels[0]"),
    "conversation with a control character": (body(conversation_id="a\x01"), "invalid", "$.conversation_id"),
    "conversation with a C1 control character": (body(conversation_id="a\x9b"), "invalid", "$.conversation_id"),
    "unknown model": (body(model="no/such:model"), "unknown_model", "$.model"),
    "unknown task": (body(task="juggling"), "unknown_task", "$.task"),
    "5 MB": (body(messages=[{"role": "user", "content": "x" * 5_000_000}]), "too_large", "$"),
    "5 MB of rubbish": (b"x" * 5_000_000, "too_large", "$"),
}  # fmt: skip


@pytest.mark.parametrize("name", list(BAD))
async def test_bad_input_is_answered_with_code_and_path(system: Any, talk: Any, kit: Any, name: str) -> None:
    payload, code, path = BAD[name]
    pids = {p.seat.instance: p.pid for p in system.supervisor.processes}
    for subject in ("tta.ask.model.generate", "tta.ask.model.select"):
        if name == "wrong tag" and subject.endswith("select"):
            continue
        failed = await talk.raw(payload, subject)
        assert (failed["type"], failed["code"]) == ("model.failed.v1", code), failed
        assert "path" in failed
        assert path is None or failed["path"] == path
        assert len(failed["text"]) > 20
    assert {p.seat.instance: p.pid for p in system.supervisor.processes} == pids


async def test_bad_input_to_the_other_asks_and_without_a_reply(system: Any, talk: Any, nc: Any, kit: Any) -> None:
    pids = {p.seat.instance: p.pid for p in system.supervisor.processes}
    for name in ("list", "describe", "select", "generate", "cancel.selector-1"):
        for payload in (b"", b"x", b"[]", b'{"nope": 1}', b'{"model": 3}', b'{"run_id": ""}'):
            subject = f"tta.ask.model.{name}"
            await nc.publish(subject, payload)
            assert (await talk.raw(payload, subject))["code"] == "invalid"
    for given in ({"run_id": "x", "rating": 2}, {"run_id": "x", "rating": "good"}, {"rating": 1}):
        assert (await talk.raw(json.dumps(given).encode(), "tta.ask.feedback.give"))["code"] == "invalid"
    assert (await talk.raw(b'{"model": "none"}', "tta.ask.model.describe"))["code"] == "unknown_model"
    assert await talk.raw(b'{"run_id": "none"}', "tta.ask.model.cancel.selector-1") == {
        "type": "model.cancelled.v1", "run_id": "none", "known": False,
    }  # fmt: skip
    await nc.publish("tta.ask.model.generate", body())
    end = await talk.whole("Still here?", model="ok@1")
    assert end["text"] == kit.script("Still here?")
    assert {p.seat.instance: p.pid for p in system.supervisor.processes} == pids


async def test_a_request_just_below_the_limit_is_judged_by_its_content(talk: Any) -> None:
    failed = await talk.raw(body(messages=[{"role": "user", "content": "x" * 3_900_000}], model="ok@1"))
    assert (failed["code"], failed["rejected"]["context_too_small"]) == ("no_allowed_model", 2)


async def test_ids_with_dots_slashes_and_colons_work(talk: Any, kit: Any) -> None:
    name = "ok@org.x/model-name:v1.5"
    end = await talk.whole("Dotted.", model=name)
    assert (end["model"], end["text"]) == (name, kit.script("Dotted."))
    described = await talk.raw(json.dumps({"model": name}).encode(), "tta.ask.model.describe")
    assert (described["card"]["id"], described["card"]["loaded"]) == (name, True)


async def test_words_of_any_script_and_odd_characters_travel_unchanged(system: Any, talk: Any, kit: Any) -> None:
    prompt = 'Zoë 小春 🦊 \u2028 "quoted" \\back {json: [1]} <<<x>>> \tTab\nLine \u200d'
    end = await talk.whole(prompt, model="ok@1")
    assert end["text"] == kit.script(prompt)
    assert len(system.upstream(prompt)) == 1
