"""What a schema may cost: nesting, expressions, references that expand, and the values held against it."""

from __future__ import annotations

import time
from typing import Any

import pytest

from understudy.messages import json_schema as schema
from understudy.messages.json_schema import MOST_VALUE_NESTING, BadSchema, check, decoded, fits
from understudy.messages.json_schema_cost import MOST_NESTING, census, cost


def nested(depth: int) -> dict[str, Any]:
    found: dict[str, Any] = {"type": "object"}
    for _ in range(depth):
        found = {"properties": {"a": found}}
    return found


def doubled(levels: int, base: dict[str, Any]) -> dict[str, Any]:
    """A few lines that describe 2**levels schemas."""
    parts: dict[str, Any] = {"a0": base}
    for level in range(1, levels + 1):
        parts[f"a{level}"] = {"allOf": [{"$ref": f"#/$defs/a{level - 1}"}] * 2}
    return {"$defs": parts, "$ref": f"#/$defs/a{levels}"}


def chained(links: int) -> dict[str, Any]:
    """Met from its near end first: no single way through it looks long."""
    parts: dict[str, Any] = {f"a{n}": {"not": {"$ref": f"#/$defs/a{n - 1}"}} for n in range(1, links)}
    return {"$defs": {"a0": {}, **parts}, "allOf": [{"$ref": f"#/$defs/a{n}"} for n in range(links)]}


@pytest.mark.parametrize("depth", [MOST_NESTING, 150, 400, *range(700, 1_100, 25), 50_000])
def test_a_schema_that_nests_too_deeply_is_told_and_raises_nothing_else(depth: int) -> None:
    with pytest.raises(BadSchema):
        check(nested(depth))


@pytest.mark.parametrize(
    "bad",
    [
        {"properties": {f"p{n}": {"pattern": rf"\pL{{{60 + n}}}"} for n in range(50)}},
        {"properties": {f"p{n}": {"pattern": f"^x{n}"} for n in range(65)}},
        {"patternProperties": {f"^x{n}": {} for n in range(65)}},
        doubled(30, {"type": "integer"}),
        doubled(30, {"items": {"$ref": "#/$defs/a30"}}),
        {"$defs": {"a": doubled(30, {})["$defs"]["a1"]}, "$ref": "#/$defs/a"},
        chained(900),
        {"$ref": "#/$defs/nowhere"},
        {"$ref": "#nowhere"},
        {"properties": {"a": {"$id": "http://other/", "$ref": "#/x"}}},
    ],
)
def test_what_would_cost_too_much_is_refused_soon(bad: dict[str, Any]) -> None:
    check({})
    began = time.perf_counter()
    with pytest.raises(BadSchema):
        check(bad)
    assert time.perf_counter() - began < 0.5, "of seconds and of gigabytes without the bounds"


@pytest.mark.parametrize(
    ("good", "value", "fit"),
    [
        (nested(MOST_NESTING - 10), {"a": {}}, True),
        (doubled(10, {"type": "integer"}), 1, True),
        (doubled(10, {"type": "integer"}), "x", False),
        ({"$defs": {"t": {"$anchor": "t", "anyOf": [{"type": "string"}, {"items": {"$ref": "#t"}}]}}, "$ref": "#t"},
         ["a", ["b", []]], True),
        ({"type": "object", "properties": {"left": {"$ref": "#"}, "right": {"$ref": "#"}},
          "additionalProperties": False}, {"left": {"right": {"x": 1}}}, False),
        ({"$id": "http://own/s", "$defs": {"a/b": {"type": "null"}}, "$ref": "http://own/s#/$defs/a~1b"}, None, True),
        ({"pattern": r"^[A-Za-z0-9 ,.'-]{1,200}$"}, "the old mill", True),
    ],
)  # fmt: skip
def test_what_is_taken(good: dict[str, Any], value: Any, fit: bool) -> None:
    assert fits(good, value) == fit


def test_steps_are_counted_with_references_expanded() -> None:
    small = doubled(3, {"type": "integer"})
    assert cost(small, census(small).anchors, 100).steps == 1 + 1 + 2 * (1 + 1 + 2 * (1 + 1 + 2 * 2))
    again = {"allOf": [{}, {}], "unevaluatedProperties": False}
    assert cost(again, {}, 100).steps == 6, "what is left over is found by going through it twice"


def test_a_value_too_long_or_too_deep_for_its_schema_does_not_fit() -> None:
    heavy = {"$defs": doubled(10, {"type": "integer"})["$defs"], "items": {"$ref": "#/$defs/a10"}}
    assert fits(heavy, [1] * 100)
    assert not fits(heavy, [1] * 100_000)
    deep: Any = []
    for _ in range(2_000):
        deep = [deep]
    assert not fits({}, deep)


@pytest.mark.parametrize("depth", [MOST_VALUE_NESTING + 2, *range(900, 1_100, 25), 100_000])
def test_text_that_nests_too_deeply_is_no_json(depth: int) -> None:
    with pytest.raises(ValueError, match="deep"):
        decoded('{"a":' * depth + "1" + "}" * depth)


def test_brackets_in_words_are_no_nesting() -> None:
    assert decoded('{"a": "' + "[" * 1_000 + '"}') == {"a": "[" * 1_000}
    assert decoded("[" * 150 + "]" * 150)


def test_what_is_kept_built_is_bounded_by_what_it_takes() -> None:
    for n in range(40):
        check({"title": str(n), "properties": {f"p{k}": {"pattern": f"^{k}{n}"} for k in range(8)}})
    assert sum(one.bytes for one in schema._cache.values()) <= schema.CACHE_BYTES
    assert 2 <= len(schema._cache) < 40
