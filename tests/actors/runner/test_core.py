"""A runner's core: admit or say busy at once, relay, one end per attempt, beats, stopping."""

from __future__ import annotations

from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from understudy.actors.runner import core
from understudy.actors.runner.state import guess_tokens
from understudy.messages.events import ModelLoaded, ModelUnloaded
from understudy.messages.generate import Parameters, Turn
from understudy.messages.keys import KeyRefused
from understudy.messages.run import (
    CancelRun,
    ModelLoad,
    RunEnded,
    RunFailed,
    RunFailure,
    RunModel,
    RunnerBeat,
    RunStarted,
    RunText,
)
from understudy.messages.step import (
    Asked,
    Booted,
    CallEnded,
    CallFailed,
    CallModel,
    CallText,
    CancelCall,
    EdgeReady,
    Send,
    Stopping,
    Store,
    Unheard,
    Wake,
    Woke,
)
from understudy.messages.tools import Format, Tool, ToolCall

PARAMETERS = Parameters(max_tokens=5, temperature=0.0, top_p=1.0, seed=1)


class Desk:
    """One runner process with two slots for `m/1` and one for `n`."""

    def __init__(self, ready: bool = True) -> None:
        self.state, self.settings = core.State(), core.Settings(models={"m/1": 2, "n": 1})
        self.effects: list[Any] = []
        self.feed(Booted(1.0, "runner", "i1", "tta", "_INBOX_A.i1", "id"))
        if ready:
            self.feed(EdgeReady(1000.0, {"engine": "openai", "m/1": {"layers": 2}}))

    def feed(self, message: Any) -> list[Any]:
        out = core.step(self.state, message, self.settings)
        self.effects += out
        return out

    def ask(
        self,
        run: str,
        model: str = "m/1",
        at: float = 1000.0,
        reply: str = "",
        left: float = 500.0,
        **more: Any,
    ) -> list[Any]:
        turns = (Turn(role="user", content="Hello there"),)
        one = RunModel(
            run_id=run, attempt=0, model=model, messages=turns, parameters=PARAMETERS, remaining_ms=left, **more
        )
        return self.feed(Asked(at, "id", "s", reply or f"to.{run}", one))

    def ends(self, run: str) -> list[Any]:
        said = [e.message for e in self.effects if isinstance(e, Send) and e.subject == f"to.{run}"]
        return [m for m in said if isinstance(m, RunEnded | RunFailed)]


def test_admitted() -> None:
    desk = Desk()
    call, wake = desk.ask("r1")
    assert isinstance(call, CallModel) and call.call_id == "r1.0" and call.run.model == "m/1"
    assert wake == Wake(1020.0, "r1.0", 0) and core.in_hand(desk.state) == 1


def test_who_is_silent_for_a_while_says_that_it_has_begun() -> None:
    desk = Desk()
    desk.ask("r1")
    started = Send("to.r1", RunStarted(run_id="r1", attempt=0, instance="i1"))
    assert desk.feed(Woke(1020.0, "r1.0", 0)) == [started, Wake(1500.0, "r1.0", 0)]
    assert desk.feed(Woke(1030.0, "r1.0", 0)) == [Wake(1500.0, "r1.0", 0)]
    assert desk.feed(CallText(1040.0, "r1.0", "a", 1))[0].message.instance == "i1"
    desk.ask("r2", left=10.0)
    assert [e.message.reason for e in desk.feed(Woke(1010.0, "r2.0", 0)) if isinstance(e, Send)] == ["deadline"]


def test_where_nobody_reads_along_the_beginning_waits_for_more() -> None:
    desk = Desk()
    desk.ask("r1", live=False)
    assert desk.feed(CallText(1005.0, "r1.0", "a", 1)) == []
    assert desk.feed(CallText(1010.0, "r1.0", "b", 2, exact=True)) == []
    first, wake = desk.feed(Woke(1020.0, "r1.0", 0))
    piece = RunText(run_id="r1", attempt=0, instance="i1", n=0, text="ab", tokens=3, held_ms=15.0)
    assert first.message == piece
    assert first.reply == "_INBOX_A.i1.vanished.r1.0" and wake == Wake(1500.0, "r1.0", 0)
    (second,) = desk.feed(CallText(1100.0, "r1.0", "c", 2, exact=True))
    assert (second.message.n, second.message.text, second.message.held_ms) == (1, "c", 0.0)
    end = desk.feed(CallEnded(1460.0, "r1.0", "stop", 7, None))[0].message
    assert (end.pieces, end.text, end.usage.completion_tokens) == (2, "", 5)


def test_what_was_held_is_said_before_a_failure() -> None:
    desk = Desk()
    desk.ask("r1", live=False)
    desk.feed(CallText(1005.0, "r1.0", "a", 1))
    text, failed, _ = desk.feed(CallFailed(1006.0, "r1.0", "broken_stream"))
    assert (text.message.text, failed.message.reason) == ("a", "broken_stream")


def test_an_answer_at_once_is_one_message() -> None:
    desk = Desk()
    desk.ask("r1", live=False)
    desk.feed(CallText(1005.0, "r1.0", "a", 1))
    send, _ = desk.feed(CallEnded(1006.0, "r1.0", "stop", 7, 1))
    end = send.message
    assert (end.pieces, end.text, end.tokens, end.exact, end.held_ms, send.reply) == (0, "a", 1, False, 1.0, "")


def test_a_probe_gives_its_slot_up_to_a_request() -> None:
    desk = Desk()
    desk.ask("p1", "n", probe=True)
    out = desk.ask("r1", "n")
    assert out[:2] == [CancelCall("p1.0"), Wake(0, "p1.0", 0)]
    assert [e.reason for e in desk.ends("p1")] == ["busy"] and desk.ends("r1") == []
    assert desk.feed(CallFailed(1.0, "p1.0", "cancelled")) == []
    desk.ask("r2", "n")
    desk.ask("p2", "n", probe=True)
    assert [e.reason for e in desk.ends("r2") + desk.ends("p2")] == ["busy", "busy"] and len(desk.state.calls) == 1


def test_text_is_numbered_and_the_end_counts_it() -> None:
    desk = Desk()
    desk.ask("r1")
    texts = [desk.feed(CallText(1.0, "r1.0", t, 2))[0].message for t in ("a", "b")]
    assert texts == [RunText(run_id="r1", attempt=0, instance="i1", n=n, text=t, tokens=2) for n, t in enumerate("ab")]
    assert desk.feed(CallText(1.0, "r1.0", "c", 1, exact=True))[0].message.exact
    send, wake = desk.feed(CallEnded(1.0, "r1.0", "stop", 7, 9))
    end = send.message
    assert (end.pieces, end.finish_reason, end.usage.prompt_tokens, end.usage.completion_tokens) == (3, "stop", 7, 9)
    assert not end.usage.estimated and wake == Wake(0, "r1.0", 0) and core.in_hand(desk.state) == 0


def test_tools_calls_schema_and_prefill_are_part_of_an_estimated_prompt() -> None:
    plain, more = Desk(), Desk()
    called = Turn(role="assistant", content="", tool_calls=(ToolCall(id="c", name="look", arguments='{"a":1}'),))
    wanted: dict[str, Any] = {
        "tools": (Tool(name="look", description="x" * 400),),
        "format": Format(type="json_schema", schema={"title": "y" * 400}),
        "prefill": "z" * 400,
    }
    guesses: list[int] = []
    for desk, fields in ((plain, dict[str, Any]()), (more, wanted)):
        desk.ask("r1", **fields)
        desk.feed(CallEnded(1100.0, "r1.0", "stop", None, 3))
        guesses.append(next(e.message.usage.prompt_tokens for e in desk.effects if isinstance(e, Send)
                            and isinstance(e.message, RunEnded)))  # fmt: skip
    assert guesses[0] + 300 <= guesses[1] <= guesses[0] + 400
    run = RunModel(run_id="r", attempt=0, model="m", messages=(called,), parameters=PARAMETERS, remaining_ms=1.0)
    assert guess_tokens(run) > len('{"a":1}') // 4 + 1


@pytest.mark.parametrize(
    ("prompt", "completion", "estimated"), [(None, None, True), (7, None, True), (None, 9, True), (0, 0, False)]
)
def test_usage_that_the_provider_did_not_send_is_marked(prompt: Any, completion: Any, estimated: bool) -> None:
    desk = Desk()
    desk.ask("r1")
    desk.feed(CallText(1.0, "r1.0", "a", 3))
    usage = desk.feed(CallEnded(1.0, "r1.0", "stop", prompt, completion))[0].message.usage
    assert usage.estimated is estimated
    assert usage.completion_tokens == (3 if completion is None else completion)
    assert usage.prompt_tokens == (3 if prompt is None else prompt)


@pytest.mark.parametrize(
    ("word", "reason"),
    [("stop", "stop"), ("length", "length"), ("refusal", "refusal"), ("content_filter", "refusal"), ("eos", "stop")],
)
def test_finish_words(word: str, reason: str) -> None:
    desk = Desk()
    desk.ask("r1")
    assert desk.feed(CallEnded(1.0, "r1.0", word, 1, 1))[0].message.finish_reason == reason


@pytest.mark.parametrize("served", ["m/1-0613", None])
def test_another_model_behind_the_name_is_told(served: Any) -> None:
    desk = Desk()
    desk.ask("r1")
    assert desk.feed(CallEnded(1.0, "r1.0", "stop", 1, 1, served))[0].message.served_by == served


def test_a_refused_key_is_told_once_until_it_is_taken_again() -> None:
    desk = Desk()
    desk.settings = core.Settings(models={"m/1": 2, "n": 1}, provider="lab")

    def refused(run: str, key_id: str | None = "k1", status: int | None = 401) -> list[Any]:
        desk.ask(run)
        out = desk.feed(CallFailed(5.0, f"{run}.0", "auth", status, None, key_id))
        assert out[0].message.key_id == key_id
        return [e for e in out if isinstance(e, Store)]

    (told,) = refused("r1")
    assert told.event == KeyRefused(at_ms=5, provider="lab", key_id="k1", model="m/1", status=401) and told.key == "lab"
    assert refused("r2") == [] and len(refused("r3", "k2", 403)) == 1
    assert refused("r4", None) == [], "a provider that wants a key and has none here"
    assert refused("r5", "k3", None) == [], "nothing was sent"
    desk.ask("r6")
    send, _ = desk.feed(CallEnded(6.0, "r6.0", "stop", 1, 1, key_id="k1"))
    assert send.message.key_id == "k1" and len(refused("r7")) == 1


@pytest.mark.parametrize("reason", sorted(get_args(RunFailure)))
def test_every_failure_word_is_passed_on(reason: str) -> None:
    desk = Desk()
    desk.ask("r1")
    send, wake = desk.feed(CallFailed(1.0, "r1.0", reason, 503, 40))
    assert (send.message.reason, send.message.status, send.message.retry_after_ms) == (reason, 503, 40)
    assert wake.at_ms == 0


def test_busy_at_once_per_model() -> None:
    desk = Desk()
    desk.ask("r1")
    desk.ask("r2")
    (send,) = desk.ask("r3")
    assert send.message.reason == "busy"
    assert len(desk.ask("r4", "n")) == 2
    desk.feed(CallEnded(1.0, "r1.0", "stop", 1, 1))
    assert len(desk.ask("r5")) == 2


@pytest.mark.parametrize(
    ("fields", "reason"), [({"model": "other"}, "busy"), ({"left": 0.0}, "deadline"), ({"left": -3.0}, "deadline")]
)
def test_refused(fields: Any, reason: str) -> None:
    desk = Desk()
    (send,) = desk.ask("r1", **fields)
    assert send.message.reason == reason and core.in_hand(desk.state) == 0


def test_not_ready_is_busy() -> None:
    assert Desk(ready=False).ask("r1")[0].message.reason == "busy"


def test_an_ask_that_came_twice_runs_once() -> None:
    desk = Desk()
    desk.ask("r1")
    assert desk.ask("r1") == []


def test_cancel_reaches_the_edge_and_unknown_runs_do_not() -> None:
    desk = Desk()
    desk.ask("r1")
    for run, effects in (("r1", [CancelCall("r1.0")]), ("r2", [])):
        assert desk.feed(Asked(1.0, "id", "s", "", CancelRun(run_id=run, attempt=0))) == effects
    assert desk.feed(CallFailed(1.0, "r1.0", "cancelled"))[0].message.reason == "cancelled"


def test_the_deadline_ends_the_call_once() -> None:
    desk = Desk()
    desk.ask("r1")
    cancel, send = desk.feed(Woke(1500.0, "r1.0", 0))
    assert cancel == CancelCall("r1.0") and send.message.reason == "deadline"
    for late in (CallFailed(1.0, "r1.0", "cancelled"), CallText(1.0, "r1.0", "x", 1), Woke(1.0, "r1.0", 0)):
        assert desk.feed(late) == []
    assert desk.state.admission.busy["m/1"] == 0


def test_a_selector_that_died_is_noticed_by_its_silence() -> None:
    desk = Desk()
    desk.ask("r1", left=60_000.0)
    send = desk.feed(CallText(1.0, "r1.0", "x", 1))[0]
    assert send.reply == "_INBOX_A.i1.vanished.r1.0"
    assert desk.feed(Unheard(20_000.0, send.reply)) == []  # perhaps only its connection
    assert desk.feed(Unheard(20_500.0, send.reply)) == []
    out = desk.feed(Unheard(21_000.0, send.reply))
    assert out[0] == CancelCall("r1.0") and desk.state.calls == {} and desk.state.admission.busy["m/1"] == 0
    assert desk.feed(Unheard(21_100.0, send.reply)) == []


def test_two_short_absences_are_not_one_long() -> None:
    desk = Desk()
    desk.ask("r1", left=60_000.0)
    for at in (20_000.0, 35_000.0, 35_500.0):
        assert desk.feed(Unheard(at, "_INBOX_A.i1.vanished.r1.0")) == []


def test_ready_says_loaded_and_beats() -> None:
    desk = Desk()
    loaded = [e for e in desk.effects if isinstance(e, Store)]
    assert [(e.event.model, e.key, e.msg_id) for e in loaded] == [
        ("m/1", "m_1", "loaded.m_1.i1.1000"),
        ("n", "n", "loaded.n.i1.1000"),
    ]
    assert isinstance(loaded[0].event, ModelLoaded) and loaded[0].event.facts == {"layers": 2}
    assert [e.subject for e in desk.effects if isinstance(e, Send)] == [
        "tta.obs.runner.beat.i1",
    ]
    desk.ask("r1")
    wake, beat = desk.feed(Woke(1250.0, "beat", 0))
    assert wake == Wake(1500.0, "beat", 1)
    loads = {"m/1": ModelLoad(slots=2, in_flight=1), "n": ModelLoad(slots=1)}
    assert beat.message == RunnerBeat(instance="i1", models=loads)


def test_stopping_takes_nothing_new_and_ends_what_is_in_hand() -> None:
    desk = Desk()
    desk.ask("r1")
    out = desk.feed(Stopping(2000.0))
    assert [e.message.accepting for e in out if isinstance(e, Send)] == [False]
    assert [type(e.event) for e in out if isinstance(e, Store)] == [ModelUnloaded, ModelUnloaded]
    assert desk.ask("r2")[0].message.reason == "busy"
    desk.feed(CallEnded(1.0, "r1.0", "stop", 1, 1))
    assert len(desk.ends("r1")) == 1 and core.in_hand(desk.state) == 0


def test_stopping_is_said_once_and_not_at_all_before_ready() -> None:
    desk = Desk()
    assert desk.feed(Stopping(2000.0, 9000.0)) != []
    assert desk.feed(Stopping(2500.0)) == []
    assert Desk(ready=False).feed(Stopping(2000.0)) == []


RUNS = st.sampled_from(["r1", "r2", "r3", "r4"])
WORDS = st.sampled_from(["ask", "text", "end", "fail", "cancel", "expire"])


@given(st.lists(st.tuples(WORDS, RUNS), max_size=40))
def test_any_history_ends_each_admitted_attempt_once_and_never_exceeds_the_slots(history: Any) -> None:
    desk, asked = Desk(), dict.fromkeys(["r1", "r2", "r3", "r4"], 0)
    for word, run in history:
        call = f"{run}.0"
        match word:
            case "ask":
                asked[run] += call not in desk.state.calls
                desk.ask(run)
            case "text":
                desk.feed(CallText(1.0, call, "x", 1))
            case "end":
                desk.feed(CallEnded(1.0, call, "stop", 1, 1))
            case "fail":
                desk.feed(CallFailed(1.0, call, "engine"))
            case "cancel":
                desk.feed(Asked(1.0, "id", "s", "", CancelRun(run_id=run, attempt=0)))
            case _:
                desk.feed(Woke(1.0, call, 0))
        assert desk.state.admission.busy["m/1"] == core.in_hand(desk.state) <= 2
    for run in asked:
        desk.feed(CallFailed(1.0, f"{run}.0", "engine"))
        assert len(desk.ends(run)) == asked[run]
    assert desk.state.admission.busy["m/1"] == 0
