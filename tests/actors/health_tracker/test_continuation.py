"""The continuation probe: who passes, when it is asked, what is said, and that it harms nobody."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.actors.health_tracker.tracked import Table
from understudy.actors.health_tracker.continuation import CUTS, KNOWN, matches
from understudy.actors.runner.dialects import openai_chat as openai
from understudy.messages.events import AttemptEnded, ModelLoaded, ModelProbed
from understudy.messages.generate import Usage
from understudy.messages.run import ModelLoad, ProcessGone, RunEnded, RunFailed, RunFailure, RunnerBeat, RunText
from understudy.messages.step import CaughtUp, Store, Unheard, Woke
from understudy.messages.topology import Model
from understudy.tools.fake.script import ChatRequest, built_in_faults, reply

SOME_TEXT = {"m": {"continues": "probe"}}


class Tracker(Table):
    """A tracker whose models answer as the fake provider's of that name would."""

    def __init__(self, models: Any = None, loaded: bool = True, **settings: Any) -> None:
        super().__init__(models or SOME_TEXT, **settings)
        self.feed(CaughtUp(self.now, self.seq))
        if loaded:
            for model in self.state.watches:
                self.load(model)

    def load(self, model: str = "m") -> None:
        self.happen(ModelLoaded(at_ms=0, model=model, instance=f"i-{model}", engine="http"))

    def sweep(self, ms: float = 250.0, busy: int = 0, slots: int = 4, beats: bool = True) -> None:
        self.now += ms
        for model in self.state.watches if beats else ():
            self.hear(RunnerBeat(instance=f"i-{model}", models={model: ModelLoad(slots=slots, in_flight=busy)}))
        self.generation += 1
        self.feed(Woke(self.now, "sweep", self.generation))

    def found(self) -> list[tuple[str, str, str]]:
        stores = [e.event for e in self.effects if isinstance(e, Store)]
        return [(e.model, e.continues, e.reason) for e in stores if isinstance(e, ModelProbed)]

    def text(self, *words: str, finish: Any = "stop", pieces: int | None = None) -> None:
        run = self.asked()[-1].run_id
        for n, word in enumerate(words):
            self.hear(RunText(run_id=run, attempt=0, instance="i-a", n=n, text=word))
        count = len(words) if pieces is None else pieces
        self.hear(RunEnded(run_id=run, attempt=0, pieces=count, finish_reason=finish, usage=Usage()))

    def fail(self, reason: str) -> None:
        failure = msgspec.convert(reason, RunFailure)
        self.hear(RunFailed(run_id=self.asked()[-1].run_id, attempt=0, reason=failure))

    def play(self, kind: str) -> None:
        """Answer every question as the fake's model of this kind does, in the real dialect, until nothing is asked."""
        answered = 0
        while answered < len(self.asked()):
            answered = len(self.asked())
            request = msgspec.json.decode(openai.body(self.asked()[-1], kind, Model(provider="p")), type=ChatRequest)
            self.text(*reply(built_in_faults()[kind], request).tokens)

    def rest(self) -> str:
        run = self.asked()[-1]
        return KNOWN.removeprefix(run.prefill)


# --- who passes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "continues", "questions"),
    [
        ("ok", "native", 2),
        ("late", "native", 2),  # misbehaves only with longer text: no probe finds that
        ("instructed", "instructed", 3),
        ("instructed-repeat", "instructed", 3),  # the overlap is trimmed
        ("restart", "none", 2),
        ("ignore", "none", 2),
        ("preamble", "none", 2),
        ("repeat", "none", 2),
        ("eat-space", "none", 2),
        ("empty", "none", 2),
        ("refusal", "none", 2),
    ],
)
def test_what_the_fake_s_successors_are_found_to_do(kind: str, continues: str, questions: int) -> None:
    t = Tracker()
    t.sweep()
    t.play(kind)
    assert t.found() == [("m", continues, "no_match" if continues == "none" else "matched")]
    assert len(t.asked()) == questions
    for _ in range(20):
        t.sweep(1_000.0)
    assert len(t.found()) == 1 and len(t.asked()) == questions


def test_the_questions() -> None:
    t = Tracker()
    t.sweep()
    (first,) = t.asked()
    assert first.probe and first.continuation == "native" and first.prefill == KNOWN[: CUTS[0]]
    assert first.messages[0].content == f"Repeat exactly: {KNOWN}" and first.parameters.max_tokens < 100
    t.text(t.rest())
    assert t.asked()[1].prefill == KNOWN[: CUTS[1]] and t.asked()[1].continuation == "native"
    t.text(" " + t.rest())  # a space inside a word
    assert (t.asked()[2].continuation, t.asked()[2].prefill) == ("instructed", KNOWN[: CUTS[0]])


def test_the_known_text_is_cut_after_a_word_and_inside_of_one() -> None:
    after, inside = (KNOWN[cut - 1 : cut + 1] for cut in CUTS)
    assert after[1] == " " and not after[0].isspace() and inside.isalpha()
    assert 12 < CUTS[0] < CUTS[1] < 200


@pytest.mark.parametrize(
    ("form", "before", "after", "right"),
    [
        ("native", "", "", True),
        ("native", "", " \n", True),  # after the last word it says nothing about the joint
        ("native", "", " Amen.", False),
        ("native", " ", "", False),
        ("native", "seven white boats,", "", False),
        ("instructed", "", "", True),
        ("instructed", "seven white boats,", "", True),
        ("instructed", " seven white boats,", "", True),
        ("instructed", "boats,", "", False),  # too short to be told from chance, so it would not be trimmed
        ("instructed", "Here it is: ", "", False),
        ("instructed", "seven white boats, ", "", False),
    ],
)
def test_matches(form: Any, before: str, after: str, right: bool) -> None:
    assert matches(form, 0, before + KNOWN[CUTS[0] :] + after) is right


def test_a_shorter_or_a_changed_rest_is_none() -> None:
    rest = KNOWN[CUTS[0] :]
    for wrong in ("", rest.lstrip(), rest[:-1], rest.replace("heavy", "big"), rest.upper(), KNOWN):
        assert not matches("native", 0, wrong)


@pytest.mark.parametrize("reason", ["caller_fault", "context_too_long", "refused"])
def test_a_form_that_is_declined_is_not_the_model_s(reason: str) -> None:
    """Some endpoints answer a prefill with 400."""
    t = Tracker()
    t.sweep()
    t.fail(reason)
    assert t.asked()[-1].continuation == "instructed"
    t.text(t.rest())
    t.text(t.rest())
    assert t.found() == [("m", "instructed", "matched")]


# --- when ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("declared", ["none", "native", "instructed"])
def test_what_is_declared_is_not_asked(declared: str) -> None:
    t = Tracker({"m": {"continues": declared}})
    t.sweep(1_000.0)
    assert t.asked() == [] and t.found() == []


def test_not_before_it_is_loaded() -> None:
    t = Tracker(loaded=False)
    t.sweep()
    assert t.asked() == []
    t.load()
    t.sweep()
    assert len(t.asked()) == 1


def test_a_busy_model_is_left_alone_for_a_while_and_a_full_one_always() -> None:
    t = Tracker()
    for _ in range(40):
        t.sweep(250.0, busy=1)
    assert t.asked() == []
    t.sweep(500.0, busy=4)
    assert t.asked() == []
    t.sweep(250.0, busy=3)
    assert len(t.asked()) == 1


def test_one_question_at_a_time_per_model_and_few_over_all() -> None:
    t = Tracker({f"m{n}": {"continues": "probe"} for n in range(9)}, trials_at_once=4)
    for _ in range(4):
        t.sweep()
    asked = [run.model for run in t.asked()]
    assert len(asked) == len(set(asked)) == 4
    t.play("restart")
    for _ in range(4):
        t.sweep()
    assert len({run.model for run in t.asked()}) == 5


def test_no_question_to_a_model_that_is_down_or_under_another_probe() -> None:
    t = Tracker(loaded=False)
    for _ in range(3):
        t.happen(AttemptEnded(at_ms=0, run_id="r", attempt=0, model="m", reason="server_error"))
    t.load()
    t.sweep()
    assert t.state.watches["m"].status == "unavailable" and t.asked() == []
    t.sweep(1_000.0)
    assert [run.prefill for run in t.asked()] == [""]  # the health probe
    t.sweep()
    assert len(t.asked()) == 1
    t.text("yes")
    t.sweep()
    assert t.asked()[-1].continuation == "native" and t.state.watches["m"].status == "healthy"


@pytest.mark.parametrize(("allowed", "asked", "found"), [(False, 0, [("m", "none", "costs_money")]), (True, 1, [])])
def test_a_probe_that_costs_money_must_be_allowed(allowed: bool, asked: int, found: Any) -> None:
    t = Tracker({"m": {"continues": "probe", "usd_per_mtok_in": 0.1}}, probe_paid=allowed)
    for _ in range(4):
        t.sweep()
    assert len(t.asked()) == asked and t.found() == found


@pytest.mark.parametrize("how", ["server_error", "gone", "empty-handed", "lost", "unheard", "silence"])
def test_a_probe_that_failed_is_asked_again_later_and_harms_no_health(how: str) -> None:
    t, waits = Tracker(backoff_cap_ms=4_000), []
    t.sweep()
    for n in range(1, 5):
        match how:
            case "empty-handed":
                t.text(pieces=2)
            case "lost":
                t.hear(RunText(run_id=t.asked()[-1].run_id, attempt=0, instance="i-a", n=7, text="x"))
            case "unheard":
                t.feed(Unheard(t.now, f"_INBOX_A.h1.probe.{t.asked()[-1].run_id}"))
            case "silence":
                t.sweep(10_000.0)
            case _:
                t.fail(how)
        failed_at = t.now
        while len(t.asked()) == n:
            t.sweep()
        waits.append(t.now - failed_at)
    assert waits == [1_000, 2_000, 4_000, 4_000]
    assert t.found() == [] and t.state.watches["m"].status == "healthy"
    t.play("ok")
    assert t.found() == [("m", "native", "matched")]


def test_busy_is_asked_again_soon() -> None:
    t = Tracker()
    for n in range(1, 6):
        while len(t.asked()) < n:
            t.sweep()
        t.fail("busy")
        assert t.state.watches["m"].trial_at_ms == t.now + 1_000


# --- what a finding is about ---------------------------------------------------------------------------------------


def test_each_load_is_probed_anew() -> None:
    t = Tracker()
    t.sweep()
    t.play("ok")
    t.load()
    t.sweep()
    t.play("restart")
    assert [(f[1], f[2]) for f in t.found()] == [("native", "matched"), ("none", "no_match")]
    since = [e.event.since_seq for e in t.effects if isinstance(e, Store)]
    assert since == [2, 3]


def test_an_answer_to_a_question_before_the_load_is_dropped() -> None:
    t = Tracker()
    t.sweep()
    t.load()
    t.text(t.rest())
    assert t.found() == [] and len(t.asked()) == 1
    t.sweep()
    t.play("ok")
    assert len(t.found()) == 1


def test_a_changed_declaration_is_probed_anew_an_equal_one_is_not() -> None:
    t = Tracker()
    t.sweep()
    t.play("ok")
    t.declare(SOME_TEXT)
    t.sweep()
    assert len(t.asked()) == 2
    t.declare({"m": {"continues": "probe", "name": "another"}})
    t.sweep()
    t.play("ok")
    assert len(t.found()) == 2


def test_a_tracker_that_starts_anew_knows_what_was_found() -> None:
    t = Tracker(loaded=False)
    t.state.live = False
    t.load()
    t.happen(ModelProbed(at_ms=0, model="m", continues="native", reason="matched", since_seq=t.seq))
    t.feed(CaughtUp(t.now, t.seq))
    t.sweep()
    assert t.asked() == []
    t.load()
    t.sweep()
    assert len(t.asked()) == 1


def test_a_runner_that_dies_under_the_question() -> None:
    t = Tracker()
    t.sweep()
    t.hear(ProcessGone(actor="runner", instance="i-m"))
    for _ in range(60):
        t.sweep(beats=False)
    assert len(t.asked()) == 1 and t.found() == []
    t.load()
    t.sweep()
    assert len(t.asked()) == 2


STEPS = st.sampled_from(
    ["sweep", "long", "load", "ok", "restart", "instructed", "busy", "engine", "gone", "bad", "stray"]
)


@given(st.lists(STEPS, max_size=50))
def test_one_finding_per_load_and_never_two_questions_at_once(history: list[str]) -> None:
    t, loads = Tracker(), 1
    for word in history:
        match word:
            case "sweep" | "long":
                t.sweep(250.0 if word == "sweep" else 11_000.0)
            case "load":
                t.load()
                loads += 1
            case "busy" | "engine":
                if t.asked():
                    t.fail(word)
            case "gone":
                t.hear(ProcessGone(actor="runner", instance="i-m"))
            case "bad":
                t.happen(AttemptEnded(at_ms=0, run_id="r", attempt=0, model="m", reason="server_error"))
            case "stray":
                t.hear(RunText(run_id="", attempt=0, instance="i-a", n=0, text="x"))
            case _:
                if t.asked():
                    t.play(word)
        watch = t.state.watches["m"]
        assert not (watch.probing and watch.trial)
    since = [e.event.since_seq for e in t.effects if isinstance(e, Store) and isinstance(e.event, ModelProbed)]
    assert len(since) == len(set(since)) <= loads
    assert len({run.run_id for run in t.asked()}) == len(t.asked())
