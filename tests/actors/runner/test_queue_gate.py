"""Queue and gate together: an order that waited passes the gate too, and one that the gate stops makes room."""

from __future__ import annotations

from typing import Any

import pytest

from understudy.actors.runner import core
from understudy.messages.consent import ConsentGiven, ConsentWithdrawn
from understudy.messages.gate_plan import GatePlan
from understudy.messages.generate import Parameters, Turn
from understudy.messages.limits import Limits
from understudy.messages.run import CancelRun, ModelLoad, RunFailed, RunModel, RunnerBeat, RunQueued, RunStarted
from understudy.messages.safety import Judged
from understudy.messages.step import (
    Asked,
    Booted,
    CallEnded,
    CallModel,
    CallSent,
    Consult,
    Consulted,
    EdgeReady,
    Happened,
    Heard,
    Screened,
    Send,
    Woke,
)
from understudy.messages.topology import Provider

PARAMETERS = Parameters(max_tokens=5, temperature=0.0, top_p=1.0, seed=1)
FAR = Provider(kind="openai", url="https://far.example/v1")


class Desk:
    """A runner of an external provider with one slot for `m`; u has consented."""

    def __init__(self, **settings: Any) -> None:
        plan = GatePlan(provider="far", version="v", declared=FAR, names={})
        self.settings = core.Settings(**{"models": {"m": 1}, "gate": plan, **settings})
        self.state, self.effects = core.State(), list[Any]()
        self.feed(Booted(0.0, "runner", "i1", "tta", "_INBOX_A.i1", "id"))
        self.feed(EdgeReady(0.0, {}))
        self.feed(Happened(1.0, 1, ConsentGiven(at_ms=0, provider="far", scope="user", who="u", version="v")))

    def feed(self, message: Any) -> list[Any]:
        out = core.step(self.state, message, self.settings)
        self.effects += out
        return out

    def order(self, run: str, model: str = "m", user: str = "u", left: float = 9_000.0, **more: Any) -> RunModel:
        return RunModel(
            run_id=run, attempt=0, model=model, messages=(Turn(role="user", content="Walk."),), parameters=PARAMETERS,
            remaining_ms=left, privacy="external_allowed", user=user, may_wait=True, **more,
        )  # fmt: skip

    def ask(self, run: str, **order: Any) -> list[Any]:
        return self.feed(Asked(10.0, "id", "ask", f"s1.run.{run}.0", self.order(run, **order)))

    def through(self, run: str) -> list[Any]:
        """Every answer that the gate waits for."""
        self.feed(Consulted(11.0, f"{run}.0", ok=True))
        self.feed(Heard(12.0, f"_INBOX_A.i1.run.judge.{run}.0", Judged(level=0)))
        self.feed(Screened(13.0, f"{run}.0", self.order(run)))
        return self.feed(Consulted(14.0, f"last.{run}.0", ok=True))

    def said(self, run: str) -> list[str]:
        told = [e.message for e in self.effects if isinstance(e, Send) and e.subject == f"s1.run.{run}.0"]
        return [one.reason if isinstance(one, RunFailed) else type(one).__name__ for one in told]


def test_an_order_that_waited_passes_the_gate() -> None:
    desk = Desk()
    desk.ask("a")
    assert isinstance(desk.through("a")[0], CallModel)
    assert isinstance(desk.ask("b")[0].message, RunQueued)
    out = desk.feed(CallEnded(20.0, "a.0", "stop", 1, 1))
    assert Consult("b.0") in out and not any(isinstance(e, CallModel) for e in out)
    (call,) = [e for e in desk.through("b") if isinstance(e, CallModel)]
    assert call.outbound is not None and call.outbound.consent == 1
    assert desk.said("b") == ["RunQueued", "RunStarted"]


STOPS: list[tuple[str, Any]] = [
    ("blocked", Consulted(11.0, "a.0", ok=False)),
    ("blocked", Happened(11.0, 2, ConsentWithdrawn(at_ms=0, provider="far", scope="user", who="w"))),
    ("cancelled", Asked(11.0, "id", "ask", "", CancelRun(run_id="a", attempt=0))),
    ("deadline", Woke(9_010.0, "a.0", 0)),
]


@pytest.mark.parametrize(("word", "stop"), STOPS)
def test_one_that_stays_at_the_gate_makes_room(word: str, stop: Any) -> None:
    desk = Desk(limits=Limits(tokens_per_min=10))
    desk.feed(Happened(1.0, 1, ConsentGiven(at_ms=0, provider="far", scope="user", who="w", version="v")))
    desk.ask("a", user="w")
    if isinstance(stop, Happened):
        desk.feed(Consulted(10.5, "a.0", ok=True))
    desk.ask("b", left=9_500.0)
    assert desk.said("b") == ["RunQueued"]
    out = desk.feed(stop)
    assert desk.said("a") == [word] and Consult("b.0") in out
    assert desk.said("b") == ["RunQueued", "RunStarted"] and desk.state.admission.busy["m"] == 1


def test_a_withdrawal_in_mid_call_makes_room() -> None:
    desk = Desk()
    desk.ask("a")
    desk.through("a")
    desk.feed(CallSent(15.0, "a.0", 99))
    desk.feed(Happened(1.0, 2, ConsentGiven(at_ms=1, provider="far", scope="user", who="w", version="v")))
    desk.ask("b", user="w")
    out = desk.feed(Happened(16.0, 3, ConsentWithdrawn(at_ms=2, provider="far", scope="user", who="u")))
    assert desk.said("a")[-1] == "blocked" and Consult("b.0") in out


def test_models_of_a_list_have_slots_and_a_queue_as_well() -> None:
    desk = Desk(models={}, others_slots=1, gate=None)
    here = {"model": "x/listed", "name": "x", "context_tokens": 4_096}
    assert isinstance(desk.ask("a", **here)[0], CallModel)
    assert isinstance(desk.ask("b", **here)[0].message, RunQueued)
    assert isinstance(desk.ask("c", **{**here, "model": "y/listed"})[0], CallModel), "each has its own"
    (beat,) = [e.message for e in desk.feed(Woke(250.0, "beat", 0)) if isinstance(e, Send)][:1]
    assert isinstance(beat, RunnerBeat)
    assert beat.models == {
        "x/listed": ModelLoad(slots=1, in_flight=1, waiting=1),
        "y/listed": ModelLoad(slots=1, in_flight=1),
    }
    for run in "abc":
        desk.feed(CallEnded(300.0, f"{run}.0", "stop", 1, 1))
    assert desk.said("b") == ["RunQueued", "RunStarted", "RunEnded"]
    assert desk.state.admission.busy == {}, "nothing is kept of models that are not at work"


def test_a_runner_of_named_models_alone_takes_no_others() -> None:
    desk = Desk()
    desk.ask("a", model="x/listed")
    assert desk.said("a") == ["busy"]
    assert RunStarted.__name__ not in desk.said("a")
