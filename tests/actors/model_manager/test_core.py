"""The model manager on a table: lists come in, facts go to a log that may lose them; the catalogue is their fold."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from tests.actors.model_manager.managed import ADMIT, DAY_MS, FREE, PAID, Table, kinds, row
from understudy.messages import known as known_module
from understudy.messages.catalogue import RefreshCatalogue, Refreshing
from understudy.messages.catalogue_events import (
    CatalogueRefused,
    ModelOffline,
    ModelOnline,
    ModelPriced,
    ModelResident,
    ModelRetired,
    ModelReturned,
)
from understudy.messages.events import TopologyApplied
from understudy.messages.known import Known
from understudy.messages.listing import ListEnded, ListPart, Resident, Row
from understudy.messages.step import (
    Heard,
    Unheard,
)
from understudy.messages.topology import Topology


def test_a_list_becomes_facts_once() -> None:
    t = Table(admit=ADMIT)
    assert t.asked[-1].subject == "tta.ask.runner.list.hub" and t.asked[-1].reply == f"_INBOX_A.m1.run.{t.list_id}"
    rows = row("a/x"), row("a/y", price=PAID), row("b/z"), row("a/w", price=None)
    first = t.answer(*rows)
    assert kinds(first) == ["ModelRegistered", "ModelPriced"]
    assert {p.model: p.price for p in first[1].prices} == {"a/x": FREE, "a/y": PAID, "b/z": FREE}
    assert t.candidates() == ["a/x"], "of its ids, free, and nothing else"
    assert t.read(*rows) == [] == t.read(*reversed(rows)), "nothing new, nothing stored"


def test_only_what_changed() -> None:
    t = Table(admit=ADMIT)
    t.answer(row("a/x"), row("a/y"))
    (priced, registered) = reversed(t.read(row("a/x", price=PAID), row("a/y")))
    assert priced == ModelPriced(at_ms=int(t.now), provider="hub", prices=(priced.prices[0],))
    assert (priced.prices[0].model, priced.prices[0].price) == ("a/x", PAID)
    assert [(r.id, r.admitted) for r in registered.models] == [("a/x", False)], "too dear now"
    (registered,) = t.read(row("a/x", price=PAID), row("a/y", context_tokens=9))
    assert [r.id for r in registered.models] == ["a/y"]


def test_a_model_that_is_listed_no_more_and_again() -> None:
    t = Table(admit=ADMIT)
    t.answer(row("a/x"), row("a/y"))
    (gone,) = t.read(row("a/y"))
    assert isinstance(gone, ModelRetired) and (gone.models, gone.reason) == (("a/x",), "not_listed")
    assert t.candidates() == ["a/y"] and t.read(row("a/y")) == []
    (back,) = t.read(row("a/x"), row("a/y"))
    assert isinstance(back, ModelReturned) and back.models == ("a/x",) and t.candidates() == ["a/x", "a/y"]


def test_not_found_stands_until_a_list_that_was_asked_for_afterwards() -> None:
    t = Table(admit=ADMIT)
    t.answer(row("a/x"))
    t.wake(3_600_000)  # asked for before the 404 ...
    t.happen(ModelRetired(at_ms=0, provider="hub", models=("a/x",), reason="not_found"))
    assert t.answer(row("a/x")) == [], "... so it does not know better"
    assert t.candidates() == []
    assert kinds(t.read(row("a/x"))) == ["ModelReturned"]


@pytest.mark.parametrize("code", ["malformed", "status", "timeout", "too_large", "unreachable"])
def test_a_list_that_is_none_changes_nothing_and_alarms_once(code: Any) -> None:
    t = Table(admit=ADMIT)
    t.answer(row("a/x"))
    t.wake(3_600_000)
    (alarm,) = t.fail(code)
    assert isinstance(alarm, CatalogueRefused) and (alarm.code, alarm.path) == (code, "$.data[0]")
    assert t.candidates() == ["a/x"]
    t.wake(3_600_000)
    assert t.fail(code) == [], "the same again is no news"
    t.wake(3_600_000)
    assert t.fail(code, "$.data[7]") == [], "nor elsewhere in the list"
    t.wake(3_600_000)
    assert kinds(t.fail("clash")) == ["CatalogueRefused"]
    assert kinds(t.read(row("a/x"))) == ["CatalogueAccepted"] and t.known.refused == {}


def test_a_part_that_was_lost_makes_no_list() -> None:
    t = Table(admit=ADMIT)
    t.answer(row("a/x"), row("a/y"), row("a/z"))
    t.wake(3_600_000)
    t.feed(Heard(t.now, "x", ListPart(list_id=t.list_id, n=1, rows=(row("a/z"),))))
    assert t.feed(Heard(t.now, "x", ListEnded(list_id=t.list_id, parts=2))) == []
    assert t.candidates() == ["a/x", "a/y", "a/z"]
    before = len(t.asked)
    t.wake(4_999)
    assert len(t.asked) == before
    t.wake(1)
    assert len(t.asked) == before + 1, "it is asked for again"


def test_a_runner_that_is_not_there_yet_or_says_nothing() -> None:
    t = Table()
    t.feed(Unheard(t.now, t.asked[-1].reply))
    t.wake(500)
    assert len(t.asked) == 1
    t.wake(500)
    assert len(t.asked) == 2
    facts = t.wake(t.settings.timeout_ms)
    assert [(f.code, type(f)) for f in facts] == [("timeout", CatalogueRefused)]
    late = ListEnded(list_id=t.list_id, parts=0)
    assert t.feed(Heard(t.now, "x", late)) == [], "too late"


def test_an_ollama_that_stops_is_one_fact_and_comes_back_as_one() -> None:
    t = Table(kind="ollama", admit={"ids": ["*"]})
    t.answer(row("a", location="local"), row("b"), row("c"))
    t.wake(5_000)
    (gone,) = t.fail("unreachable")
    assert isinstance(gone, ModelOffline) and sorted(gone.models) == ["a", "b", "c"]
    t.wake(5_000)
    assert t.fail("unreachable") == []
    t.wake(5_000)
    assert kinds(t.answer(row("a", location="local"), row("b"), row("c"))) == ["ModelOnline"]
    assert not any(entry.offline for entry in t.known.entries.values())
    assert ModelOnline in {type(event) for _, event in t.log}


def ollama(*rows: Row) -> Table:
    t = Table(kind="ollama", admit={"ids": ["*"]})
    t.answer(*rows)
    t.wake(5_000)
    return t


def broken(name: str, **fields: Any) -> Row:
    """What a reader says of a model whose details it could not get."""
    return Row(**{"name": name, "location": "local", "problem": "HTTP 500", **fields})


def test_a_model_whose_details_fail_is_as_it_was_and_says_why() -> None:
    rows = row("a", location="local"), row("b", location="local")
    t = ollama(*rows)
    before = t.known.entries["b"].listing
    (said,) = t.answer(rows[0], broken("b"))
    assert said.models == (replace(before, problem="HTTP 500"),), "nothing else is known to have changed"
    assert t.candidates() == ["a", "b"] and t.known.entries["b"].price == FREE
    t.wake(5_000)
    assert t.answer(rows[0], broken("b")) == [], "the same again is no news"
    t.wake(5_000)
    (said,) = t.answer(*rows)
    assert said.models == (before,)


def test_a_model_that_could_never_be_shown_is_listed_and_nothing_more() -> None:
    t = ollama(row("a", location="local"))
    (said,) = t.answer(row("a", location="local"), broken("b"))
    (listing,) = said.models
    assert (listing.location, listing.admitted, listing.problem) == ("external", False, "HTTP 500")
    assert t.candidates() == ["a"]


def test_one_that_may_compute_elsewhere_now_is_not_local_and_not_free() -> None:
    t = ollama(row("a", location="local"), row("b", location="local"))
    registered, priced = t.answer(row("a", location="local"), broken("b", location="external"))
    assert [(one.id, one.location, one.admitted) for one in registered.models] == [("b", "external", False)]
    assert [(one.model, one.price) for one in priced.prices] == [("b", None)]
    t.wake(5_000)
    assert t.answer(row("a", location="local"), broken("b")) == [], "nor does a reader that forgot it make it so"


def test_no_model_is_back_by_a_list_that_could_not_show_it() -> None:
    t = ollama(row("a", location="local"), row("b", location="local"))
    t.answer(row("a", location="local"), row("b", location="local"))
    t.happen(ModelRetired(at_ms=0, provider="hub", models=("b",), reason="not_found"))
    t.wake(60_000)
    assert kinds(t.answer(row("a", location="local"), broken("b"))) == ["ModelRegistered"]
    assert t.candidates() == ["a"]
    t.wake(5_000)
    assert kinds(t.answer(row("a", location="local"), row("b", location="local"))) == [
        "ModelRegistered",
        "ModelReturned",
    ]


def test_what_is_in_memory_is_a_fact_when_it_changes() -> None:
    t = Table(kind="ollama")
    loaded = row("a", resident=Resident(bytes=9, vram_bytes=4))
    assert kinds(t.answer(row("a"))) == ["ModelRegistered", "ModelPriced"]
    t.wake(5_000)
    (fact,) = t.answer(loaded)
    assert fact == ModelResident(at_ms=int(t.now), provider="hub", models={"a": loaded.resident})
    t.wake(5_000)
    assert t.answer(loaded) == []
    t.wake(5_000)
    assert [f.models for f in t.answer(row("a"))] == [{}]


def test_the_last_day_is_used_to_its_end() -> None:
    t = Table(admit=ADMIT)
    t.answer(row("a/x", expires="2024-10-04"), row("a/y", expires="2024-10-05"))
    assert t.candidates() == ["a/x", "a/y"]
    (gone,) = t.wake(DAY_MS)
    assert (gone.models, gone.reason) == (("a/x",), "expired")
    t.wake()
    assert t.answer(row("a/x", expires="2024-10-04"), row("a/y", expires="2024-10-05")) == [], "listed, but over"
    facts = t.read(row("a/x", expires="2024-12-31"), row("a/y", expires="2024-10-05"))
    assert kinds(facts) == ["ModelRegistered", "ModelReturned"]


def test_the_topology_s_models_are_registered_with_what_the_list_adds() -> None:
    models = {
        "mine": {"provider": "hub", "name": "a/x", "licence": "apache-2.0"},
        "own": {"provider": "here", "path": "p"},
    }
    t = Table(models)
    entries = t.known.entries
    assert {m: (e.listing.source, e.listing.location, e.listing.listed) for m, e in entries.items()} == {
        "mine": ("topology", "local", False),
        "own": ("topology", "local", False),
    }
    assert entries["mine"].listing.licence_class == "permissive"
    t.answer(row("a/x", price=PAID, expires="2030-01-01"), row("a/y"))
    mine = entries["mine"]
    assert (mine.listing.listed, mine.price, mine.listing.expires) == (True, PAID, "2030-01-01")
    assert mine.listing.context_tokens == 4_096, "the operator's word stands"
    declared = t.known.declared("mine")
    assert declared is not None and (declared.usd_per_mtok_in, declared.usd_per_mtok_out) == (1.0, 2.0)
    assert "a/x" not in entries and t.known.declared("a/y") is None


def test_another_topology_admits_others_and_forgets_providers() -> None:
    t = Table({"mine": {"provider": "hub", "name": "a/x"}}, admit=ADMIT)
    t.answer(row("a/x"), row("a/y"), row("b/z"))
    assert t.candidates() == ["a/y", "mine"]
    t.declare(t.topology(admit={"ids": ["b/*"]}))
    facts = t.wake()
    assert kinds(facts) == ["ModelRegistered", "ModelPriced", "ModelRetired"] and facts[2].reason == "removed"
    assert t.candidates() == ["b/z"], "before any list is read"
    t.wake()
    t.answer(row("a/x"), row("a/y"), row("b/z"))
    assert t.known.entries["a/x"].listing.source == "list"
    t.declare(msgspec.convert({"version": 1, "models": {}, "providers": {"here": {"kind": "local"}}}, Topology))
    assert {f.reason for f in t.wake()} == {"removed"} and t.known.candidates() == {}
    assert t.wake() == [] and t.wake(3_600_000) == []


def test_an_id_that_another_provider_has_is_refused_with_what_to_do() -> None:
    models = {"a/x": {"provider": "here", "path": "p"}}
    t = Table(models, admit=ADMIT)
    (alarm,) = t.answer(row("a/x"), row("a/y"))
    assert (alarm.code, alarm.path) == ("clash", "a/x") and "prefix" in alarm.text
    assert t.candidates() == ["a/x"] and t.known.entries["a/x"].provider == "here"
    t = Table(models, admit=ADMIT, prefix="hub/")
    t.answer(row("a/x"))
    assert t.candidates() == ["a/x", "hub/a/x"]
    declared = t.known.declared("hub/a/x")
    assert declared is not None and declared.name == "a/x"


def test_an_id_that_another_provider_s_list_had_once_is_free() -> None:
    one = {"kind": "openrouter", "url": "http://127.0.0.1:1/v1", "catalogue": {"admit": {"ids": ["*"]}}}
    t = Table(admit=ADMIT)
    t.answer(row("a/x"), row("a/y"))
    t.read(row("a/y"))
    providers = {"two": one, "hub": one, "here": {"kind": "local"}}
    t.declare(msgspec.convert({"version": 1, "models": {}, "providers": providers}, Topology))
    t.wake()
    t.wake()
    subjects = [sent.subject for sent in t.asked[-2:]]
    assert subjects == ["tta.ask.runner.list.two", "tta.ask.runner.list.hub"]
    list_id = t.asked[-2].message.list_id  # type: ignore[union-attr]
    t.feed(Heard(t.now, "x", ListPart(list_id=list_id, n=0, rows=(row("a/x"),))))
    assert kinds(t.feed(Heard(t.now, "x", ListEnded(list_id=list_id, parts=1)))) == ["ModelRegistered", "ModelPriced"]
    assert t.known.entries["a/x"].provider == "two" and t.candidates() == ["a/x", "a/y"]


def test_an_ollama_model_without_its_tag_is_the_one_that_is_listed() -> None:
    t = Table({"mine": {"provider": "hub", "name": "tiny"}}, kind="ollama", admit={"ids": ["*"]})
    t.answer(row("tiny:latest", location="local"), row("tiny:1b", location="local"))
    assert t.candidates() == ["mine", "tiny:1b"], "not twice"
    mine = t.known.entries["mine"].listing
    assert (mine.location, mine.listed, mine.name) == ("local", True, "tiny:latest")
    declared = t.known.declared("mine")
    assert declared is not None and t.known.standing("mine", declared).location == "local"


def test_a_topology_that_takes_an_admitted_id_wins() -> None:
    t = Table(admit=ADMIT)
    t.answer(row("a/x"), row("a/y"))
    t.declare(t.topology({"a/x": {"provider": "here", "path": "p"}}, admit=ADMIT))
    t.wake()
    assert t.known.entries["a/x"].provider == "here" and t.candidates() == ["a/x", "a/y"]


def test_an_operator_does_not_wait_for_its_time() -> None:
    t = Table()
    t.answer(row("a/x"))
    for provider in ("hub", None):
        t.order(RefreshCatalogue(provider=provider))
        assert t.asked[-1].message == Refreshing(providers=("hub",))
        t.wake()
        assert t.asked[-1].subject == "tta.ask.runner.list.hub"
        t.answer(row("a/x"))
    t.order(RefreshCatalogue(provider="here"))
    failed: Any = t.asked[-1].message
    assert (failed.code, failed.path) == ("invalid", "$.provider") and "hub" in failed.text


def test_a_large_list_is_a_few_facts_of_bounded_size() -> None:
    t = Table(admit={"ids": ["*"]})
    rows = [row(f"org/model-{n}", parameters=tuple(f"parameter_{k}" for k in range(20))) for n in range(500)]
    facts = t.answer(*rows)
    assert 2 <= len(facts) < 40 and len(t.known.entries) == 500  # each one's size: `feed`


def test_of_what_lists_have_no_longer_only_the_newest_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known_module, "RETIRED", 2)
    t = Table({"mine": {"provider": "hub", "name": "a/0"}}, admit=ADMIT)
    t.answer(*(row(f"a/{n}") for n in range(4)))
    for n in range(4):
        t.read(*(row(f"a/{k}") for k in range(n + 1, 4)))
    t.read()  # what takes most is believed when it is said again
    assert sorted(t.known.entries) == ["a/2", "a/3", "mine"], "and what the topology names"
    assert t.candidates() == [] and t.known.entries["mine"].retired == "not_listed"


NAMES = ("a/1", "a/2", "b/3")
LIST = st.dictionaries(st.sampled_from(NAMES), st.sampled_from([FREE, PAID, None]), max_size=3)
STEP = st.one_of(
    LIST.map(lambda found: ("list", found)),
    LIST.map(lambda found: ("lost", found)),
    st.just(("crash", None)),
    st.just(("fail", None)),
    st.sampled_from(NAMES).map(lambda name: ("404", name)),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(STEP, max_size=12), LIST)
def test_after_any_history_the_catalogue_is_the_last_list(history: list[tuple[str, Any]], last: dict[str, Any]) -> None:
    t = Table(admit={"ids": ["*"]})

    def rows(found: dict[str, Any]) -> list[Row]:
        return [row(name, price=price) for name, price in found.items()]

    t.answer()
    for word, what in history:
        t.wake(3_600_000)
        match word:
            case "list":
                t.answer(*rows(what))
            case "lost":
                t.lost = True
                t.answer(*rows(what))
                t.lost = False
            case "crash":
                t.boot()
            case "fail":
                t.fail()
            case _:
                entry = t.known.entries.get(what)
                if entry is not None and entry.retired is None:
                    t.happen(ModelRetired(at_ms=0, provider="hub", models=(what,), reason="not_found"))
    for _ in range(3):  # what was under way, what was lost, and once more
        t.state.readings.clear()
        t.wake(3_600_000)
        t.wake()  # the first one may have told what was lost
        t.answer(*rows(last))
    assert t.candidates() == sorted(last)
    assert {m: t.known.entries[m].price for m in last} == last
    folded = Known(topology=t.known.topology)
    for seq, event in t.log:
        if not isinstance(event, TopologyApplied):
            folded.apply(int(seq), event)
    assert folded == t.known, "and all of it is in the log"
    assert t.known.refused == {}


def test_two_managers_state_the_same_under_the_same_ids() -> None:
    one, two = Table(admit=ADMIT), Table(admit=ADMIT)
    assert one.answer(row("a/x")) == [replace(fact, at_ms=int(one.now)) for fact in two.answer(row("a/x"))]
    assert one.ids == two.ids
