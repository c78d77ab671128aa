"""When lists are read again, when one is not believed, and how often there is an alarm."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from tests.actors.model_manager.managed import ADMIT, PAID, Table, kinds, row
from understudy.messages.catalogue_events import CatalogueRefused, ModelRetired
from understudy.messages.listing import ListEnded, ListPart
from understudy.messages.step import Heard, StoreFailed
from understudy.messages.topology import Topology

HOUR_MS, MINUTE_MS = 3_600_000, 60_000


def pause_ms(t: Table, most_ms: int = 2 * HOUR_MS) -> int:
    """How long until the list is asked for again."""
    before, waited = len(t.asked), 0
    while len(t.asked) == before:
        assert waited < most_ms
        t.wake(1_000)
        waited += 1_000
    return waited


def test_after_a_failure_it_is_tried_again_soon_and_then_less_and_less_often() -> None:
    t = Table(admit=ADMIT)
    found: list[int] = []
    for _ in range(13):
        t.fail("status")
        found.append(pause_ms(t))
    assert found[:6] == [5_000, 10_000, 20_000, 40_000, 80_000, 160_000] and found[-2:] == [HOUR_MS, HOUR_MS]
    t.answer(row("a/x"))
    assert pause_ms(t) == HOUR_MS
    t.fail("status")
    assert pause_ms(t) == 5_000, "a whole list makes up for it"


def test_a_failure_while_a_fact_is_under_way_costs_a_second_not_an_hour() -> None:
    t = Table(admit=ADMIT)
    t.state.telling["other"] = "other"
    assert t.fail("status") == []
    t.state.telling.clear()
    assert pause_ms(t) == 1_000


class Full(Table):
    """A log that takes nothing."""

    full = False

    def store(self, effect: Any) -> None:
        if self.full:
            self.feed(StoreFailed(self.now, effect.msg_id, "log_full"))
        else:
            super().store(effect)


def test_a_full_log_does_not_make_the_vendor_s_list_be_read_all_the_time() -> None:
    t = Full(admit=ADMIT)
    t.answer(*(row(f"a/{n}") for n in range(200)))
    t.full, before = True, len(t.asked)
    for _ in range(4 * 600):  # ten minutes of sweeps
        if t.state.readings:
            t.answer(*(row(f"a/{n}", price=PAID) for n in range(200)))
        t.wake(250)
    assert len(t.asked) == before, "its hour is not over"
    t.wake(HOUR_MS)
    for _ in range(4 * 600):
        if t.state.readings:
            t.answer(*(row(f"a/{n}", price=PAID) for n in range(200)))
        t.wake(250)
    assert 5 <= len(t.asked) - before <= 12
    t.full = False
    t.wake(2 * MINUTE_MS)
    t.answer(*(row(f"a/{n}", price=PAID) for n in range(200)))
    assert all(e.price == PAID for e in t.known.entries.values()), "nothing was lost"


@pytest.mark.parametrize("left", [0, 1])
def test_a_list_that_has_lost_most_of_its_models_is_not_believed_at_once(left: int) -> None:
    t = Table({"mine": {"provider": "hub", "name": "a/0"}}, admit=ADMIT)
    whole = [row(f"a/{n}") for n in range(4)]
    t.answer(*whole)
    (alarm,) = t.read(*whole[4 - left :])
    assert isinstance(alarm, CatalogueRefused) and alarm.code == "shrunk"
    assert t.candidates() == ["a/1", "a/2", "a/3", "mine"]
    assert pause_ms(t) == MINUTE_MS
    assert kinds(t.answer(*whole)) == ["CatalogueAccepted"], "a mishap"
    t.read(*whole[4 - left :])
    assert pause_ms(t) == MINUTE_MS
    facts = t.answer(*whole[4 - left :])
    assert [f.reason for f in facts if isinstance(f, ModelRetired)] == ["not_listed"], "said twice in a row"
    assert t.candidates() == [f"a/{n}" for n in range(4 - left, 4)]


def test_a_failure_between_two_shrunk_lists_makes_them_two_first_ones() -> None:
    t = Table(admit=ADMIT)
    t.answer(row("a/x"), row("a/y"))
    t.read()
    pause_ms(t)
    t.fail("status")
    pause_ms(t)
    assert t.answer() == [] and t.candidates() == ["a/x", "a/y"]


def test_an_empty_list_is_read_again_soon_also_where_it_is_believed() -> None:
    t = Table(admit=ADMIT)
    t.answer()
    assert pause_ms(t) == MINUTE_MS


def test_an_ollama_may_remove_what_it_likes() -> None:
    t = Table(kind="ollama", admit={"ids": ["*"]})
    t.answer(row("a", location="local"), row("b", location="local"))
    t.wake(5_000)
    assert kinds(t.answer()) == ["ModelRetired"]


def test_after_a_404_the_list_is_read_soon_and_less_soon_each_time() -> None:
    t = Table(admit=ADMIT)
    t.answer(row("a/x"))
    for minutes in (1, 2, 4):
        t.happen(ModelRetired(at_ms=0, provider="hub", models=("a/x",), reason="not_found"))
        assert pause_ms(t) == minutes * MINUTE_MS
        assert kinds(t.answer(row("a/x"))) == ["ModelReturned"]
    assert pause_ms(t) == HOUR_MS
    t.happen(ModelRetired(at_ms=0, provider="hub", models=("a/x",), reason="not_found"))  # while the list is read
    assert t.answer(row("a/x")) == []
    assert pause_ms(t) == 8 * MINUTE_MS


def test_a_model_that_is_over_when_it_comes_is_no_candidate_until_midnight() -> None:
    t = Table(admit=ADMIT)
    facts = t.answer(row("a/x", expires="2020-01-01"), row("a/y"))
    assert facts[-1].reason == "expired" and facts[-1].models == ("a/x",) and t.candidates() == ["a/y"]
    assert t.read(row("a/x", expires="2020-01-01"), row("a/y")) == []
    facts = t.read(row("a/x", expires="2020-01-01"), row("a/y", expires="2020-01-01"))
    assert facts[-1].models == ("a/y",) and t.candidates() == []


def test_no_list_of_an_earlier_life_has_the_id_of_one_of_this() -> None:
    t = Table(admit=ADMIT)
    early = t.list_id
    t.boot("id2")
    t.wake()
    t.wake()
    assert t.list_id != early
    t.feed(Heard(t.now, "x", ListPart(list_id=early, n=0, rows=(row("a/x"),))))
    assert t.feed(Heard(t.now, "x", ListEnded(list_id=early, parts=1))) == []


def test_an_ollama_that_was_never_there_is_an_alarm() -> None:
    t = Table(kind="ollama", admit={"ids": ["*"]})
    (alarm,) = t.fail("unreachable")
    assert isinstance(alarm, CatalogueRefused) and alarm.code == "unreachable"
    t.wake(5_000)
    assert t.fail("unreachable") == []
    t.wake(5_000)
    assert kinds(t.answer(row("a", location="local")))[-1] == "CatalogueAccepted"


def test_an_alarm_that_the_log_did_not_take_is_said_again() -> None:
    t = Full(admit=ADMIT)
    t.full = True
    assert kinds(t.fail("status")) == ["CatalogueRefused"] and t.known.refused == {}
    t.full = False
    pause_ms(t)
    assert kinds(t.fail("status")) == ["CatalogueRefused"] and "hub" in t.known.refused


def test_another_topology_begins_anew() -> None:
    t = Table(admit=ADMIT)
    for _ in range(8):
        t.fail("status")
        pause_ms(t)
    t.declare(t.topology(admit=ADMIT))
    t.wake()
    t.wake()
    t.fail("timeout")
    assert t.known.refused["hub"].code == "timeout", "an alarm of its own"
    assert pause_ms(t) == 5_000


def test_faults_that_change_all_the_time_are_few_alarms() -> None:
    t = Table(kind="ollama")
    alarms = 0
    for n in range(720):  # an hour
        if n % 3 == 2:
            t.answer()
        else:
            alarms += kinds(t.fail("status" if n % 3 else "timeout", "")).count("CatalogueRefused")
        t.wake(5_000)
    assert 1 <= alarms <= 7


def test_without_a_catalogue_a_named_model_is_there_again() -> None:
    models = {"mine": {"provider": "hub", "name": "a/x"}}
    bare = {"version": 1, "models": models, "providers": {"hub": {"kind": "ollama", "url": "http://127.0.0.1:1"}}}
    t = Table(models, kind="ollama")
    t.answer(row("a/x:latest", location="local"), row("b"))
    t.wake(5_000)
    t.answer(row("b"))
    t.wake(5_000)
    t.fail("unreachable")
    mine = t.known.entries["mine"]
    assert mine.retired == "not_listed" and t.known.entries["b"].offline
    t.declare(msgspec.convert(bare, Topology))
    assert kinds(t.wake()) == ["ModelRegistered", "ModelRetired", "ModelReturned"]
    assert mine.retired is None and t.wake(HOUR_MS) == []
    t = Table(models, kind="ollama")
    t.answer(row("a/x:latest", location="local"))
    t.wake(5_000)
    t.fail("unreachable")
    assert t.known.entries["mine"].offline
    t.declare(msgspec.convert(bare, Topology))
    t.wake()
    assert not t.known.entries["mine"].offline and t.wake(HOUR_MS) == []
