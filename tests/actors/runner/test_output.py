"""Tool calls and JSON in an answer: what is whole, what is none, and where a text is cut by a stop string."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from understudy.actors.runner.dialect import CallPiece
from understudy.actors.runner.output import InvalidOutput, Output, StopCut
from understudy.messages.generate import Parameters, Turn
from understudy.messages.json_schema import BadSchema, check, fits
from understudy.messages.run import RunModel
from understudy.messages.tools import Format, Tool, ToolCall, ToolPart

LOOK, TAKE = Tool(name="look_around"), Tool(name="take_thing")
PLACE = {"type": "object", "required": ["place"], "properties": {"place": {"type": "string"}}}


def output(tools: tuple[Tool, ...] = (LOOK, TAKE), choice: str = "auto", wanted: Format | None = None) -> Output:
    p = Parameters(max_tokens=5, temperature=0.0, top_p=1.0, seed=1)
    turns = (Turn(role="user", content="Hi"),)
    fields: dict[str, Any] = {"tools": tools, "tool_choice": choice, "format": wanted}
    return Output(RunModel(run_id="r", attempt=0, model="m", messages=turns, parameters=p, remaining_ms=1.0, **fields))


def test_pieces_of_calls_are_put_together_by_their_index() -> None:
    out = output()
    told = [
        out.part(CallPiece(3, "a", "look_around")),
        out.part(CallPiece(7, "b", "take_thing", '{"x"')),
        out.part(CallPiece(3, "a", "look_around", "{}")),
        out.part(CallPiece(7, arguments=": 1}")),
    ]
    assert told == [
        ToolPart(index=0, id="a", name="look_around"),
        ToolPart(index=1, id="b", name="take_thing"),
        ToolPart(index=0),
        ToolPart(index=1),
    ]
    calls = (ToolCall(id="a", name="look_around"), ToolCall(id="b", name="take_thing", arguments='{"x": 1}'))
    assert out.judge("tool_calls") == ("tool_calls", calls)
    assert out.judge("stop") == ("tool_calls", calls), "a server that has no word for it"


def test_calls_without_a_number_or_an_id_are_told_apart() -> None:
    out = output()
    for _ in range(2):
        out.part(CallPiece(0, "", "look_around", "{}", whole=True))
    _, calls = out.judge("stop")
    assert [call.id for call in calls] == ["call_r_0", "call_r_1"]
    out = output()
    assert out.part(CallPiece(0, "line\nbreak", "look_around")).id == "call_r_0"


@pytest.mark.parametrize(
    ("piece", "choice", "finish"),
    [
        (CallPiece(0, "a", "sell_house", "{}"), "auto", "tool_calls"),
        (CallPiece(0, "a", "look_around", "{"), "auto", "tool_calls"),
        (CallPiece(0, "a", "look_around", "[]"), "auto", "tool_calls"),
        (CallPiece(0, "a", "look_around", "{}"), "none", "tool_calls"),
        (CallPiece(0, "a", "look_around", "{}"), "take_thing", "tool_calls"),
        (None, "required", "stop"),
        (None, "look_around", "stop"),
        (None, "auto", "tool_calls"),
    ],
)
def test_calls_that_nobody_asked_for(piece: CallPiece | None, choice: str, finish: str) -> None:
    out = output(choice=choice)
    if piece is not None:
        out.part(piece)
    with pytest.raises(InvalidOutput):
        out.judge(finish)


def test_a_limit_leaves_whole_calls_and_expects_no_more() -> None:
    out = output(choice="required")
    out.part(CallPiece(0, "a", "look_around", "{}"))
    out.part(CallPiece(1, "b", "take_thing", '{"thing": '))
    assert out.judge("length") == ("length", (ToolCall(id="a", name="look_around"),))
    out = output((), wanted=Format(type="json"))
    out.add('{"place": ')
    assert out.judge("length") == ("length", ())
    assert out.judge("refusal") == ("refusal", ())


@pytest.mark.parametrize("finish", ["length", "refusal"])
def test_a_call_that_was_cut_behind_its_name_is_not_whole(finish: str) -> None:
    out = output()
    out.part(CallPiece(0, "a", "look_around"))
    assert out.judge(finish) == (finish, ()), "its arguments may not have begun"
    out.part(CallPiece(1, "b", "take_thing", '{"thing": '))
    assert out.judge(finish) == (finish, (ToolCall(id="a", name="look_around"),)), "another began after it"


def test_a_refusal_drops_what_it_leaves_half_done() -> None:
    out = output(choice="required")
    out.part(CallPiece(0, "a", "sell_house", "{}"))
    out.part(CallPiece(1, "b", "take_thing", '{"thing": '))
    assert out.judge("refusal") == ("refusal", ())


def test_ids_are_given_once_within_an_answer() -> None:
    out = output()
    for index in range(3):
        out.part(CallPiece(index, "same", "look_around", "{}"))
    out.part(CallPiece(0, "call_r_4", "look_around", "{}", whole=True))
    out.part(CallPiece(0, "call_r_4", "look_around", "{}", whole=True))
    _, calls = out.judge("stop")
    assert [call.id for call in calls] == ["same", "call_r_1", "call_r_2", "call_r_4", "call_r_4_"]


def test_a_new_id_at_a_known_index_is_a_new_call() -> None:
    out = output()
    for said in ("a", "b"):
        out.part(CallPiece(0, said, "look_around", "{"))
        assert out.part(CallPiece(0, "", "", "}")) == ToolPart(index=0 if said == "a" else 1)
    assert [call.id for call in out.judge("tool_calls")[1]] == ["a", "b"]


def test_arguments_that_are_only_repeated_are_taken_once() -> None:
    out = output()
    out.part(CallPiece(0, "a", "look_around"))
    came = [
        CallPiece(0, arguments='{"x"'),
        CallPiece(0, arguments=":1}"),
        CallPiece(0, arguments='{"x":1}', again=True),
    ]
    for piece in came:
        out.part(piece)
    assert [piece.arguments for piece in came] == ['{"x"', ":1}", ""]
    out.part(CallPiece(1, "b", "take_thing"))
    whole = CallPiece(1, "b", "take_thing", '{"y":2}', again=True)
    assert (out.part(whole).index, whole.arguments) == (1, '{"y":2}')
    assert [call.arguments for call in out.judge("stop")[1]] == ['{"x":1}', '{"y":2}']


def test_arguments_that_nest_too_deeply_are_no_call() -> None:
    out = output()
    out.part(CallPiece(0, "a", "look_around", '{"a":' * 1_200 + "1" + "}" * 1_200))
    with pytest.raises(InvalidOutput):
        out.judge("tool_calls")


def test_a_call_where_nobody_offered_tools_is_refused_at_its_first_piece() -> None:
    with pytest.raises(InvalidOutput):
        output(()).part(CallPiece(0, "a", "look_around"))


def test_a_call_without_a_name_is_none() -> None:
    with pytest.raises(InvalidOutput):
        output().part(CallPiece(0, "a", "", "{}"))


@pytest.mark.parametrize(
    ("said", "schema", "good"),
    [
        ('{"place": "mill"}', PLACE, True),
        (' {"place": "mill"}\n', PLACE, True),
        ('{"place": 7}', PLACE, False),
        ('{"exits": []}', PLACE, False),
        ('```json\n{"place": "mill"}\n```', PLACE, False),
        ("Sure!", PLACE, False),
        ("[1]", {"type": "array"}, True),
        ("{}", None, True),
        ("[1]", None, False),
        ('{"a": NaN}', None, False),
        ("", None, False),
    ],
)
def test_json_is_judged_as_it_came(said: str, schema: dict[str, Any] | None, good: bool) -> None:
    kind = "json" if schema is None else "json_schema"
    out = output((), wanted=Format(type=kind, schema=schema))
    for character in said:
        out.add(character)
    if good:
        assert out.judge("stop") == ("stop", ())
    else:
        with pytest.raises(InvalidOutput):
            out.judge("stop")


def test_a_tool_call_instead_of_the_json_is_no_fault() -> None:
    out = output(wanted=Format(type="json"))
    out.part(CallPiece(0, "a", "look_around", "{}"))
    assert out.judge("tool_calls")[0] == "tool_calls"


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "nonsense"},
        {"$ref": "http://127.0.0.1:9/schema"},
        {"$ref": "file:///etc/hostname"},
        {"properties": {"a": {"pattern": "("}}},
        {"properties": {"a": {"pattern": "(a)\\1"}}},
        {"description": "x" * 300_000},
    ],
)
def test_schemas_that_nothing_can_be_checked_by(schema: dict[str, Any]) -> None:
    with pytest.raises(BadSchema):
        check(schema)


def test_expressions_take_linear_time_and_references_within_are_taken() -> None:
    schema = {"$defs": {"a": {"type": "string", "pattern": "^(a+)+$"}}, "properties": {"x": {"$ref": "#/$defs/a"}}}
    assert not fits(schema, {"x": "a" * 100_000 + "b"}), "backtracking would never end"
    assert fits(schema, {"x": "aaa"})
    assert fits({"$ref": "#"}, 1) in (True, False), "a schema that refers to itself comes to an end"


@given(st.text("abEND.", max_size=30), st.lists(st.integers(0, 30), max_size=8))
def test_the_cut_is_where_the_first_stop_string_begins(text: str, cuts: list[int]) -> None:
    stops = ("END", "ab.", "D")
    edges = sorted({0, *(c for c in cuts if c < len(text)), len(text)})
    cut, shown = StopCut(stops), ""
    for begin, end in pairwise(edges):
        shown += cut.feed(text[begin:end])
    found = [at for stop in stops if (at := text.find(stop)) >= 0]
    assert cut.reached == bool(found)
    assert shown + cut.rest() == (text[: min(found)] if found else text)


def test_what_is_shown_never_holds_a_part_of_a_stop_string() -> None:
    cut = StopCut(("STOP",))
    assert [cut.feed(piece) for piece in ("Go on S", "T", "OX ST", "OP and more", "never")] == [
        "Go on ",
        "",
        "STOX ",
        "",
        "",
    ]
    assert cut.reached and cut.rest() == ""


def test_a_schema_that_is_checked_is_not_built_again() -> None:
    schema = {"type": "object", "title": json.dumps([1, 2, 3])}
    check(schema)
    assert fits(schema, {}) and not fits(schema, [])
