"""The fold from events to rows: what counts where, incidents, models, days; and that batches do not matter."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from understudy.actors.projector import cypher
from understudy.actors.projector.rows import Fall, Folding, Rows, Switch, at_position
from understudy.messages.brief import AttemptBrief
from understudy.messages.buckets import DAY_MS, HOUR_MS, ChargeBrief, OutcomeBrief, UsageBrief
from understudy.messages.cost import ProviderExhausted, ProviderRestored
from understudy.messages.events import (
    Event,
    FeedbackGiven,
    ModelDegraded,
    ModelRecovered,
    ModelSwitched,
    ModelUnavailable,
    TopologyApplied,
)
from understudy.messages.graph import Fact, Half
from understudy.messages.topology import Model, Provider, Topology

AT = 20_000 * DAY_MS


def ended(at: int, *tried: tuple[str, str], outcome: str = "finished") -> OutcomeBrief:
    attempts = tuple(AttemptBrief(model=model, outcome=word, total_ms=10.0) for model, word in tried)
    return OutcomeBrief(at_ms=at, run_id="r", outcome=outcome, task="t", model=tried[-1][0], attempts=attempts)


def fold(*events: Event, into: Folding | None = None) -> Rows:
    found = into or Folding()
    for seq, event in enumerate(events, 1):
        found.take(seq, event)
    return found.cut()


def test_a_chain_names_every_model_and_each_fall_its_reason() -> None:
    rows = fold(ended(AT, ("a", "stall_timeout"), ("b", "hedged"), ("c", "ok")), ended(AT + 1, ("a", "ok")))
    assert {key: (one.n, one.ok) for key, one in rows.chains.items()} == {("t", "a", "b", "c"): (1, 1)}
    assert set(rows.falls) == {Fall("a", "b", "t", "stall_timeout"), Fall("b", "c", "t", "hedged")}
    assert rows.seen["a"] == (AT, AT + 1)
    assert (rows.hours[AT].n, rows.hours[AT].ok) == (2, 2)


def test_a_switch_is_counted_by_the_hour() -> None:
    one = ModelSwitched(at_ms=AT + 5, model="b", from_model="a", run_id="r", mode="continue", reason="gone", task="t")
    rows = fold(one, one)
    assert {key: tally.n for key, tally in rows.switches.items()} == {Switch("a", "b", "t", "gone", AT): 2}
    assert set(rows.models) == {"a", "b"}


def test_an_incident_lasts_from_the_first_trouble_to_the_recovery() -> None:
    found = Folding()
    rows = fold(
        ModelDegraded(at_ms=AT, model="a", reason="slow", was="healthy"),
        ModelUnavailable(at_ms=AT + 1, model="a", reason="gone", was="degraded", retry_at_ms=0),
        ModelDegraded(at_ms=AT + 2, model="a", reason="slow", was="unavailable"),
        into=found,
    )
    (one,) = rows.incidents.values()
    assert (one.key, one.kind, one.reason, one.at, one.until, one.n) == ("health a 1", "unavailable", "gone", AT, 0, 3)
    well = ModelRecovered(at_ms=AT + 9, model="a", was="degraded", by="probe")
    (later,) = fold(well, into=found).incidents.values()
    assert (later.key, later.until) == (one.key, AT + 9)
    assert one.until == 0, "a batch that is being written must not change"
    assert not fold(well, into=found).incidents


def test_a_provider_without_quota_is_an_incident_of_its_own() -> None:
    found = Folding()
    fold(ProviderExhausted(at_ms=AT, provider="p", quota="free", until_ms=AT + 5), into=found)
    rows = fold(ProviderRestored(at_ms=AT + 5, provider="p", quota="free"), into=found)
    (one,) = rows.incidents.values()
    assert (one.kind, one.subject, one.until) == ("exhausted", "p", AT + 5)
    assert not rows.models, "a provider is no model"


def applied(at: int, **models: float) -> TopologyApplied:
    topology = Topology(
        version=1,
        providers={"p": Provider(kind="openai", url="http://127.0.0.1:9/v1")},
        models={name: Model(provider="p", usd_per_mtok_in=usd) for name, usd in models.items()},
    )
    return TopologyApplied(at_ms=at, hash="h", body=topology)


def test_models_are_written_when_what_is_known_of_them_changes() -> None:
    found = Folding()
    rows = fold(applied(AT, a=1.5), ended(AT, ("x", "ok")), into=found)
    assert rows.models["a"].price_in_pusd == 1_500_000 and rows.models["x"].provider == "unknown"
    assert not fold(applied(AT, a=1.5), ended(AT, ("x", "ok")), into=found).models
    assert set(fold(applied(AT, a=2.0, x=0.0), into=found).models) == {"a", "x"}


def test_a_new_day_begins_a_batch_and_sweeps() -> None:
    found = Folding()
    assert fold(ended(AT, ("a", "ok")), into=found).sweep == 0, "the first day has nothing before it"
    late, next_day = ended(AT - HOUR_MS, ("a", "ok")), ended(AT + DAY_MS, ("a", "ok"))
    assert not found.starts_a_day(Fact(2, late)) and found.starts_a_day(Fact(2, next_day))
    assert fold(next_day, into=found).sweep == AT // DAY_MS + 1
    assert fold(late, into=found).sweep == 0, "what comes late belongs to the past"


def test_days_that_are_too_old_go_with_the_first_day_of_a_week_that_something_happens_in() -> None:
    found, first = Folding(), AT // DAY_MS
    weeks = {day: fold(ended(AT + (day - first) * DAY_MS, ("a", "ok")), into=found).new_week
             for day in (first, first + 1, first + 6, first + 8, first + 22)}  # fmt: skip
    begun = [day for before, day in zip(weeks, list(weeks)[1:], strict=False) if day // 7 > before // 7]
    assert [day for day, new in weeks.items() if new] == begun and len(begun) == 2


def test_a_writer_whose_clock_is_ahead_begins_no_day_before_the_log_does() -> None:
    found = Folding()
    found.take(1, ended(AT, ("a", "ok")), AT)
    ahead = ended(AT + 900 * DAY_MS, ("a", "ok"))
    assert not found.starts_a_day(Fact(2, ahead, AT + 5))
    found.take(2, ahead, AT + 5)
    assert (found.day, found.cut().sweep) == (AT // DAY_MS, 0)
    found.take(3, ended(AT + DAY_MS, ("a", "ok")), AT + DAY_MS + 5)
    assert found.cut().sweep == AT // DAY_MS + 1, "days go on as they were"


def test_what_was_read_of_a_model_outlives_the_log_it_was_read_from() -> None:
    """A topology that retention has taken from the log: the model is in the graph as it was, not unknown again."""
    first = Folding()
    fold(applied(AT, a=1.5), into=first)
    again = at_position((), Half("Pm", day=first.day, written=first.written))
    assert not fold(ended(AT, ("a", "ok")), into=again).models


def test_nonsense_of_vendors_and_clocks_stays_within_what_a_graph_can_hold() -> None:
    tried = (AttemptBrief(model="a", outcome="ok", total_ms=1e300),)
    usage, charges = UsageBrief(prompt_tokens=10**30), (ChargeBrief(model="a", cost_usd="999999999"),)
    one = OutcomeBrief(at_ms=AT, run_id="r", outcome="finished", task="t", model="a", attempts=tried, usage=usage,
                       charges=charges)  # fmt: skip
    ids = [f"{n}" + "\N{SNOWMAN}" * 190 for n in range(20)]
    rows = fold(*[one] * 900, applied(AT, a=1e300), ended(AT, *((name, "ok") for name in ids)))
    for _, some in cypher.batch(rows, 0):
        for row in some:
            assert all(abs(value) < 2**63 for value in row.values() if isinstance(value, int)), row
            assert len(row.get("key", "").encode()) <= cypher.MOST_KEY


def test_hours_that_are_gone_count_in_their_days_alone() -> None:
    """And a day is in windows as soon as its hours are not."""
    switched = ModelSwitched(at_ms=AT, model="b", from_model="a", run_id="r", mode="continue", reason="x", task="t")
    rows = fold(ended(AT, ("a", "ok")), ended(AT + DAY_MS, ("a", "ok")), ended(AT + DAY_MS + HOUR_MS, ("b", "ok")),
                switched)  # fmt: skip
    kept, gone = dict(cypher.batch(rows, AT)), dict(cypher.batch(rows, AT + DAY_MS))
    days = [(f"{AT}d", None), (f"{AT + DAY_MS}d", None)]
    hours = [(f"{at}", at) for at in (AT, AT + DAY_MS, AT + DAY_MS + HOUR_MS)]
    assert sorted((row["key"], row["at"]) for row in kept[cypher.HOURS]) == sorted([*days, *hours])
    days[0] = (f"{AT}d", AT)
    assert sorted((row["key"], row["at"]) for row in gone[cypher.HOURS]) == sorted([*days, *hours[1:]])
    assert [row["at"] for row in gone[cypher.BUCKETS]] == [AT + DAY_MS, AT + DAY_MS + HOUR_MS]
    assert kept[cypher.DAYS] == gone[cypher.DAYS] and len(gone[cypher.DAYS]) == 3
    assert cypher.CHANGES in kept and cypher.CHANGES not in gone


events = st.lists(
    st.one_of(
        st.builds(
            ended,
            st.one_of(st.integers(AT, AT + 3 * HOUR_MS), st.integers(0, 15).map(lambda day: AT + day * DAY_MS)),
            st.tuples(st.sampled_from("ab"), st.sampled_from(("stall_timeout", "busy", "ok"))),
            st.tuples(st.sampled_from("bc"), st.just("ok")),
        ),
        st.builds(FeedbackGiven, at_ms=st.just(AT), run_id=st.just("r"), rating=st.floats(0, 1), model=st.just("a"),
                  task=st.just("t")),
        st.builds(ModelDegraded, at_ms=st.just(AT), model=st.sampled_from("ab"), reason=st.just("x"),
                  was=st.just("healthy")),
        st.builds(ModelRecovered, at_ms=st.just(AT), model=st.sampled_from("ab"), was=st.just("degraded"),
                  by=st.just("probe")),
        st.builds(applied, st.integers(0, 15).map(lambda day: AT + day * DAY_MS), a=st.sampled_from((0.0, 1.0))),
    ),
    max_size=15,
)  # fmt: skip


def written(batches: list[Rows]) -> dict[str, dict[str, Any]]:
    """What a graph holds after these batches, by the statements' own rows."""
    found: dict[str, dict[str, Any]] = {}
    for rows in batches:
        for statement, some in cypher.batch(rows, 0):
            table = found.setdefault(statement, {})
            for row in some:
                key = str(row.get("key") or sorted((k, v) for k, v in row.items() if isinstance(v, str)) or row["at"])
                old = table.setdefault(key, row)
                if statement in (cypher.INCIDENTS, cypher.MODELS):
                    table[key] = row
                elif old is not row:
                    table[key] = {k: _together(k, old[k], value) for k, value in row.items()}
    return found


def _together(name: str, old: Any, new: Any) -> Any:
    if name in ("first_at",):
        return min(old, new)
    if name in ("last_at", "lat_max_us"):
        return max(old, new)
    if name == "h":
        return [a + b for a, b in zip(old, new, strict=True)]
    return old + new if name in (*cypher.COUNTERS, "runs", "finished") else new


@given(events, st.integers(0, 15))
def test_no_border_of_a_batch_changes_what_is_written(some: list[Event], cut: int) -> None:
    facts = [Fact(seq, event) for seq, event in enumerate(some, 1)]
    whole = Folding()
    for one in facts:
        whole.take(one.seq, one.event)
    parts = Folding()
    batches: list[Rows] = []
    for one in facts:
        if one.seq == cut + 1:
            batches.append(parts.cut())
        parts.take(one.seq, one.event)
    batches.append(parts.cut())
    all_at_once = whole.cut()
    assert all_at_once.sweep == max(one.sweep for one in batches)
    assert all_at_once.new_week == any(one.new_week for one in batches)
    a, b = written([all_at_once]), written(batches)
    for statement in (cypher.BUCKETS, cypher.HOURS, cypher.SEEN, cypher.INCIDENTS, cypher.MODELS):
        assert a.get(statement) == b.get(statement)


@given(events, st.integers(0, 15))
def test_who_goes_on_folds_as_who_never_stopped(some: list[Event], cut: int) -> None:
    """A fold made from the facts about models and from the incidents of the graph."""
    facts = [Fact(seq, event) for seq, event in enumerate(some, 1)]
    first = Folding()
    for one in facts[:cut]:
        first.take(one.seq, one.event)
    first.cut()
    known = [one for one in facts[:cut] if isinstance(one.event, TopologyApplied)]
    incidents = tuple(replace(one) for one in first.open.values())
    again = at_position(known, Half("Pm", day=first.day, incidents=incidents, written=first.written))
    for one in facts[cut:]:
        first.take(one.seq, one.event)
        again.take(one.seq, one.event)
    a, b = first.cut(), again.cut()
    for name in ("buckets", "hours", "falls", "chains", "switches", "incidents", "sweep", "models"):
        assert getattr(a, name) == getattr(b, name), name
