"""Consent in a selector: orders and what stands, who may be asked, staying on this machine, labels, saying it again."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from understudy.actors.selector.consent import CARRY_RATIO, DAY_MS, LISTED_AT_ONCE, carried
from understudy.actors.selector.ends import as_message
from understudy.actors.selector.replay import compare
from understudy.actors.selector.views import Knowledge
from understudy.messages.catalogue import Select, Selected
from understudy.messages.consent import (
    ConsentGiven,
    ConsentsListed,
    ConsentTaken,
    ConsentWithdrawn,
    GiveConsent,
    ListConsents,
    WithdrawConsent,
)
from understudy.messages.events import RequestEnded
from understudy.messages.generate import Attempt, Failed, Finished, Seam
from understudy.messages.privacy import OWN_LABELS, Outbound
from understudy.messages.run import RunFailed, RunStarted
from understudy.messages.step import Send, Store, Stored
from understudy.messages.topology import Topology

FAR = {"kind": "openai", "url": "https://far.example/v1"}
OUT: dict[str, Any] = {"privacy": "external_allowed", "user_id": "u"}


def staged(stage: Any, models: Any = None, **more: Any) -> Any:
    """Models `a` and `b` elsewhere, `h` here, worst of all."""
    plain = {"a": {"provider": "far"}, "b": {"provider": "far"}, "h": {"provider": "lab", "quality": {"default": 0.1}}}
    providers = {"far": FAR, "lab": {"kind": "openai", "url": "http://127.0.0.1:1/v1"}}

    class Staged(stage):  # type: ignore[misc]
        @staticmethod
        def plan(models: Any = None, **topology: Any) -> Topology:
            found = stage.plan(models, **{k: v for k, v in topology.items() if k != "providers"})
            raw = {**msgspec.to_builtins(found), "providers": providers}
            return msgspec.convert(raw, Topology)

    return Staged(models or plain, **{"consent": {"text": "Yes?"}, **more})


def agree(s: Any, **fields: Any) -> ConsentTaken | Failed:
    """Ask to give consent, and have the log take it."""
    return order(s, GiveConsent(**{"provider": "far", "scope": "user", "version": version(s), **fields}))


def order(s: Any, message: Any, subject: str = "tta.ask.consent.give") -> Any:
    from understudy.messages.step import Asked

    for effect in s.feed(Asked(s.now, f"o{s.seq}", subject, "asker", message)):
        if isinstance(effect, Store):
            s.happen(effect.event)
            s.feed(Stored(s.now, effect.msg_id, s.seq, False))
    return s.said(object, "asker")[-1]


def version(s: Any) -> str:
    return s.state.knowledge.texts["far"]


def chain(s: Any, **fields: Any) -> list[str]:
    s.put(Select(messages=s_turns(), **fields), "chooser")
    return [one.model for one in s.said(Selected, "chooser")[-1].chain]


def s_turns() -> Any:
    from understudy.messages.generate import Turn

    return (Turn(role="user", content="Tell."),)


def test_nobody_is_asked_elsewhere_unless_both_say_so(stage: Any) -> None:
    s = staged(stage)
    assert chain(s) == chain(s, **OUT) == ["h"]
    assert isinstance(agree(s, user_id="u"), ConsentTaken)
    assert chain(s) == ["h"] and chain(s, **OUT) == ["a", "h", "b"]
    assert chain(s, privacy="external_allowed") == ["h"]  # of somebody else
    assert chain(s, privacy="external_allowed", user_id="v") == ["h"]
    order(s, WithdrawConsent(provider="far", scope="user", user_id="u"))
    assert chain(s, **OUT) == ["h"]


def test_the_topology_may_allow_what_a_request_does_not_mention(stage: Any) -> None:
    s = staged(stage, policy={"privacy": "external_allowed"})
    agree(s, user_id="u")
    assert chain(s, user_id="u") == ["a", "h", "b"] and chain(s, user_id="u", privacy="local_only") == ["h"]


def test_an_older_text_counts_for_nothing(stage: Any) -> None:
    s = staged(stage)
    agree(s, user_id="u")
    old = version(s)
    from understudy.messages.events import TopologyApplied

    plan = msgspec.structs.replace(s.topology, consent=msgspec.structs.replace(s.topology.consent, text="Other?"))
    s.happen(TopologyApplied(at_ms=0, hash="h2", body=plan))
    assert version(s) != old and chain(s, **OUT) == ["h"]
    listed = order(s, ListConsents(user_id="u"))
    assert isinstance(listed, ConsentsListed)
    assert [(c.given, c.current) for c in listed.consents] == [(True, False)] and listed.texts[0].text == "Other?"
    refused = agree(s, user_id="u", version=old)
    assert isinstance(refused, Failed) and refused.path == "$.version"


def test_a_provider_that_moves_is_another_one(stage: Any) -> None:
    s = staged(stage)
    before = version(s)
    moved = msgspec.convert({**FAR, "url": "https://elsewhere.example/v1"}, type(s.topology.providers["far"]))
    from understudy.messages.events import TopologyApplied

    plan = msgspec.structs.replace(s.topology, providers={**s.topology.providers, "far": moved})
    s.happen(TopologyApplied(at_ms=0, hash="h2", body=plan))
    assert version(s) != before


def test_for_everybody_on_the_operators_subject_alone(stage: Any) -> None:
    s = staged(stage)
    give = GiveConsent(provider="far", scope="installation", version=version(s))
    assert order(s, give).path == "$.scope"
    assert isinstance(order(s, give, "tta.ask.consent.give.installation"), ConsentTaken)
    assert chain(s, **OUT) == ["a", "h", "b"]


def everybody(s: Any) -> None:
    give = GiveConsent(provider="far", scope="installation", version=version(s))
    assert isinstance(order(s, give, "tta.ask.consent.give.installation"), ConsentTaken)


def test_leaving_the_user_out_goes_round_nobodys_no(stage: Any) -> None:
    s = staged(stage)
    everybody(s)
    agree(s, scope="conversation", conversation_id="c")
    order(s, WithdrawConsent(provider="far", scope="user", user_id="u"))
    for whose in ({}, {"conversation_id": "c"}, {"user_id": "u", "conversation_id": "c"}):
        assert chain(s, privacy="external_allowed", **whose) == ["h"], whose
    assert chain(s, privacy="external_allowed", user_id="v", conversation_id="c") == ["a", "h", "b"]


def test_an_installation_without_users_says_so(stage: Any) -> None:
    s = staged(stage, consent={"text": "Yes?", "without_user": True})
    assert chain(s, privacy="external_allowed") == ["h"]
    everybody(s)
    assert chain(s, privacy="external_allowed") == ["a", "h", "b"]
    s.ask(privacy="external_allowed")
    assert compare(s.state.knowledge, s.state.runs["r1"].decision) == []
    order(s, WithdrawConsent(provider="far", scope="user", user_id="u"))
    assert chain(s, **OUT) == ["h"]


def test_whose_name_is_missing_is_told(stage: Any) -> None:
    s = staged(stage)
    everybody(s)
    s.ask(privacy="external_allowed", model="a")
    (end,) = s.ends()
    assert (end.code, end.path, end.rejected["needs_consent"]) == ("no_allowed_model", "$.user_id", 1)
    assert "user_id" in end.text
    s.ask("r2", **{**OUT, "requirements": {"location": "local", "min_quality": 0.9}})
    assert s.ends()[-1].path is None, "nothing that a name would help"


# --- staying here ----------------------------------------------------------------------------------------------------


def begun(stage: Any, **fields: Any) -> Any:
    models = {"a": {"provider": "far", "fallbacks": ["b"]}, "b": {"provider": "far"}, "h": {"provider": "lab"}}
    s = staged(stage, models, policy={"chain_length": 2})
    agree(s, user_id="u")
    s.ask(**{**OUT, **fields})
    assert s.call().model == "a" and s.state.runs["r1"].chain == ["b"]
    return s


BLOCKED = Outbound(provider="far", blocked="crisis")


def test_who_was_kept_from_leaving_stays_here_though_the_chain_held_nobody_of_here(stage: Any) -> None:
    s = begun(stage)
    s.failed("blocked", outbound=BLOCKED)
    assert (s.call().model, s.call().attempt) == ("h", 1)
    s.text("Here.")
    s.ended()
    s.stored()
    (end,) = s.said(Finished)
    assert (end.location, end.labels) == ("local", ())
    assert end.attempts[0].outbound == BLOCKED and end.attempts[0].location == "external"
    (ended,) = [e.event for e in s.stores("end.")]
    assert isinstance(ended, RequestEnded) and ended.attempts[0].outbound == msgspec.structs.replace(
        BLOCKED, blocked="content"
    )


def test_in_the_middle_of_a_text_too(stage: Any) -> None:
    s = begun(stage)
    s.text("One, ")
    s.failed("blocked", outbound=Outbound(provider="far", blocked="no_consent", consent=2, bytes=99))
    assert (s.call().model, s.call().prefill) == ("h", "One,")
    s.text(" two.")
    s.ended()
    s.stored()
    (end,) = s.said(Finished)
    assert end.text == "One, two." and end.labels == ("external",) and [x.mode for x in s.said(Seam)] == ["continue"]


def _two_asked(stage: Any, models: Any) -> Any:
    """`a` elsewhere is silent, the second of the chain is asked too."""
    s = staged(stage, models, policy={"chain_length": 2})
    agree(s, user_id="u")
    tried = (Attempt(model="a", outcome="ok", first_token_ms=100.0, total_ms=100.0),)
    facts: dict[str, Any] = {"instance": "x", "outcome": "finished", "task": "general", "as_of_seq": 1}
    for n in range(30):
        s.happen(RequestEnded(at_ms=1, run_id=f"old{n}", topology="", digest="", attempts=tried, **facts))
    s.state.hedges.credit = 5.0
    s.ask(**OUT, hedge=True)
    s.wake()
    assert s.call().attempt == 1
    return s


ELSEWHERE = {"provider": "far", "quality": {"default": 1.0}}
HERE = {"provider": "lab", "quality": {"default": 0.1}}


@pytest.mark.parametrize("which", [0, 1])
def test_of_two_that_are_asked_at_once_too(stage: Any, which: int) -> None:
    """Whichever is blocked: nobody else elsewhere is asked, and a second elsewhere is told to stop."""
    s = _two_asked(stage, {"a": {**ELSEWHERE, "fallbacks": ["b"]}, "b": {"provider": "far"}, "h": HERE})
    assert s.call().model == "b" and s.state.runs["r1"].chain == []
    s.hear(RunStarted(run_id="r1", attempt=1, instance="i-b"))
    s.hear(RunFailed(run_id="r1", attempt=which, reason="blocked", outbound=BLOCKED))
    if which == 1:
        assert s.call().attempt == 1 and s.state.runs["r1"].chain == ["h"], "the first has left already"
        s.hear(RunFailed(run_id="r1", attempt=0, reason="server_error"))
    else:
        assert [e.message.attempt for e in s.effects if isinstance(e, Send) and "cancel" in e.subject] == [1]
    assert (s.call().model, s.call().attempt) == ("h", 2)


def test_a_second_of_here_goes_on_and_is_not_asked_again(stage: Any) -> None:
    s = _two_asked(stage, {"a": ELSEWHERE, "h": HERE})
    assert s.call().model == "h"
    s.hear(RunFailed(run_id="r1", attempt=0, reason="blocked", outbound=BLOCKED))
    assert s.call().attempt == 1 and s.state.runs["r1"].chain == []
    s.failed("server_error")
    s.stored()
    assert [end.code for end in s.ends()] == ["all_failed"]


def test_nobody_here_is_an_honest_end_and_says_nothing_against_the_model(stage: Any) -> None:
    models = {"a": {"provider": "far"}, "b": {"provider": "far"}}
    s = staged(stage, models)
    agree(s, user_id="u")
    for n in range(3):
        s.ask(f"r{n}", **OUT)
        assert s.call(f"r{n}").model == "a"
        s.failed("blocked", run=f"r{n}", outbound=BLOCKED)
        s.stored(f"r{n}")
    assert [end.code for end in s.ends()] == ["blocked"] * 3
    assert s.state.local.suspects == {} and s.state.knowledge.models["a"].last_error is None


def test_a_named_model_has_no_refuge_but_its_declared_ones(stage: Any) -> None:
    s = begun(stage, model="a")
    s.failed("blocked", outbound=BLOCKED)
    s.stored()
    assert [end.code for end in s.ends()] == ["blocked"]


def test_a_recorded_decision_follows_from_the_log_with_its_consents(stage: Any) -> None:
    s = begun(stage)
    made = s.state.runs["r1"].decision
    assert compare(s.state.knowledge, made) == []
    order(s, WithdrawConsent(provider="far", scope="user", user_id="u"))
    assert "consented" in {one.field for one in compare(s.state.knowledge, made)}
    again = msgspec.json.decode(msgspec.json.encode(s.state.knowledge), type=Knowledge)  # as a snapshot has it
    assert again == s.state.knowledge and again.consented("", "") == ()


# --- labels ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("label", OWN_LABELS)
def test_no_caller_can_give_an_answer_our_labels(stage: Any, label: str) -> None:
    s = staged(stage)
    s.ask(labels=["mine", label])
    (end,) = s.ends()
    assert (end.code, end.path) == ("invalid", "$.labels[1]")


# --- saying it again -------------------------------------------------------------------------------------------------


def test_what_retention_would_take_is_said_again_and_once(stage: Any) -> None:
    s = staged(stage)
    agree(s, user_id="u")
    order(s, WithdrawConsent(provider="far", scope="user", user_id="v"))
    assert carried(s.state, s.now) == []
    s.now += s.topology.log.max_age_days * DAY_MS * CARRY_RATIO + 1
    out = carried(s.state, s.now)
    assert [type(e.event) for e in out] == [ConsentGiven, ConsentWithdrawn]
    origins = [one.seq for one in s.state.knowledge.consents.standing.values()]
    assert [e.event.origin for e in out] == origins and len({e.msg_id for e in out}) == 2
    for effect in out:
        s.happen(effect.event)
    assert carried(s.state, s.now) == [] and chain(s, **OUT) == ["a", "h", "b"]
    assert chain(s, privacy="external_allowed", user_id="v") == ["h"]


def test_a_withdrawal_between_is_not_undone(stage: Any) -> None:
    s = staged(stage)
    agree(s, user_id="u")
    s.now += s.topology.log.max_age_days * DAY_MS
    (again,) = carried(s.state, s.now)
    order(s, WithdrawConsent(provider="far", scope="user", user_id="u"))
    s.happen(again.event)
    assert chain(s, **OUT) == ["h"]


def test_a_clock_that_was_ahead_does_not_keep_others_from_being_said_again(stage: Any) -> None:
    s = staged(stage)
    s.happen(ConsentGiven(at_ms=int(s.now + 1000 * DAY_MS), provider="far", scope="user", who="x", version="v"))
    s.happen(ConsentWithdrawn(at_ms=int(s.now), provider="far", scope="user", who="y"))
    s.now += s.topology.log.max_age_days * DAY_MS * CARRY_RATIO + 1
    assert [e.event.who for e in carried(s.state, s.now)] == ["y"]


def test_what_nobody_has_is_not_withdrawn_from(stage: Any) -> None:
    """It would be kept, and said again, for ever."""
    s = staged(stage)
    refused = order(s, WithdrawConsent(provider="fra", scope="user", user_id="u"))
    assert isinstance(refused, Failed) and (refused.code, refused.path) == ("invalid", "$.provider")
    assert "far" in refused.text and not s.state.knowledge.consents.standing
    assert isinstance(order(s, WithdrawConsent(provider="lab", scope="user", user_id="u")), ConsentTaken)
    s.happen(ConsentGiven(at_ms=1, provider="gone", scope="user", who="x", version="v"))  # has left the topology since
    assert isinstance(order(s, WithdrawConsent(provider="gone", scope="user", user_id="u")), ConsentTaken)


def test_a_long_list_comes_in_parts(stage: Any) -> None:
    s = staged(stage)
    for n in range(LISTED_AT_ONCE + 3):
        s.happen(ConsentWithdrawn(at_ms=1, provider="far", scope="user", who=str(n)))
    first = order(s, ListConsents())
    assert first.more and len(first.consents) == LISTED_AT_ONCE
    rest = order(s, ListConsents(after_seq=first.consents[-1].seq))
    assert not rest.more and [c.who for c in rest.consents] == [str(LISTED_AT_ONCE + n) for n in range(3)]


def test_what_an_answer_speaks_of_is_not_stored_beside_whose_it_was(stage: Any) -> None:
    s = staged(stage)
    s.ask(labels=["mine"], user_id="u")
    s.text("Take 5 mg of the medication: x = 3 * 4.")
    s.ended()
    (store,) = s.stores("end.")
    assert store.event.labels == ("mine",)
    s.stored()
    (end,) = s.said(Finished)
    assert end.labels == ("mine", "mathematics", "high_stakes")


def test_an_emergency_reply_is_of_here_also_when_it_is_asked_for_again(stage: Any) -> None:
    s = begun(stage, model="a")
    s.text("One.")
    for _ in "ab":
        s.failed("server_error")
    (store,) = s.stores("end.")
    fields = {"outcome": "finished", "degraded": True, "finish_reason": "stop", "parameters": s.call().parameters}
    again = as_message(msgspec.structs.replace(store.event, **fields), True)
    assert isinstance(again, Finished) and again.attempts[-1].location == "external" and again.location == "local"
