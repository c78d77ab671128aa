"""What goes out in a form that the vendor takes: ids, limits, stop strings, words for JSON, rules of privacy."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from understudy.actors.runner.dialect import call_id
from understudy.actors.runner.dialects import BY_KIND, openrouter
from understudy.messages.generate import Parameters, Turn
from understudy.messages.money import Price
from understudy.messages.run import RunModel
from understudy.messages.tools import Format, Tool, ToolCall
from understudy.messages.topology import Model

HI = Turn(role="user", content="Hi")
LOOK = Tool(name="look")


def run_of(*turns: Turn, max_tokens: int = 50, stop: tuple[str, ...] = (), **fields: Any) -> RunModel:
    p = Parameters(max_tokens=max_tokens, temperature=0.5, top_p=0.9, seed=3, stop=stop)
    messages = turns or (HI,)
    return RunModel(run_id="r", attempt=0, model="m", messages=messages, parameters=p, remaining_ms=1.0, **fields)


def body(kind: str, run: RunModel, **facts: Any) -> Any:
    return json.loads(BY_KIND[kind].body(run, "there", Model(provider="p", **facts)))


def test_openrouters_embeddings_go_to_nobody_who_keeps_them() -> None:
    assert openrouter.EMBEDDINGS is not None
    asked = json.loads(openrouter.EMBEDDINGS.body(run_of(input=("a lantern",), dimensions=8), "there"))
    assert (asked["provider"]["data_collection"], asked["provider"]["allow_fallbacks"]) == ("deny", False)
    assert (asked["input"], asked["dimensions"]) == (["a lantern"], 8)


ODD = "call:1/ü" + "x" * 60


@pytest.mark.parametrize("kind", ["openai", "openrouter", "openai_responses", "anthropic"])
@pytest.mark.parametrize("said", ["toolu_01-A", "call:1", ODD, "x" * 41])
def test_a_call_and_its_result_go_back_under_one_id_that_the_vendor_takes(kind: str, said: str) -> None:
    called = Turn(role="assistant", content="", tool_calls=(ToolCall(id=said, name="look"),))
    asked = body(kind, run_of(HI, called, Turn(role="tool", content="dark", tool_call_id=said), tools=(LOOK,)))
    sent = json.dumps(asked.get("messages") or asked["input"])
    ids = re.findall(r'"(?:id|call_id|tool_call_id|tool_use_id)": "([^"]*)"', sent)
    assert len(ids) == 2 and len(set(ids)) == 1
    assert len(json.loads(f'"{ids[0]}"')) <= 40
    assert kind != "anthropic" or re.fullmatch("[a-zA-Z0-9_-]+", ids[0])
    assert said != "toolu_01-A" or ids[0] == said


def test_ids_that_differ_remain_different() -> None:
    assert len({call_id(f"call:{n}", "_-") for n in range(100)}) == 100


@pytest.mark.parametrize(
    ("kind", "field", "sent"),
    [("openai", "stop", ["a", "b", "\n", "c"]), ("openrouter", "stop", ["a", "b", "\n", "c"]),
     ("anthropic", "stop_sequences", ["a", "b", "c", "d"]), ("openai_responses", "stop", None)],
)  # fmt: skip
def test_stop_strings_that_the_vendor_takes(kind: str, field: str, sent: list[str] | None) -> None:
    wanted = ("a", "b", "\n", "c", "d")
    assert body(kind, run_of(stop=wanted)).get(field) == sent
    assert tuple(sent or ()) == BY_KIND[kind].stops(wanted), "the edge watches for the rest"


def test_no_stop_strings_are_no_field() -> None:
    assert "stop_sequences" not in body("anthropic", run_of(stop=("\n", " ")))


@pytest.mark.parametrize(("kind", "of"), [("openai", "messages"), ("openai_responses", "input")])
def test_openai_hears_the_word_json_where_it_must(kind: str, of: str) -> None:
    plain = Format(type="json")
    assert "JSON" in body(kind, run_of(format=plain))[of][0]["content"]
    said = Turn(role="user", content="As json, please.")
    assert len(body(kind, run_of(said, format=plain))[of]) == 1
    schema = Format(type="json_schema", schema={"type": "object"})
    assert len(body(kind, run_of(format=schema))[of]) == len(body(kind, run_of())[of]) == 1


def test_limits_by_the_name_and_of_the_size_that_is_taken() -> None:
    assert body("openai", run_of())["max_tokens"] == 50
    newer = body("openai", run_of(), refuses=("max_tokens",))
    assert (newer["max_completion_tokens"], "max_tokens" in newer) == (50, False)
    assert [body("openai_responses", run_of(max_tokens=n))["max_output_tokens"] for n in (3, 16, 17)] == [16, 16, 17]


def test_anthropic_is_sent_no_empty_turns_of_the_assistant() -> None:
    talk = (HI, Turn(role="assistant", content=" \n"), Turn(role="user", content="Well?"))
    assert [turn["role"] for turn in body("anthropic", run_of(*talk))["messages"]] == ["user", "user"]


def test_that_a_model_of_ollama_knows_no_tools_is_not_the_callers_fault() -> None:
    said = b'{"error":"registry.ollama.ai/library/x does not support tools"}'
    assert BY_KIND["ollama"].reason_of(400, said) == "no_endpoints"
    assert BY_KIND["ollama"].reason_of(400, b'{"error":"invalid"}') == "caller_fault"


# --- what a router may charge, and what it says that it does ---------------------------------------------------------

RESERVED = Price(prompt_pusd=150_000, cached_pusd=200_000, completion_pusd=2_500_000, reasoning_pusd=1, request_pusd=5)


@pytest.mark.parametrize("texts", [(), ("a lantern",)])
@pytest.mark.parametrize(
    ("price", "most"),
    [
        (RESERVED, {"prompt": "0.2", "completion": "2.5", "request": "0.000000000005"}),
        (None, {"prompt": "0", "completion": "0", "request": "0"}),
        (Price(known=False), None),
    ],
)
def test_nobody_may_serve_for_more_than_was_reserved(
    price: Price | None, most: dict[str, str] | None, texts: tuple[str, ...]
) -> None:
    run = run_of(price=price, input=texts)
    assert openrouter.EMBEDDINGS is not None
    asked = json.loads(openrouter.EMBEDDINGS.body(run, "there")) if texts else body("openrouter", run)
    assert asked["provider"].get("max_price") == most


@pytest.mark.parametrize(
    ("usage", "usd"),
    [
        ('"cost":0.5', "0.5"),
        ('"cost":0.5,"is_byok":false,"cost_details":{"upstream_inference_cost":7}', "0.5"),
        ('"cost":0.05,"is_byok":true,"cost_details":{"upstream_inference_cost":1.1}', "1.15"),
        ('"cost":0.05,"is_byok":true,"cost_details":{"upstream_inference_cost":null}', None),
        ('"cost":0.05,"is_byok":true,"cost_details":[]', None),
        ('"cost":0.05,"is_byok":true', None),
        ('"cost":1e999999', None),
        ('"cost":null', None),
    ],
)
def test_a_fee_alone_is_not_the_bill(usage: str, usd: str | None) -> None:
    data = f'{{"choices":[],"usage":{{"prompt_tokens":5,"completion_tokens":5,{usage}}}}}'
    assert openrouter.read(data.encode()).cost_usd == usd
