"""`bench providers`: its judgement finds what is wrong, and a part of the table runs."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from understudy.messages.generate import Usage
from understudy.tools.bench import providers
from understudy.tools.bench.providers_asks import Seen, truncated, wrong, zeroed
from understudy.tools.bench.providers_cases import CELLS, CHUNKS, DIALECTS, Case, cases
from understudy.tools.fake.script import Message, built_in_faults, fault_for, script


def case(row: str, ask: str = "chat", dialect: str = "openai", mode: Any = "stream") -> Case:
    cell = next(c for c in CELLS if (c.row, c.ask) == (row, ask)).of(dialect)
    assert cell is not None
    return Case(cell=cell, dialect=dialect, mode=mode)


def right(one: Case) -> Seen:
    text = "".join(script([Message("user", one.prompt)], CHUNKS))
    usage = Usage(prompt_tokens=3, completion_tokens=9)
    return Seen(
        ms=1, end="stop", attempts=("ok",), text=text, held=text, calls=(), held_calls=(), modes=(), usage=usage
    )


def test_every_row_has_a_fault_and_every_cell_a_model_of_its_own() -> None:
    table = built_in_faults()
    rows = {cell.row for cell in CELLS} - {"refused"}
    assert [row for row in rows if fault_for(table, row) is None] == []
    asked = cases()
    assert len({one.model for one in asked}) == len(asked) > 600
    assert {one.dialect for one in asked} == set(DIALECTS)
    assert len({one.cell.row for one in asked if one.cell.ask == "chat"}) >= 25


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({}, []),
        ({"attempts": ("server_error",)}, ["first"]),
        ({"attempts": ("ok", "ok")}, ["then"]),
        ({"seams": 1, "modes": ("continue",)}, ["seam"]),
        ({"modes": ("restart",)}, ["seam"]),
        ({"end": "length"}, ["end"]),
        ({"usage": None}, ["usage"]),
        ({"usage": Usage(prompt_tokens=1, completion_tokens=1, estimated=True)}, ["usage"]),
        ({"text": "Half", "held": "Half"}, ["content"]),
        ({"held": "Half"}, ["content"]),
    ],
)
def test_the_judgement_of_a_cell(change: dict[str, Any], words: list[str]) -> None:
    one = case("ok")
    assert wrong(one, replace(right(one), **change)) == words


def test_what_is_truncated_and_what_is_counted_as_nothing() -> None:
    one = case("ok")
    assert not truncated(one, right(one)) and truncated(one, replace(right(one), text="Half"))
    assert not zeroed(right(one)) and zeroed(replace(right(one), usage=Usage(prompt_tokens=3)))
    assert zeroed(replace(right(one), usage=Usage(completion_tokens=3)))


@pytest.mark.slow
@pytest.mark.timeout(120)
async def test_a_ninth_of_the_table() -> None:
    result = await providers.measure(quick=True)
    assert [one.id for one in result.bars if not one.holds] == [], result.detail["rows"]
    assert result.bars[0].value == len(cases(quick=True))
    assert "openai_responses" in providers.explain(result)


@pytest.mark.parametrize(
    "before", [("json-ok", "json"), ("refusal", "chat"), ("length", "chat"), ("tool-text", "tools")]
)
def test_the_controls_are_made_from_a_whole_answer_whichever_case_ended_first(before: tuple[str, str]) -> None:
    whole, other = case("ok"), case(*before)
    found = [(other, right(other)), (whole, right(whole))]
    assert providers.controls(found) == providers.CONTROLS
    assert providers.controls(found[:1]) == 0
