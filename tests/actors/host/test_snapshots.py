"""Snapshots: going on from one is folding from the start, and whatever does not match is not used."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from understudy.actors.benchmarker import core as benchmarker
from understudy.actors.cost_ledger import core as cost_ledger
from understudy.actors.health_tracker import core as health_tracker
from understudy.actors.host import snapshots
from understudy.actors.host.log_sync import Blocks
from understudy.actors.host.snapshots import Snapshots, Unusable
from understudy.actors.selector import core as selector
from understudy.bus.port import StreamState
from understudy.messages.cost import CostExpired, CostReserved, ProviderExhausted, ProviderRestored
from understudy.messages.events import (
    AttemptEnded,
    Event,
    ModelDegraded,
    ModelLoaded,
    ModelRecovered,
    ModelUnavailable,
    RequestEnded,
    TopologyApplied,
)
from understudy.messages.generate import Attempt
from understudy.messages.money import Charge
from understudy.messages.run import ModelLoad, RunnerBeat
from understudy.messages.step import Booted, CaughtUp, Happened, Heard
from understudy.messages.topology import Topology
from understudy.messages.wire import decode, encode, reader_of

CORES: dict[str, Any] = {"selector": selector, "health_tracker": health_tracker, "cost_ledger": cost_ledger,
                         "benchmarker": benchmarker}  # fmt: skip
EACH = pytest.mark.parametrize("actor", sorted(CORES))
LOG = StreamState("2026-11-21T12:00:00Z", 1, 1000)
STREAM = "TTA_EVT"
FEW = settings(max_examples=60, deadline=None)


def topology(*models: str) -> Topology:
    declared = {m: {"provider": "p", "quality": {"default": 0.3}} for m in models}
    provider = {"kind": "openai", "url": "http://127.0.0.1:1"}
    return msgspec.convert({"version": 1, "models": declared, "providers": {"p": provider}}, Topology)


MODELS = st.sampled_from(["a", "b", "c:free", "org/unknown:1"])
TIMES = st.integers(0, 2_000_000_000_000)
MS = st.floats(0, 1e6, allow_nan=False) | st.none()
STATUS = st.sampled_from(["healthy", "degraded", "unavailable"])
ATTEMPTS = st.builds(
    Attempt, model=MODELS, outcome=st.sampled_from(["ok", "ok", "busy", "server_error"]), first_token_ms=MS
)
CHARGES = st.builds(
    Charge, attempt=st.integers(0, 2), model=MODELS, cost_usd=st.sampled_from(["0", "1.5"]), by=st.just("usage")
)
EVENTS: st.SearchStrategy[Event] = st.one_of(
    st.builds(
        TopologyApplied,
        at_ms=TIMES,
        hash=st.sampled_from(["h1", "h2"]),
        body=st.sampled_from([topology("a", "b"), topology("b", "c:free"), topology("a", "b", "c:free")]),
    ),
    st.builds(
        RequestEnded, at_ms=TIMES, run_id=st.just("r"), instance=st.just("s"), outcome=st.just("finished"),
        task=st.just("t"), as_of_seq=st.just(0), topology=st.just("h"), digest=st.just("d"),
        attempts=st.lists(ATTEMPTS, max_size=3).map(tuple), charges=st.lists(CHARGES, max_size=2).map(tuple),
    ),
    st.builds(
        AttemptEnded, at_ms=TIMES, run_id=st.just("r"), attempt=st.just(1), model=MODELS,
        reason=st.sampled_from(["server_error", "refused", "busy", "stall_timeout", "rate_limited"]),
        charge=st.none() | CHARGES, exhausted_until_ms=st.none() | TIMES,
    ),
    st.builds(ModelLoaded, at_ms=TIMES, model=MODELS, instance=st.just("i"), engine=st.just("e")),
    st.builds(ModelDegraded, at_ms=TIMES, model=MODELS, reason=st.just("x"), was=STATUS),
    st.builds(
        ModelUnavailable, at_ms=TIMES, model=MODELS, reason=st.sampled_from(["gone", "x"]), was=STATUS,
        retry_at_ms=TIMES, opened=st.integers(0, 9),
    ),
    st.builds(ModelRecovered, at_ms=TIMES, model=MODELS, was=STATUS, by=st.just("probe")),
    st.builds(
        CostReserved, at_ms=TIMES, run_id=st.just("r"), attempt=st.integers(0, 2), model=MODELS, provider=st.just("p"),
        most_usd=st.sampled_from(["0.000001", "2"]), until_ms=TIMES, user=st.sampled_from(["", "u"]),
    ),
    st.builds(
        CostExpired, at_ms=TIMES, run_id=st.just("r"), attempt=st.integers(0, 2), model=MODELS, cost_usd=st.just("2")
    ),
    st.builds(ProviderExhausted, at_ms=TIMES, provider=st.just("p"), quota=st.just("free"), until_ms=TIMES),
    st.builds(ProviderRestored, at_ms=TIMES, provider=st.just("p"), quota=st.just("free")),
)  # fmt: skip
LOGS = st.lists(EVENTS, max_size=40).map(
    lambda events: [TopologyApplied(at_ms=0, hash="h0", body=topology("a", "b")), *events]
)


def booted(core: Any) -> Any:
    state = core.State()
    core.step(state, Booted(1.0, "x", "x1", "tta", "_INBOX_A.x1", "id"), core.Settings())
    return state


def fold(core: Any, state: Any, events: list[Event], after: int = 0) -> Any:
    """As the follower does it: by the core's own light forms, positions counted from `after`."""
    read = reader_of(core.FOLDS)
    for seq, event in enumerate(events, after + 1):
        light = read(encode(event))
        assert isinstance(light, Event)
        core.step(state, Happened(5.0, seq, light), core.Settings())
    return state


def keeper(folder: Path, actor: str = "selector", instance: str = "one", **settings: Any) -> Snapshots:
    core = CORES[actor]
    return Snapshots(folder, core, actor, instance, core.Settings(**settings))


@EACH
@FEW
@given(events=LOGS, cut=st.integers(0, 41))
def test_going_on_from_a_snapshot_is_folding_from_the_start(
    actor: str, tmp_path_factory: pytest.TempPathFactory, events: list[Event], cut: int
) -> None:
    core, cut = CORES[actor], min(cut, len(events))
    kept = keeper(tmp_path_factory.mktemp("s"), actor)
    half = fold(core, booted(core), events[:cut])
    kept.write(kept.encode(half, STREAM, LOG.created, cut))
    found = kept.load(STREAM, LOG)
    assert found is not None
    again = booted(core)
    core.restore(again, found[1])
    fold(core, again, events[cut:], after=found[0])
    whole = fold(core, booted(core), events)
    assert core.fold_state(again) == core.fold_state(whole)
    for state in (again, whole):  # and so does what they decide from it
        core.step(state, CaughtUp(6.0, len(events)), core.Settings())
    if actor == "health_tracker":
        assert again.watches == whole.watches


@EACH
@FEW
@given(events=LOGS)
def test_the_light_forms_fold_like_the_whole_events(actor: str, events: list[Event]) -> None:
    core = CORES[actor]
    whole = booted(core)
    for seq, event in enumerate(events, 1):
        core.step(whole, Happened(5.0, seq, event), core.Settings())
    assert core.fold_state(fold(core, booted(core), events)) == core.fold_state(whole)


@FEW
@given(events=LOGS, live_from=st.integers(1, 41))
def test_what_the_tracker_decides_is_not_in_its_fold(events: list[Event], live_from: int) -> None:
    """Its own words come into the fold when they come back from the log, not when they are decided."""
    core, cut = health_tracker, min(live_from, len(events))
    strict = core.Settings(open_after=1, minimum_outcomes=1)
    live, folded = booted(core), booted(core)
    for seq, event in enumerate(events, 1):
        if seq == cut:
            core.step(live, CaughtUp(4.0, seq), strict)
            core.step(live, Heard(4.0, "x", RunnerBeat(instance="i", models={"a": ModelLoad(slots=1)})), strict)
        core.step(live, Happened(5.0, seq, event), strict)
        core.step(folded, Happened(9.0, seq, event), strict)
    assert core.fold_state(live) == core.fold_state(folded)


@EACH
def test_a_fact_at_or_below_the_position_is_skipped(actor: str) -> None:
    core = CORES[actor]
    events: list[Event] = [
        TopologyApplied(at_ms=0, hash="h", body=topology("a")),
        AttemptEnded(at_ms=1, run_id="r", attempt=1, model="a", reason="server_error"),
    ]
    once = fold(core, booted(core), events)
    twice = fold(core, fold(core, booted(core), events), events)
    assert core.fold_state(once) == core.fold_state(twice)


def some(folder: Path, seq: int = 2, **settings: Any) -> Snapshots:
    kept = keeper(folder, **settings)
    state = fold(selector, booted(selector), [TopologyApplied(at_ms=0, hash="h", body=topology("a"))])
    kept.write(kept.encode(state, STREAM, LOG.created, seq))
    return kept


def test_no_snapshot_is_no_trouble(tmp_path: Path) -> None:
    assert keeper(tmp_path / "nowhere").load(STREAM, LOG) is None


def test_a_flipped_bit_is_noticed_anywhere(tmp_path: Path) -> None:
    kept = some(tmp_path)
    whole = kept.path.read_bytes()
    for i in range(0, len(whole), 7):
        kept.path.write_bytes(whole[:i] + bytes([whole[i] ^ 1]) + whole[i + 1 :])
        with pytest.raises(Unusable):
            kept.load(STREAM, LOG)
    for cut in (0, 1, 64, 65, len(whole) - 1):
        kept.path.write_bytes(whole[:cut])
        with pytest.raises(Unusable):
            kept.load(STREAM, LOG)


@pytest.mark.parametrize(
    ("stream", "log", "why"),
    [
        ("OTHER_EVT", LOG, "other stream"),
        (STREAM, StreamState("2026-11-22T12:00:00Z", 1, 1000), "other created"),
        (STREAM, StreamState(LOG.created, 1, 1), "it lost events"),
        (STREAM, StreamState(LOG.created, 4, 1000), "what lies between is gone"),
    ],
)
def test_another_log_is_not_met(tmp_path: Path, stream: str, log: StreamState, why: str) -> None:
    with pytest.raises(Unusable, match=why):
        some(tmp_path).load(stream, log)


def test_a_log_that_was_cut_up_to_the_snapshot_goes_on_from_it(tmp_path: Path) -> None:
    found = some(tmp_path).load(STREAM, StreamState(LOG.created, 3, 1000))
    assert found is not None
    assert found[0] == 2


def test_other_settings_and_another_actor_do_not_match(tmp_path: Path) -> None:
    some(tmp_path)
    with pytest.raises(Unusable, match="other code"):
        keeper(tmp_path, max_in_flight=7).load(STREAM, LOG)
    (tmp_path / "selector.snapshot").rename(tmp_path / "health_tracker.snapshot")
    with pytest.raises(Unusable, match="other actor"):
        keeper(tmp_path, "health_tracker").load(STREAM, LOG)


def test_a_fold_of_another_form_is_unusable(tmp_path: Path) -> None:
    """Valid in all else: only possible when two forms share a hash, but then too."""
    kept = some(tmp_path)
    body = msgspec.json.decode(kept.path.read_bytes().partition(b"\n")[2])
    body["fold"]["models"] = 7
    content = msgspec.json.encode(body)
    kept.path.write_bytes(hashlib.sha256(content).hexdigest().encode() + b"\n" + content)
    with pytest.raises(Unusable, match="fold"):
        kept.load(STREAM, LOG)


def test_any_change_of_source_changes_the_hash(tmp_path: Path) -> None:
    def hash_now() -> str:
        return snapshots._hash_of([tmp_path], b"settings")  # pyright: ignore[reportPrivateUsage]

    (tmp_path / "more").mkdir()
    (tmp_path / "views.py").write_text("DECAY = 0.98\n")
    (tmp_path / "more" / "state.py").write_text("")
    seen = {hash_now()}
    (tmp_path / "views.py").write_text("DECAY = 0.99\n")
    seen.add(hash_now())
    (tmp_path / "views.py").rename(tmp_path / "more" / "views.py")
    seen.add(hash_now())
    (tmp_path / "more" / "new.py").write_text("")
    seen.add(hash_now())
    (tmp_path / "more" / "notes.txt").write_text("no source")
    assert len(seen) == 4
    assert hash_now() in seen


def test_a_crash_while_writing_leaves_the_old_one(tmp_path: Path) -> None:
    kept = some(tmp_path)
    (tmp_path / "one.draft").write_bytes(b"half a snap")
    found = kept.load(STREAM, LOG)
    assert found is not None
    state = booted(selector)
    kept.write(kept.encode(state, STREAM, LOG.created, 9))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["selector.snapshot"]
    found = keeper(tmp_path, instance="two").load(STREAM, LOG)
    assert found is not None
    assert found[0] == 9


def test_the_light_reader_takes_what_decode_takes() -> None:
    read = reader_of(selector.FOLDS)
    switched = (
        b'{"type":"model.switched.v1","at_ms":1,"model":"a","from_model":"b","run_id":"r","mode":"m","reason":""}'
    )
    assert read(switched) == decode(switched)


def test_the_log_is_on_the_disk_before_its_fold(tmp_path: Path) -> None:
    """A power cut must not leave a fold of events that are gone; where the log cannot be synced, none is written."""
    log, folder = tmp_path / "msgs", tmp_path / "snapshots"
    log.mkdir()
    (log / "1.blk").write_text("x")
    kept = Snapshots(folder, CORES["selector"], "selector", "selector-1", None, Blocks(log))
    kept.write(b"first")
    (log / "1.blk").unlink()
    with pytest.raises(OSError, match="no message file"):
        kept.write(b"second")
    assert kept.path.read_bytes() == b"first"
