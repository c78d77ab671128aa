"""Filter, score, pick: one row per reason word, the chain's order, and properties over any catalogue."""

from __future__ import annotations

import math
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from understudy.actors.selector.choose import Decision, Local, Question, Rejection, decide
from understudy.actors.selector.views import Knowledge
from understudy.messages.benchmarks import ModelDrifted
from understudy.messages.cost import ProviderExhausted, ProviderRestored
from understudy.messages.events import ModelDegraded, ModelUnavailable, TopologyApplied
from understudy.messages.generate import Requirements
from understudy.messages.topology import Topology

FREE = Local(instances=1, in_flight=0, slots=4)
PROVIDERS = {
    "p1": {"kind": "openai", "url": "http://127.0.0.1:1/v1"},
    "p2": {"kind": "openai", "url": "http://127.0.0.1:2/v1"},
    "here": {"kind": "local"},
    "far": {"kind": "openai", "url": "https://far.example/v1"},
    "proxy": {"kind": "openai", "url": "http://127.0.0.1:3/v1", "location": "external"},
}


def know(models: dict[str, Any], **topology: Any) -> Knowledge:
    found = {name: {"provider": "p1", **fields} for name, fields in models.items()}
    raw = {"version": 1, "models": found, "providers": PROVIDERS, **topology}
    knowledge = Knowledge()
    knowledge.apply(1, TopologyApplied(at_ms=0, hash="h", body=msgspec.convert(raw, Topology)))
    return knowledge


def ask(**fields: Any) -> Question:
    needs = msgspec.convert(fields.pop("needs", {}), Requirements)
    return Question(**{"task": "general", "prompt_tokens": 10, "max_tokens": 10, "requirements": needs, **fields})


def run(knowledge: Knowledge, question: Question, **local: Local) -> Decision:
    return decide(knowledge, {m: local.get(m, FREE) for m in knowledge.models}, question)


def names(decision: Decision) -> list[str]:
    return [one.model for one in decision.chain]


GOOD = {"quality": {"default": 0.5}, "context_tokens": 1000, "usd_per_mtok_in": 1.0, "usd_per_mtok_out": 2.0}
SENT = {"privacy": "external_allowed", "consented": ("far",)}
ROWS: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("no_capability", {}, {"needs": {"capabilities": ["json"]}}),
    ("context_too_small", {}, {"prompt_tokens": 1000}),
    ("context_too_small", {}, {"needs": {"context_tokens": 1001}}),
    ("context_too_small", {}, {"larger_than": 1000}),
    ("below_quality", {}, {"needs": {"min_quality": 0.6}}),
    ("below_quality", {}, {"task": "fine"}),
    ("too_expensive", {}, {"needs": {"max_usd_per_mtok": 1.5}}),
    ("wrong_location", {"provider": "here"}, {"needs": {"location": "external"}, **SENT}),
    ("wrong_location", {}, {"needs": {"location": "external"}, **SENT}),  # loopback is this machine
    ("wrong_location", {"provider": "far"}, {}),
    ("wrong_location", {"provider": "proxy"}, {"consented": ("proxy",)}),
    ("wrong_location", {"provider": "far"}, {"needs": {"location": "local"}, **SENT}),
    ("needs_consent", {"provider": "far"}, {"privacy": "external_allowed"}),
    ("needs_consent", {"provider": "proxy"}, SENT),
    ("not_free", {}, {"needs": {"free": True}}),
    ("not_named", {}, {"model": "other"}),
]


@pytest.mark.parametrize(("reason", "fields", "question"), ROWS)
def test_one_reason_word_per_dropped_candidate(reason: str, fields: Any, question: Any) -> None:
    ample = {"quality": {"default": 1.0}, "context_tokens": 9999, "capabilities": ["chat", "json"]}
    elsewhere = question.get("needs", {}).get("location") == "external"
    ample["provider"] = "far" if elsewhere else "p1" if fields.get("provider") == "here" else "here"
    models = {"x": {**GOOD, **fields}, "other": ample}
    knowledge = know(models, tasks={"general": {}, "fine": {"min_quality": 0.9}})
    decision = run(knowledge, ask(**question))
    assert decision.rejected == {"x": reason} and names(decision) == ["other"]
    assert decision.counts() == {reason: 1}


def test_the_rest_of_the_reasons() -> None:
    knowledge = know({"x": GOOD, "y": GOOD, "z": GOOD, "slow": GOOD})
    knowledge.models["slow"].first_token_ms = 900.0
    knowledge.apply(2, ModelUnavailable(at_ms=0, model="x", reason="engine", was="healthy", retry_at_ms=1))
    question = ask(needs={"max_latency_ms": 800})
    decision = run(knowledge, question, y=Local(instances=0, in_flight=0, slots=0))
    assert decision.rejected == {"x": "unhealthy", "y": "not_loaded", "slow": "too_slow"}
    knowledge.models["y"].retired = knowledge.models["z"].offline = True
    knowledge.models["slow"].licence_class = "copyleft"
    decision = run(knowledge, ask(needs={"licences": ["permissive", "unknown"]}))
    assert decision.rejected == {"x": "unhealthy", "y": "retired", "z": "offline", "slow": "licence"}
    late = {"unhealthy", "not_loaded", "too_slow", "unknown_price", "quota_exhausted", "retired", "offline", "licence"}
    assert {r for r, _, _ in ROWS} | late == set(get_args(Rejection))


def test_an_unknown_price_is_not_free() -> None:
    models = {
        "router": {**GOOD, "price_known": False},
        "free": GOOD | {"usd_per_mtok_in": 0.0, "usd_per_mtok_out": 0.0},
    }
    assert run(know(models), ask()).rejected == {"router": "unknown_price"}
    allowed = know(models, policy={"unknown_price_reserve_usd": "0.05"})
    assert run(allowed, ask()).rejected == {}
    assert run(allowed, ask()).chain[-1].parts["cost"] == 0.0
    assert run(allowed, ask(needs={"max_usd_per_mtok": 100.0})).rejected == {"router": "too_expensive"}


def test_who_allows_no_cost_gets_no_price_per_request_either() -> None:
    free = {**GOOD, "usd_per_mtok_in": 0.0, "usd_per_mtok_out": 0.0}
    knowledge = know({"fee": {**free, "usd_per_request": 0.01}, "free": free})
    assert run(knowledge, ask(needs={"max_usd_per_mtok": 0})).rejected == {"fee": "too_expensive"}


def test_a_quota_of_an_account_is_shared_by_its_free_models_alone() -> None:
    free = {**GOOD, "usd_per_mtok_in": 0.0, "usd_per_mtok_out": 0.0}
    knowledge = know({"a:free": free, "b:free": free, "c": free, "d:free": {**free, "provider": "here"}})
    knowledge.apply(2, ProviderExhausted(at_ms=0, provider="p1", quota="free", until_ms=9))
    assert run(knowledge, ask()).rejected == {"a:free": "quota_exhausted", "b:free": "quota_exhausted"}
    knowledge.apply(3, ProviderRestored(at_ms=0, provider="p1", quota="free"))
    assert run(knowledge, ask()).rejected == {}


def test_a_window_that_just_fits() -> None:
    knowledge = know({"x": GOOD})
    assert names(run(knowledge, ask(prompt_tokens=999))) == ["x"]
    assert names(run(knowledge, ask(needs={"context_tokens": 1000}))) == ["x"]


def test_no_topology_no_candidates() -> None:
    assert decide(Knowledge(), {}, ask()).chain == ()


# --- order ---------------------------------------------------------------------------------------------------------


def q(value: float, **more: Any) -> dict[str, Any]:
    return {"quality": {"default": value}, **more}


def test_best_declared_quality_first_and_the_task_beats_the_default() -> None:
    knowledge = know({"a": q(0.9), "b": {"quality": {"default": 0.1, "general": 1.0}}})
    assert names(run(knowledge, ask())) == ["b", "a"]


def test_equal_scores_are_ordered_by_name() -> None:
    assert names(run(know({"b": {}, "a": {}, "c": {}}), ask())) == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("local", "status", "order"),
    [
        ({"a": Local(instances=1, in_flight=4, slots=4)}, None, ["b", "c", "a"]),
        ({"a": Local(instances=1, in_flight=0, slots=4, suspect=True)}, None, ["b", "c", "a"]),
        ({}, "degraded", ["b", "c", "a"]),
        ({"b": Local(instances=1, in_flight=0, slots=4, suspect=True)}, "degraded", ["c", "a", "b"]),
    ],
)
def test_healthy_and_free_before_full_before_degraded_before_suspect(local: Any, status: Any, order: Any) -> None:
    knowledge = know({"a": q(0.9), "b": q(0.5), "c": q(0.1)})
    if status:
        knowledge.apply(2, ModelDegraded(at_ms=0, model="a", reason="engine", was="healthy"))
    assert names(run(knowledge, ask(), **local)) == order


def test_failures_lower_the_score() -> None:
    knowledge = know({"a": q(0.9), "b": q(0.8)})
    for _ in range(3):
        knowledge.models["a"].count(False, None)
    assert names(run(knowledge, ask())) == ["b", "a"]


def drifted(figure: Any, direction: Any, model: str = "a") -> ModelDrifted:
    return ModelDrifted(
        at_ms=0, model=model, figure=figure, direction=direction, since_ms=0, until_ms=1, before=1.0, after=2.0
    )


@pytest.mark.parametrize(
    ("figure", "part"), [("error_ratio", "quality"), ("score", "quality"), ("latency_ms", "speed")]
)
def test_a_drift_leans_between_near_equals_until_it_is_over(figure: Any, part: str) -> None:
    for over in ("recovered", "settled"):
        knowledge = know({"a": q(0.51), "b": q(0.5)})
        before = run(knowledge, ask()).chain[0]
        knowledge.apply(2, drifted(figure, "worse"))
        (now,) = [one for one in run(knowledge, ask()).chain if one.model == "a"]
        assert {name for name in before.parts if now.parts[name] != before.parts[name]} == {part}
        assert now.parts[part] == pytest.approx(0.9 * before.parts[part])
        assert names(run(knowledge, ask())) == ["b", "a"]
        assert names(run(know({"a": q(0.9), "b": q(0.5)}), ask())) == ["a", "b"]
        knowledge.apply(3, drifted(figure, over))
        assert run(knowledge, ask()).chain[0] == before


def test_two_figures_drift_apart_from_each_other_and_strangers_are_passed_over() -> None:
    knowledge = know({"a": q(0.5)})
    for seq, event in enumerate(
        (drifted("score", "worse"), drifted("latency_ms", "worse"), drifted("score", "worse", "z"))
    ):
        knowledge.apply(seq + 2, event)
    assert knowledge.models["a"].drifted == ("latency_ms", "score")
    knowledge.apply(9, drifted("score", "recovered"))
    assert knowledge.models["a"].drifted == ("latency_ms",)


def test_declared_fallbacks_come_second_then_another_provider_first() -> None:
    models = {"a": q(0.9, fallbacks=["e"]), "b": q(0.8), "c": q(0.7, provider="p2"), "d": q(0.6), "e": q(0.1)}
    assert names(run(know(models), ask())) == ["a", "e", "c", "b", "d"]
    tasks = {"general": {"fallbacks": ["d", "a"]}}
    assert names(run(know(models, tasks=tasks), ask())) == ["a", "e", "d", "c", "b"]


def test_a_named_model_brings_only_its_own_fallbacks_in_their_order() -> None:
    models = {"a": q(0.9), "b": q(0.1, fallbacks=["d", "c", "b"]), "c": q(0.8), "d": q(0.2)}
    decision = run(know(models), ask(model="b"))
    assert names(decision) == ["b", "d", "c"] and decision.rejected == {"a": "not_named"}


def test_the_chain_has_its_length() -> None:
    knowledge = know({f"m{i}": {} for i in range(20)}, policy={"chain_length": 3})
    assert len(run(knowledge, ask()).chain) == 3


@pytest.mark.parametrize(("balance", "first"), [(1.0, "good"), (0.0, "cheap")])
def test_balance_turns_from_quality_to_cost(balance: float, first: str) -> None:
    knowledge = know({"good": q(0.9, usd_per_mtok_out=50.0), "cheap": q(0.2)})
    assert names(run(knowledge, ask(balance=balance)))[0] == first


# --- properties ----------------------------------------------------------------------------------------------------

UNIT = st.floats(0, 1)
MODEL = st.fixed_dictionaries(
    {
        "provider": st.sampled_from(sorted(PROVIDERS)),
        "quality": st.dictionaries(st.sampled_from(["default", "general"]), UNIT),
        "context_tokens": st.integers(1, 5000),
        "capabilities": st.lists(st.sampled_from(["chat", "json", "tools", "vision"]), max_size=3),
        "fallbacks": st.lists(st.sampled_from([f"m{i}" for i in range(6)]), max_size=3),
        "usd_per_mtok_in": st.floats(0, 1e6),
        "usd_per_mtok_out": st.floats(0, 1e6),
    }
)
LOCAL = st.builds(
    Local,
    instances=st.integers(0, 2),
    in_flight=st.integers(0, 9),
    slots=st.integers(0, 9),
    suspect=st.booleans(),
)
NEEDS = st.builds(
    Requirements,
    capabilities=st.lists(st.sampled_from(["chat", "json"]), max_size=1).map(tuple),
    context_tokens=st.none() | st.integers(1, 5000),
    max_latency_ms=st.none() | st.integers(1, 5000),
    min_quality=st.none() | UNIT,
    max_usd_per_mtok=st.none() | st.floats(0, 1e6),
    location=st.sampled_from([None, "local", "external"]),
)


@st.composite
def scenes(draw: Any) -> tuple[Knowledge, dict[str, Local], Question]:
    weights = draw(st.fixed_dictionaries({k: st.floats(0, 100) for k in ("quality", "speed", "cost", "fit")}))
    policy = {"weights": weights, "chain_length": draw(st.integers(1, 8))}
    knowledge = know({f"m{i}": draw(MODEL) for i in range(6)}, policy=policy)
    for view in knowledge.models.values():
        view.status = draw(st.sampled_from(["healthy", "healthy", "degraded", "unavailable"]))
        for ok, first in draw(st.lists(st.tuples(st.booleans(), st.none() | st.floats(0, 1e7)), max_size=3)):
            view.count(ok, first)
    question = Question(
        task="general",
        prompt_tokens=draw(st.integers(0, 5000)),
        max_tokens=draw(st.integers(1, 5000)),
        requirements=draw(NEEDS),
        model=draw(st.none() | st.sampled_from(sorted(knowledge.models))),
        balance=draw(st.none() | UNIT),
        privacy=draw(st.sampled_from(["local_only", "external_allowed"])),
        consented=draw(st.sampled_from([(), ("far",), ("far", "proxy")])),
    )
    return knowledge, {m: draw(LOCAL) for m in knowledge.models}, question


@given(scenes())
def test_any_decision(scene: tuple[Knowledge, dict[str, Local], Question]) -> None:
    knowledge, local, question = scene
    decision = decide(knowledge, local, question)
    chain, topology = names(decision), knowledge.topology
    assert topology is not None
    survivors = set(knowledge.models) - set(decision.rejected)
    assert set(chain) <= survivors and len(set(chain)) == len(chain)
    assert len(chain) == min(len(survivors), topology.policy.chain_length)
    assert set(decision.rejected.values()) <= set(get_args(Rejection))
    for model in survivors:
        assert knowledge.models[model].status != "unavailable" and local[model].instances
        assert question.requirements.location in (None, knowledge.models[model].location)
        if knowledge.models[model].location == "external":
            assert question.privacy == "external_allowed"
            assert knowledge.models[model].declared.provider in question.consented
    for one in decision.chain:
        for value in (one.score, *one.parts.values()):
            assert math.isfinite(value) and 0.0 <= value <= 1.0
    again = decide(knowledge, dict(reversed(local.items())), question)
    assert again == decision and len(decision.digest()) == 32
