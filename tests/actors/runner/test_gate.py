"""The gate: what each stage objects to, in which order, and that whatever fails shuts it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from understudy.actors.runner import gate
from understudy.actors.runner.gate import BEFORE, CONTENT, JUDGED, Blocked, Case, walk
from understudy.actors.runner.screener import Packs
from understudy.actors.safety_validator.examples import example
from understudy.actors.safety_validator.scan import scanner
from understudy.messages.consent import ConsentGiven, ConsentWithdrawn
from understudy.messages.consents import Consents
from understudy.messages.gate_plan import GatePlan
from understudy.messages.generate import Parameters, Turn
from understudy.messages.run import RunModel
from understudy.messages.tools import Format, Tool, ToolCall
from understudy.messages.topology import Provider

FAR = Provider(kind="openai", url="https://far.example/v1")
PLAN = GatePlan(provider="far", version="v2", declared=FAR, names={})
SECRET = example(next(one.rule for one in scanner("secrets").rules if one.rule.id.startswith("anthropic")).hits[0])
MAIL = "anna.berg@lantern.org"


@pytest.fixture(scope="module")
def packs() -> Packs:
    return Packs()


def run(**fields: Any) -> RunModel:
    plain: dict[str, Any] = {
        "run_id": "r",
        "attempt": 0,
        "model": "m",
        "messages": (Turn(role="user", content="Walk."),),
        "parameters": Parameters(max_tokens=5, temperature=0.0, top_p=1.0, seed=1),
        "remaining_ms": 100.0,
        "privacy": "external_allowed",
        "user": "u",
        "conversation": "c",
    }
    return RunModel(**{**plain, **fields})


def given_to(*said: tuple[str, str, str]) -> Consents:
    """Scope, who, version ('' withdraws), in this order."""
    consents = Consents()
    for seq, (scope, who, version) in enumerate(said, 1):
        fields: dict[str, Any] = {"at_ms": seq, "provider": "far", "scope": scope, "who": who}
        consents.apply(seq, ConsentGiven(version=version, **fields) if version else ConsentWithdrawn(**fields))
    return consents


ALL, USER, TALK = ("installation", "", "v2"), ("user", "u", "v2"), ("conversation", "c", "v2")
NO_ALL, NO_USER, NO_TALK = ("installation", "", ""), ("user", "u", ""), ("conversation", "c", "")
STANDING: list[tuple[list[tuple[str, str, str]], int | None]] = [
    ([], None),
    ([ALL], 1),
    ([USER], 1),
    ([TALK], 1),
    ([ALL, USER, TALK], 3),  # the narrowest is named
    ([("user", "other", "v2")], None),
    ([("conversation", "other", "v2")], None),
    ([("user", "u", "v1")], None),  # an older text
    ([USER, ("user", "u", "v1")], None),
    ([("user", "u", "v1"), USER], 2),
    ([USER, NO_USER], None),
    ([USER, NO_USER, USER], 3),
    ([ALL, NO_USER], None),  # a no counts, whatever a wider scope says
    ([NO_USER, ALL], None),
    ([NO_ALL, USER], None),
    ([TALK, NO_USER], None),
    ([USER, NO_TALK], None),
    ([ALL, ("user", "other", "")], 1),
]


@pytest.mark.parametrize(("said", "rests_on"), STANDING)
def test_what_stands(said: list[tuple[str, str, str]], rests_on: int | None) -> None:
    consents = given_to(*said)
    assert consents.given("far", "v2", "u", "c") == rests_on
    case = Case(run(), plan=PLAN, consents=consents)
    assert walk(case, BEFORE) == (None if rests_on else "no_consent") and case.consent == (rests_on or 0)
    assert consents.given("other", "v2", "u", "c") is None and consents.given("far", "", "u", "c") is None


def test_nobody_in_particular_rests_on_the_installations_consent() -> None:
    assert given_to(USER, TALK).given("far", "v2", "", "") is None
    assert given_to(USER, ALL).given("far", "v2", "", "") == 2


@pytest.mark.parametrize("said", [[ALL], [TALK], [ALL, TALK], [ALL, TALK, NO_USER]])
def test_who_names_no_user_goes_round_nobodys_no(said: list[tuple[str, str, str]]) -> None:
    """Not by everybody's consent, nor by the conversation's: its user may have withdrawn."""
    unnamed, consents = run(user=""), given_to(*said)
    assert walk(Case(unnamed, plan=PLAN, consents=consents), BEFORE) == "no_consent"
    users_or_not = replace(PLAN, without_user=True)
    assert walk(Case(unnamed, plan=users_or_not, consents=consents), BEFORE) is None
    assert walk(Case(run(user="", probe=True), plan=PLAN, consents=consents), BEFORE) == (
        None if ALL in said else "no_consent"
    )


@given(st.lists(st.tuples(st.sampled_from([USER, NO_USER, ("user", "u", "v1")]), st.booleans()), max_size=8), st.data())
def test_what_is_only_said_again_changes_nothing(said: list[Any], data: Any) -> None:
    """At any time later, twice, and after words that were said since."""
    plain, carried, seq = Consents(), Consents(), 0
    known: list[Any] = []
    for (_, who, version), again in said:
        seq += 1
        fields: dict[str, Any] = {"at_ms": seq, "provider": "far", "scope": "user", "who": who}
        event = ConsentGiven(version=version, **fields) if version else ConsentWithdrawn(**fields)
        known.append((seq, event))
        plain.apply(seq, event)
        carried.apply(seq, event)
        if again:
            origin, old = data.draw(st.sampled_from(known))
            fields |= {"origin": origin, "said_ms": old.at_ms}
            seq += 1
            repeated = ConsentGiven(version=old.version, **fields) if isinstance(old, ConsentGiven) else None
            carried.apply(seq, repeated or ConsentWithdrawn(**fields))
    for version in ("v1", "v2"):
        assert (plain.given("far", version, "u", "") is None) == (carried.given("far", version, "u", "") is None)


POLICIES: list[tuple[dict[str, Any], str | None]] = [
    ({}, None),
    ({"privacy": "local_only"}, "local_only"),
    ({"privacy": "local_only", "probe": True}, None),  # our own words: nobody's conversation
]


@pytest.mark.parametrize(("fields", "reason"), POLICIES)
def test_the_requests_own_word(fields: dict[str, Any], reason: str | None) -> None:
    assert walk(Case(run(**fields), plan=PLAN, consents=given_to(ALL)), BEFORE) == reason


def test_a_probe_rests_on_the_installations_consent_alone() -> None:
    assert walk(Case(run(probe=True), plan=PLAN, consents=given_to(USER, TALK)), BEFORE) == "no_consent"


LEVELS: list[tuple[Any, bool, str | None]] = [
    (0, True, None),
    (2, True, None),
    (3, True, "crisis"),
    (4, False, "crisis"),
    ("nobody", True, "gate_error"),
    ("nobody", False, None),
    ("unjudged", True, "gate_error"),
    ("unjudged", False, "gate_error"),  # there is a judge, and it failed
]


@pytest.mark.parametrize(("level", "required", "reason"), LEVELS)
def test_a_crisis_stays_here(level: Any, required: bool, reason: str | None) -> None:
    plan = GatePlan(provider="far", version="v2", declared=FAR, names={}, require_judge=required)
    assert walk(Case(run(), plan=plan, consents=given_to(ALL), level=level), JUDGED) == reason


# --- content ---------------------------------------------------------------------------------------------------------


def places(words: str) -> dict[str, RunModel]:
    """One order per place where words can stand that leave."""
    call = ToolCall(id="i", name="look", arguments=json.dumps({"at": words}))
    schema = {"type": "object", "properties": {"place": {"description": words}}}
    assistant = Turn(role="assistant", content="", tool_calls=(call,))
    return {
        "turn": run(messages=(Turn(role="user", content=f"Use {words} there."),)),
        "system": run(messages=(Turn(role="system", content=words), Turn(role="user", content="Walk."))),
        "arguments": run(messages=(assistant,)),
        "result": run(
            messages=(Turn(role="user", content="Walk."), Turn(role="tool", content=words, tool_call_id="i"))
        ),
        "tool": run(tools=(Tool(name="look", description=words),)),
        "parameters": run(tools=(Tool(name="look", parameters=schema),)),
        "schema": run(format=Format(type="json_schema", schema=schema)),
        "stop": run(parameters=Parameters(max_tokens=5, temperature=0.0, top_p=1.0, seed=1, stop=(words,))),
        "input": run(messages=(), input=("one", words)),
        "prefill": run(prefill=f"It was {words}", continuation="native"),
    }


@pytest.mark.parametrize("place", places("x"))
def test_a_secret_stays_wherever_it_stands(packs: Packs, place: str) -> None:
    assert walk(Case(places(SECRET)[place], scanners=packs), CONTENT) == "secret"
    assert walk(Case(places("a lamp")[place], scanners=packs), CONTENT) is None


@pytest.mark.parametrize("place", places("x"))
def test_personal_data_are_taken_out_wherever_they_stand(packs: Packs, place: str) -> None:
    order = places(MAIL)[place]
    case = Case(order, scanners=packs, refuse_pii=False)
    assert walk(case, CONTENT) is None and case.redacted == 1
    sent = json.dumps(gate.leaving(case.run))
    assert MAIL not in sent and "[email]" in sent
    assert (case.run.run_id, case.run.model, case.run.user) == ("r", "m", "u")
    for turn in case.run.messages:
        for call in turn.tool_calls:
            json.loads(call.arguments)
    assert walk(Case(order, scanners=packs, refuse_pii=True), CONTENT) == "pii"


CARD = 4111111111111111


def call_of(arguments: str) -> RunModel:
    call = ToolCall(id="i", name="look", arguments=arguments)
    return run(messages=(Turn(role="assistant", content="", tool_calls=(call,)),))


@pytest.mark.parametrize("between", ["", "\n", "\t", "\u200b", " "])
def test_arguments_are_read_as_the_vendor_reads_them(packs: Packs, between: str) -> None:
    """Undone from JSON, a key that was broken in two is one again to whoever reads it."""
    broken = SECRET[:40] + between + SECRET[40:]
    for arguments in (json.dumps({"k": broken}), json.dumps([{"deep": json.dumps({"k": broken})}])):
        assert walk(Case(call_of(arguments), scanners=packs), CONTENT) == "secret"


def test_a_value_is_read_beside_its_name(packs: Packs) -> None:
    value = {"type": "object", "default": {"password": "Tr0ub4dor&3xyz"}}
    for order in (run(tools=(Tool(name="x", parameters=value),)), run(format=Format(type="json_schema", schema=value))):
        assert walk(Case(order, scanners=packs), CONTENT) == "secret"


def test_numbers_in_json_are_read_and_our_own_are_not(packs: Packs) -> None:
    schema = {"type": "object", "properties": {"card": {"enum": [1, CARD]}}}
    for order in (run(tools=(Tool(name="x", parameters=schema),)), call_of(json.dumps({"n": [CARD]}))):
        assert walk(Case(order, scanners=packs, refuse_pii=True), CONTENT) == "pii"
    ours = run(parameters=Parameters(max_tokens=5, temperature=0.0, top_p=1.0, seed=CARD))
    assert walk(Case(ours, scanners=packs, refuse_pii=True), CONTENT) is None


@pytest.mark.parametrize("arguments", [f' {{"n": {CARD}, "m": "{MAIL}"}}', json.dumps({"j": f'\n["{MAIL}", {CARD}]'})])
def test_what_is_taken_out_of_json_leaves_json(packs: Packs, arguments: str) -> None:
    case = Case(call_of(arguments), scanners=packs, refuse_pii=False)
    assert walk(case, CONTENT) is None and case.redacted == 2
    sent = case.run.messages[0].tool_calls[0].arguments
    assert isinstance(json.loads(sent), dict) and MAIL not in sent and str(CARD) not in sent
    inner = json.loads(sent).get("j")
    assert inner is None or isinstance(json.loads(inner), list)


def test_what_is_nested_beyond_reading_stays_here(packs: Packs) -> None:
    for depth, reason in ((90, None), (900, "gate_error"), (50_000, "gate_error")):
        order = call_of("[" * depth + "1" + "]" * depth)
        assert walk(Case(order, scanners=packs), CONTENT) == reason


def test_what_is_told_of_a_failure_is_what_was_raised() -> None:
    told: list[Exception] = []
    case = Case(run(), scanners=Raises("secrets", KeyError("x")))
    assert walk(case, CONTENT, told.append) == "gate_error" and isinstance(told[0], KeyError)


def test_what_stays_is_not_looked_at_and_not_changed(packs: Packs) -> None:
    order = run(user=MAIL, conversation=SECRET)  # as if a hash looked like that
    case = Case(order, scanners=packs, refuse_pii=False)
    assert walk(case, CONTENT) is None and case.run == order


def test_what_can_be_no_other_name_stays_here(packs: Packs) -> None:
    """Redacted, the name of a field of a schema would be another; so the whole stays."""
    schema = {"type": "object", "properties": {MAIL: {"type": "string"}}}
    case = Case(run(tools=(Tool(name="look", parameters=schema),)), scanners=packs, refuse_pii=False)
    assert walk(case, CONTENT) == "pii"


# --- whatever fails --------------------------------------------------------------------------------------------------

ANY_ERROR = st.sampled_from([ValueError, KeyError, RuntimeError, RecursionError, MemoryError, OSError, AssertionError])


@given(st.integers(0, 4), st.one_of(ANY_ERROR.map(lambda e: e("x")), st.just(Blocked("pii"))))
def test_whatever_a_stage_raises_nothing_after_it_is_asked(at: int, error: Exception) -> None:
    asked: list[int] = []

    def stage(number: int) -> Callable[[Case], None]:
        def ask(_: Case) -> None:
            asked.append(number)
            if number == at:
                raise error

        return ask

    reason = walk(Case(run()), [stage(n) for n in range(5)])
    assert reason == ("pii" if isinstance(error, Blocked) else "gate_error") and asked == list(range(at + 1))


class Raises:
    """Scanners of which one raises."""

    def __init__(self, which: str, error: Exception) -> None:
        self.which, self.error = which, error

    def secrets(self, text: str) -> Sequence[Any]:
        return self._scan("secrets", ())

    def pii(self, text: str) -> Sequence[Any]:
        return self._scan("pii", (1,))

    def redact(self, text: str, findings: Sequence[Any]) -> str:
        self._scan("redact", ())
        return "clean"

    def _scan(self, name: str, found: Sequence[Any]) -> Sequence[Any]:
        if name == self.which:
            raise self.error
        return found


@given(st.sampled_from(["secrets", "pii", "redact"]), ANY_ERROR)
def test_a_scanner_that_raises_shuts_the_gate(which: str, error: type[Exception]) -> None:
    case = Case(run(), scanners=Raises(which, error("x")), refuse_pii=False)
    assert walk(case, CONTENT) == "gate_error"


@pytest.mark.parametrize("stages", [BEFORE, JUDGED, CONTENT])
def test_a_gate_that_lacks_what_it_decides_by_is_shut(stages: Any) -> None:
    assert walk(Case(run()), stages) == "gate_error"


def test_the_order_of_the_stages() -> None:
    assert [stage.__name__ for stage in (*JUDGED, *CONTENT)] == ["consent", "policy", "crisis", "secrets", "pii"]
    assert JUDGED[:2] == BEFORE
