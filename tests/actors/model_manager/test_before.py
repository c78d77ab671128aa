"""What a list repeats is judged once, and comes to the same as if it were judged each time."""

from __future__ import annotations

import random

import msgspec

from tests.actors.model_manager.managed import FREE, PAID, Table, row
from understudy.actors.model_manager import compare
from understudy.messages.known import Known
from understudy.messages.listing import Row


def changed(luck: random.Random, rows: dict[str, Row]) -> list[Row]:
    """Some leave, some come, some are described or priced anew; the order is any."""
    for name in luck.sample([f"{maker}/{n}" for maker in "ab" for n in range(12)], 8):
        fields = {"context_tokens": luck.choice([None, 4_000, 8_000]), "price": luck.choice([None, FREE, PAID])}
        rows[name] = row(name, licence=luck.choice(["", "MIT"]), **fields)
        if luck.random() < 0.3:
            del rows[name]
    return luck.sample(list(rows.values()), len(rows))


def test_the_same_comes_of_a_list_whatever_is_remembered_of_the_last() -> None:
    topology = Table.topology({"mine": {"provider": "hub", "name": "a/3"}}, admit={"ids": ["a/*"], "free": True})
    luck, rows, before = random.Random(5), dict[str, Row](), compare.Before()
    kept = 0
    for _ in range(200):
        found = changed(luck, rows)
        last = dict(before)
        remembering = compare.listings(topology, "hub", found, Known(), before)
        assert remembering == compare.listings(topology, "hub", found, Known())
        assert before.keys() == {one.name for one in found} - {"a/3"}, "who left is forgotten"
        kept += sum(before[name] is last.get(name) for name in before)
    assert kept > 1_000, "most were not judged again"


def test_another_rule_of_admission_judges_all_anew() -> None:
    t = Table(admit={"ids": ["a/*"]})
    t.answer(row("a/x"), row("b/y"))
    assert t.candidates() == ["a/x"]
    t.declare(t.topology(admit={"ids": ["b/*"]}))
    t.wake(1_000)
    t.wake(1_000)
    t.answer(row("a/x"), row("b/y"))
    assert t.candidates() == ["b/y"]
    assert msgspec.to_builtins(t.state.judged["hub"]["b/y"][1].listing)["admitted"]
