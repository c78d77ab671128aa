"""An order on its way through the gate, input by input: what is asked of whom, and what each answer leads to."""

from __future__ import annotations

from typing import Any

import pytest

from understudy.actors.runner import core
from understudy.messages.consent import ConsentGiven, ConsentWithdrawn
from understudy.messages.gate_plan import GatePlan
from understudy.messages.generate import Failed, Parameters, Turn
from understudy.messages.run import CancelRun, RunEnded, RunFailed, RunModel
from understudy.messages.safety import Judge, Judged
from understudy.messages.step import (
    Asked,
    Booted,
    CallEnded,
    CallFailed,
    CallModel,
    CallSent,
    CancelCall,
    Consult,
    Consulted,
    EdgeReady,
    Happened,
    Heard,
    Screen,
    Screened,
    Send,
    Unheard,
    Wake,
    Woke,
)
from understudy.messages.topology import Provider

CLOUDS = Provider(kind="ollama", url="http://127.0.0.1:1")
PLAN = GatePlan(provider="far", version="v", declared=CLOUDS, names={"m": "m:cloud"}, judge_ms=500)
ID = "r.0"
LAST = "last.r.0"
JUDGE_INBOX = f"_INBOX_A.r1.run.judge.{ID}"


class Gate:
    """A runner core of one external model `m` and one model of this machine `n`."""

    def __init__(self, **plan: Any) -> None:
        fields = {name: getattr(PLAN, name) for name in PLAN.__struct_fields__}
        self.settings = core.Settings(models={"m": 4, "n": 4}, gate=GatePlan(**{**fields, **plan}))
        self.state, self.seq, self.out = core.State(), 0, list[Any]()
        self.feed(Booted(0.0, "runner", "r1", "tta", "_INBOX_A.r1", "id"))
        self.ready = self.feed(EdgeReady(0.0, {}))

    def feed(self, message: Any) -> list[Any]:
        out = core.step(self.state, message, self.settings)
        self.out += out
        return out

    def given(self, version: str = "v", who: str = "u") -> list[Any]:
        self.seq += 1
        event = ConsentGiven(at_ms=0, provider="far", scope="user", who=who, version=version)
        return self.feed(Happened(1.0, self.seq, event))

    def withdrawn(self, who: str = "u") -> list[Any]:
        self.seq += 1
        event = ConsentWithdrawn(at_ms=0, provider="far", scope="user", who=who)
        return self.feed(Happened(1.0, self.seq, event))

    def run(self, **fields: Any) -> RunModel:
        plain: dict[str, Any] = {
            "run_id": "r",
            "attempt": 0,
            "model": "m",
            "messages": (Turn(role="user", content="Walk."),),
            "parameters": Parameters(max_tokens=5, temperature=0.0, top_p=1.0, seed=1),
            "remaining_ms": 9_000.0,
            "privacy": "external_allowed",
            "user": "u",
        }
        return RunModel(**{**plain, **fields})

    def ask(self, **fields: Any) -> list[Any]:
        return self.feed(Asked(10.0, "x", "ask", "caller", self.run(**fields)))

    def to(self, stage: str) -> Gate:
        """As far as a sound order comes."""
        self.given()
        self.ask()
        steps = {
            "judge": Consulted(11.0, ID, ok=True),
            "screen": Heard(12.0, JUDGE_INBOX, Judged(level=0)),
            "last": Screened(13.0, ID, self.run(), redacted=1),
            "call": Consulted(13.5, LAST, ok=True),
            "sent": CallSent(14.0, ID, 321),
        }
        for name, message in steps.items():
            if stage == "consult":
                break
            self.feed(message)
            if name == stage:
                break
        return self

    def failure(self) -> RunFailed:
        (failed,) = [e.message for e in self.out if isinstance(e, Send) and isinstance(e.message, RunFailed)]
        return failed

    def calls(self) -> list[CallModel]:
        return [e for e in self.out if isinstance(e, CallModel)]


def kinds(effects: list[Any]) -> list[type[Any]]:
    return [type(e) for e in effects if not isinstance(e, Wake)]


def test_each_question_follows_the_answer_before() -> None:
    gate = Gate()
    assert kinds(gate.ready)[0] is Consult  # warm, before anybody asks
    gate.given()
    assert gate.ask()[0] == Consult(ID)
    asked, until = gate.feed(Consulted(11.0, ID, ok=True))
    assert isinstance(asked.message, Judge) and asked.message.messages[0].content == "Walk."
    assert (asked.subject, asked.reply) == ("tta.ask.safety.judge", JUDGE_INBOX)
    assert until == Wake(511.0, f"judge.{ID}", 0)
    (screen,) = [e for e in gate.feed(Heard(12.0, JUDGE_INBOX, Judged(level=2))) if isinstance(e, Screen)]
    assert (screen.call_id, screen.refuse_pii) == (ID, False) and gate.calls() == []
    clean = gate.run(messages=(Turn(role="user", content="[email]"),))
    assert gate.feed(Screened(13.0, ID, clean, redacted=1)) == [Consult(LAST)]
    (call,) = gate.feed(Consulted(13.5, LAST, ok=True))
    assert call.run is clean and call.outbound is not None
    assert (call.outbound.provider, call.outbound.consent, call.outbound.redacted) == ("far", 1, 1)


def test_what_left_is_said_with_the_end() -> None:
    gate = Gate().to("sent")
    ended = gate.feed(CallEnded(20.0, ID, "stop", 1, 2))
    (end,) = [e.message for e in ended if isinstance(e, Send) and isinstance(e.message, RunEnded)]
    assert end.outbound is not None and (end.outbound.bytes, end.outbound.consent) == (321, 1)
    failing = Gate().to("sent")
    failing.feed(CallFailed(20.0, ID, "server_error", 500))
    failed = failing.failure()
    assert failed.reason == "server_error" and failed.outbound is not None and failed.outbound.bytes == 321


def test_a_model_of_this_machine_passes_no_gate() -> None:
    gate = Gate()
    assert isinstance(gate.ask(model="n", privacy="local_only", user="")[0], CallModel)


REFUSED: list[tuple[str, Any, str]] = [
    ("consult", Consulted(11.0, ID, ok=False), "gate_error"),
    ("judge", Heard(12.0, JUDGE_INBOX, Judged(level=3)), "crisis"),
    ("judge", Heard(12.0, JUDGE_INBOX, Judged(level=4)), "crisis"),
    ("judge", Heard(12.0, JUDGE_INBOX, Failed(code="internal", text="It raised.")), "gate_error"),
    ("judge", Unheard(12.0, JUDGE_INBOX), "gate_error"),  # nobody judges, and somebody must
    ("judge", Woke(511.0, f"judge.{ID}", 0), "gate_error"),
    ("screen", Screened(13.0, ID, None, blocked="secret"), "secret"),
    ("screen", Screened(13.0, ID, None, blocked="pii"), "pii"),
    ("screen", Screened(13.0, ID, None, blocked="gate_error"), "gate_error"),
    ("screen", Screened(13.0, ID, None), "gate_error"),
    ("last", Consulted(13.5, LAST, ok=False), "gate_error"),
]


@pytest.mark.parametrize(("stage", "answer", "reason"), REFUSED)
def test_a_refusal_ends_it_before_anything_left(stage: str, answer: Any, reason: str) -> None:
    gate = Gate().to(stage)
    gate.feed(answer)
    failed = gate.failure()
    assert failed.reason == "blocked" and failed.outbound is not None
    assert (failed.outbound.blocked, failed.outbound.bytes) == (reason, 0)
    assert gate.calls() == [] and gate.state.calls == {} and gate.state.admission.busy["m"] == 0


@pytest.mark.parametrize("fields", [{"user": "other"}, {"user": ""}, {"privacy": "local_only"}])
def test_no_word_of_a_selector_is_needed(fields: dict[str, Any]) -> None:
    gate = Gate()
    gate.given()
    gate.ask(**fields)
    gate.feed(Consulted(11.0, ID, ok=True))
    reason = "local_only" if "privacy" in fields else "no_consent"
    outbound = gate.failure().outbound
    assert outbound is not None and outbound.blocked == reason and gate.calls() == []


def test_where_nobody_must_judge_silence_is_no_refusal() -> None:
    gate = Gate(require_judge=False).to("judge")
    assert kinds(gate.feed(Unheard(12.0, JUDGE_INBOX))) == [Screen]


def test_a_probe_is_not_judged_and_rests_on_the_installations_consent() -> None:
    gate = Gate()
    gate.given()
    gate.ask(probe=True, privacy="local_only", user="")
    gate.feed(Consulted(11.0, ID, ok=True))
    assert gate.failure().outbound.blocked == "no_consent"  # pyright: ignore[reportOptionalMemberAccess]
    gate = Gate()
    event = ConsentGiven(at_ms=0, provider="far", scope="installation", version="v")
    gate.feed(Happened(1.0, 1, event))
    gate.ask(probe=True, privacy="local_only", user="")
    assert kinds(gate.feed(Consulted(11.0, ID, ok=True))) == [Screen]


@pytest.mark.parametrize("stage", ["judge", "screen", "last", "call", "sent"])
def test_a_withdrawal_ends_what_rests_on_it_wherever_it_is(stage: str) -> None:
    gate = Gate().to(stage)
    out = gate.withdrawn()
    assert (CancelCall in kinds(out)) == (stage in ("call", "sent"))
    if stage == "call":  # it is out: how much of it the edge is about to say
        assert gate.withdrawn() == []
        gate.feed(CallSent(14.0, ID, 321))
    failed = gate.failure()
    assert failed.reason == "blocked" and failed.outbound is not None and failed.outbound.blocked == "no_consent"
    assert failed.outbound.bytes == (321 if stage in ("call", "sent") else 0)
    calls = len(gate.calls())
    gate.feed(Screened(30.0, ID, gate.run()))
    gate.feed(Heard(30.0, JUDGE_INBOX, Judged(level=0)))
    gate.feed(CallFailed(30.0, ID, "cancelled"))
    assert len(gate.calls()) == calls  # nothing of it comes to life again
    gate.failure()


def test_one_that_was_withdrawn_and_never_sent_says_so() -> None:
    """The key was revoked, say: then the edge has nothing to send it with."""
    gate = Gate().to("call")
    gate.withdrawn()
    gate.feed(CallFailed(14.0, ID, "auth"))
    failed = gate.failure()
    assert failed.reason == "blocked" and failed.outbound is not None
    assert (failed.outbound.blocked, failed.outbound.bytes) == ("no_consent", 0)


def test_what_the_edge_keeps_is_the_gates_error() -> None:
    gate = Gate().to("call")
    gate.feed(CallFailed(14.0, ID, "blocked"))
    failed = gate.failure()
    assert failed.outbound is not None and (failed.outbound.blocked, failed.outbound.bytes) == ("gate_error", 0)


def test_the_judge_is_shown_what_is_to_be_continued() -> None:
    gate = Gate()
    gate.given()
    gate.ask(prefill="The lamp", continuation="native")
    (asked, _) = gate.feed(Consulted(11.0, ID, ok=True))
    assert [turn.content for turn in asked.message.messages] == ["Walk.", "The lamp"]


def test_one_that_was_withdrawn_before_the_log_was_read_never_begins() -> None:
    gate = Gate().to("consult")
    assert gate.withdrawn() == []  # the answer to the reading tells
    gate.feed(Consulted(11.0, ID, ok=True))
    outbound = gate.failure().outbound
    assert outbound is not None and outbound.blocked == "no_consent"


def test_others_calls_go_on() -> None:
    gate = Gate().to("sent")
    assert gate.withdrawn("other") == [] and ID in gate.state.calls


@pytest.mark.parametrize("stage", ["consult", "judge", "screen", "last"])
def test_cancelled_at_the_gate(stage: str) -> None:
    gate = Gate().to(stage)
    out = gate.feed(Asked(15.0, "x", "ask", "", CancelRun(run_id="r", attempt=0)))
    assert CancelCall not in kinds(out) and gate.failure().reason == "cancelled" and gate.state.calls == {}
    outbound = gate.failure().outbound
    assert outbound is not None and (outbound.bytes, outbound.consent, outbound.blocked) == (0, 0, None)


@pytest.mark.parametrize("stage", ["consult", "judge", "screen", "last"])
def test_the_deadline_ends_it_at_the_gate_too(stage: str) -> None:
    gate = Gate().to(stage)
    gate.feed(Woke(9_010.0, ID, 0))
    assert gate.failure().reason == "deadline" and gate.state.calls == {}
    outbound = gate.failure().outbound
    assert outbound is not None and (outbound.bytes, outbound.consent, outbound.blocked) == (0, 0, None)


@pytest.mark.parametrize("stage", ["consult", "judge", "screen", "last", "call"])
def test_an_answer_to_another_question_opens_nothing(stage: str) -> None:
    """Each stage takes its own answer only, in whatever order the others come."""
    answers = {
        "consult": Consulted(11.0, ID, ok=True),
        "judge": Heard(12.0, JUDGE_INBOX, Judged(level=0)),
        "screen": Screened(13.0, ID, Gate().run()),
        "last": Consulted(13.5, LAST, ok=True),
    }
    gate = Gate().to(stage)
    before = len(gate.out)
    for name, answer in answers.items():
        if name != stage:
            gate.feed(answer)
    assert gate.out[before:] == []
