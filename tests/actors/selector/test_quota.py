"""A quota of a provider's account that is used up: who was told acts at once, the log's word is everybody's."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from understudy.messages.cost import ProviderExhausted, ProviderRestored
from understudy.messages.events import AttemptEnded

GOOD = {"quality": {"default": 0.9}}


def test_a_used_up_quota_is_told_to_the_run_and_to_all_that_come_until_the_log_says_so(stage: Any) -> None:
    s = stage({"a:free": GOOD, "b:free": GOOD, "c": {}})
    until = int(s.now) + 60_000
    s.ask()
    assert s.call().model == "a:free"
    s.failed("rate_limited", status=429, exhausted_until_ms=until)
    assert s.call().model == "c"
    (store,) = s.stores("attempt.")
    assert store.event.exhausted_until_ms == until
    s.ask(run="r2")
    run = s.state.runs["r2"]
    assert s.call("r2").model == "c"
    assert run.decision.rejected == {"quota_exhausted": 2} and set(run.decision.local_view) == {"a:free", "b:free", "c"}
    s.happen(ProviderExhausted(at_ms=int(s.now), provider="lab", quota="free", until_ms=until))
    s.ask(run="r3")
    assert s.state.runs["r3"].decision.rejected == {"quota_exhausted": 2} and not s.state.local.exhausted
    assert set(s.state.runs["r3"].decision.local_view) == {"c"}  # it has something in hand; the log says the rest
    s.now = until
    s.happen(ProviderRestored(at_ms=until, provider="lab", quota="free"))
    s.beat_all()
    s.ask(run="r4")
    assert "quota_exhausted" not in s.state.runs["r4"].decision.rejected


def test_a_quota_known_from_an_own_attempt_alone_ends_by_time(stage: Any) -> None:
    s = stage({"a:free": GOOD, "b:free": GOOD, "c": {}})
    s.ask()
    s.failed("rate_limited", status=429, exhausted_until_ms=int(s.now) + 1_000)
    s.now += 1_001
    s.ask(run="r2")
    assert s.state.runs["r2"].decision.rejected == {}


def test_a_chain_that_was_made_before_skips_what_is_used_up_since(stage: Any) -> None:
    s = stage({"a": {}, "b:free": {}, "c": {}})
    s.ask()
    s.happen(ProviderExhausted(at_ms=int(s.now), provider="lab", quota="free", until_ms=int(s.now) + 9_000))
    s.failed("server_error", status=500)
    assert s.call().model == "c"


def test_the_latest_reset_of_a_quota_counts(stage: Any) -> None:
    s = stage({"a:free": GOOD, "b:free": GOOD, "c": {}})
    s.ask()
    s.ask(run="r2")
    now = int(s.now)
    assert (s.call("r1").model, s.call("r2").model) == ("a:free", "a:free")
    s.failed("rate_limited", status=429, exhausted_until_ms=now + 3_600_000)
    s.failed("rate_limited", run="r2", status=429, exhausted_until_ms=now + 1_000)
    assert set(s.state.local.exhausted.values()) == {now + 3_600_000}


def test_a_used_up_quota_that_another_selector_found_counts_without_the_ledger(stage: Any) -> None:
    s = stage({"a:free": GOOD, "b:free": GOOD, "c": {}})
    event = AttemptEnded(at_ms=0, run_id="x", attempt=0, model="a:free", reason="rate_limited", status=429)
    s.happen(replace(event, exhausted_until_ms=int(s.now) + 60_000))
    s.ask()
    assert s.call().model == "c"
    assert s.state.runs["r1"].decision.rejected == {"quota_exhausted": 2}
