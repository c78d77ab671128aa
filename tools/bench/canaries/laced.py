"""Requests and answers with a canary in every field that holds words: what callers send, and what the fake says."""

from __future__ import annotations

import json
from typing import Any

from msgspec.structs import replace

from understudy.tools.fake.calls import Call
from understudy.tools.fake.lists import entry
from understudy.tools.fake.script import Fault, built_in_faults

STORY = "the old mill"
"""The fake's own words in JSON and tool calls; the canary stands behind them."""


def fault(plain: Fault, text: str) -> Fault:
    """A fault of the fake that says a canary wherever it says anything."""
    return replace(
        plain,
        headers={**plain.headers, "X-Said": text, "X-Request-Id": text, "openai-organization": text},
        body=_body(plain.body, text),
        refusal=plain.refusal and f"{plain.refusal} {text}",
        preface=plain.preface and f"{plain.preface} {text} ",
        say_json=plain.say_json and plain.say_json.replace(STORY, f"{STORY} {text}"),
        calls=tuple(replace(call, arguments=call.arguments.replace(STORY, f"{STORY} {text}")) for call in plain.calls),
        reasoning=f"I think of {text}. ",
    )


def _body(body: Any, text: str) -> Any:
    """An error body: its message, and fields beside those that a dialect knows. An HTML page says it too."""
    if isinstance(body, dict) and isinstance(error := body.get("error"), dict):
        said = {**error, "message": f"{error.get('message', '')} {text}", "said": {text: [text]}}
        return {**body, "error": said, text: text}
    return f"{body} {text}" if isinstance(body, str) else body


def own_faults(text: str, stored: str) -> dict[str, Fault]:
    """Answers that no built-in fault gives: a canary where a dialect expects a word."""
    words = {"message": text, "type": text, "code": text, "param": text, "metadata": {"error_type": text, "raw": text}}
    return {
        "lace-type": Fault(status=400, body={"error": words, "type": text}),
        "lace-500": Fault(status=500, body={"error": words}),
        "lace-404": Fault(status=404, body={"error": {**words, "availability": {"code": text}}}),
        "lace-429": Fault(status=429, body={"error": words}, headers={"Retry-After": text, "X-RateLimit-Reset": text}),
        "lace-mid": Fault(chunks=12, error_event_after=4, body={"error": words}),
        "lace-finish": Fault(chunks=12, finish_reason=text, native_reason=text),
        "lace-call": Fault(calls=(Call(name=text, arguments=json.dumps({text: text})),)),
        "lace-model": Fault(chunks=12, echo_model=stored),
        "lace-html": Fault(status=502, body=f"<html><title>{text}</title>{text}</html>"),
    }


def faults(text: str, stored: str) -> dict[str, Fault]:
    """Every kind of fault that the fake has, with canaries; and one that speaks slowly, to be struck in between."""
    slow = Fault(gap_ms=25, chunks=60, reasoning=f"I think of {text}. ")
    laced = {name: fault(one, text) for name, one in built_in_faults().items()}
    return {**laced, **own_faults(text, stored), "drip": slow}


def request(text: str, ids: dict[str, str], n: int, *, wants_json: bool = False) -> dict[str, Any]:
    """An ask with a canary in every field that takes words of the caller."""
    schema = {
        "type": "object",
        "description": text,
        "required": ["place"],
        "properties": {"place": {"type": "string", "description": text}, text: {"type": "string", "enum": [text]}},
    }
    call = {"id": f"call-{text}", "name": f"look_{text}", "arguments": json.dumps({"place": text})}
    found: dict[str, Any] = {
        "messages": [
            {"role": "system", "content": f"Narrate. {text}"},
            {"role": "user", "content": f"My name is {text}."},
            {"role": "assistant", "content": f"Hello {text}.", "tool_calls": [call]},
            {"role": "tool", "content": f'{{"seen": "{text}"}}', "tool_call_id": call["id"]},
            {"role": "user", "content": f"Go on with {text}, number {n}."},
        ],
        "tools": [
            {"name": name, "description": text, "parameters": schema}
            for name in ("look_around", "take_thing", f"look_{text}")
        ],
        "stop": [f"stop-{text}"],
        "reasoning": True,
        "privacy": "external_allowed",
        "deadline_ms": 9_000,
        **ids,
    }
    if wants_json:
        found["format"] = {"type": "json_schema", "name": f"form_{text}", "schema": schema}
    return found


def refused(text: str, ids: dict[str, str]) -> list[tuple[str, bytes]]:
    """Asks that are not taken: subject and payload."""
    hello = {"messages": [{"role": "user", "content": f"Hello {text}."}], **ids}
    generate, model = "tta.ask.model.generate", "tta.ask.model"

    def body(**more: Any) -> bytes:
        return json.dumps({**hello, **more}).encode()

    return [
        (generate, f'{{"messages": "{text}'.encode()),
        (generate, f"{text}".encode()),
        (generate, b'{"messages": [{"role": "user", "content": "\xff\xfe' + text.encode() + b'"}]}'),
        (generate, body(**{text: text})),
        (generate, body(messages=[{"role": text, "content": text}])),
        (generate, body(messages=[{"role": "user", "content": f"{text}\x00\x01"}])),
        (generate, body(messages=[{"role": "user", "content": "x", text: 1}])),
        (generate, body(type=f"model.{text}.v1")),
        (generate, body(model=f"{text}/model")),
        (generate, body(task=text)),
        (generate, body(max_tokens=text)),
        (generate, body(requirements={"capabilities": [text]})),
        (generate, body(tool_choice=text, tools=[{"name": "look", "parameters": {}}])),
        (generate, body(format={"type": "json_schema", "schema": {"pattern": f"({text}", "type": text}})),
        (generate, body(stop=[text * 20])),
        (generate, body(messages=[{"role": "user", "content": text + "x" * 4_100_000}])),
        (f"{model}.embed", json.dumps({"input": [text, ""], **ids}).encode()),
        (f"{model}.describe", json.dumps({"model": f"{text}/model"}).encode()),
        (f"{model}.pin", json.dumps({"conversation_id": ids["conversation_id"], "model": text}).encode()),
        (f"{model}.list", json.dumps({text: text}).encode()),
        ("tta.ask.feedback.give", json.dumps({"run_id": text, "rating": 7, "user_id": ids["user_id"]}).encode()),
        ("tta.ask.consent.give", json.dumps({"provider": text, "scope": "user", "version": text}).encode()),
    ]


def listed(text: str) -> list[dict[str, Any]]:
    """Entries of a provider's list with a canary in all that is no fact about the model."""
    more: dict[str, Any] = {"name": text, "description": text, "hugging_face_id": text, text: {text: text}}
    return [entry("lab/listed:free", **more)]


def listed_badly(text: str) -> list[dict[str, Any]]:
    """A list that has to be refused, whose fault is a canary."""
    return [*listed(text), entry("lab/odd:free", pricing={f"{text} {text}": {text: text}})]
