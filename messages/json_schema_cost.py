"""How much work a JSON Schema makes, told before it is built: what its references expand to. Pure.

A validator follows a reference each time it meets one, so a few lines may describe billions of steps. Recursion is no
such thing: `jsonschema-rs` looks at each value once for each schema that refers to itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, cast
from urllib.parse import unquote

MOST_NESTING = 100
"""So deep may a schema be, references followed. The validator itself recurses."""

ONE = ("not", "if", "then", "else", "items", "additionalItems", "contains", "unevaluatedItems", "additionalProperties",
       "unevaluatedProperties", "propertyNames")  # fmt: skip
LISTS = ("allOf", "anyOf", "oneOf", "prefixItems", "items")
MAPS = ("properties", "patternProperties", "dependentSchemas", "dependencies")
REFERENCES = ("$ref", "$dynamicRef", "$recursiveRef")
TWICE = ("unevaluatedItems", "unevaluatedProperties")
"""To tell what is left over, the schemas beside them are gone through again."""


class TooMuch(ValueError):
    """The schema describes more than is taken, or refers to what is not there; `str()` says what."""


class Cost(NamedTuple):
    """`steps`: schemas that one value may be held against, references expanded; `height`: the deepest of them."""

    steps: int
    height: int


class Census(NamedTuple):
    """What lies anywhere in the document, whether it is used or not."""

    patterns: frozenset[str]
    anchors: dict[str, Any]


def cost(schema: dict[str, Any], anchors: dict[str, Any], most_steps: int) -> Cost:
    """The whole schema's. Raises TooMuch."""
    return _Walk(schema, anchors, most_steps).of(schema, 1)


class _Walk:
    def __init__(self, root: dict[str, Any], anchors: dict[str, Any], most_steps: int) -> None:
        self._root, self._anchors, self._most_steps = root, anchors, most_steps
        self._known: dict[int, Cost] = {}  # by identity: every schema is a part of the one document

    def of(self, schema: Any, depth: int) -> Cost:
        if not isinstance(schema, dict):
            return Cost(1, 1)
        known = self._known.get(id(cast("object", schema)))
        if known is not None:
            return known
        found = cast("dict[str, Any]", schema)
        if depth > MOST_NESTING:
            raise TooMuch(f"more than {MOST_NESTING} schemas within each other, references followed")
        if found is not self._root and isinstance(found.get("$id"), str):
            raise TooMuch("an `$id` below its top; name parts by `$defs` and `$anchor`")
        self._known[id(found)] = Cost(1, 1)  # whoever comes back here has found a recursion
        steps, height = 1, 0
        for part in self._parts(found):
            below = self.of(part, depth + 1)
            steps, height = steps + below.steps, max(height, below.height)
        steps = steps * 2 if any(word in found for word in TWICE) else steps
        if steps > self._most_steps:
            raise TooMuch(f"references that expand to more than {self._most_steps} schemas")
        if height + 1 > MOST_NESTING:
            raise TooMuch(f"more than {MOST_NESTING} schemas within each other, references followed")
        self._known[id(found)] = Cost(steps, height + 1)
        return self._known[id(found)]

    def _parts(self, schema: dict[str, Any]) -> Iterator[Any]:
        for word in ONE:
            if isinstance(schema.get(word), dict):
                yield schema[word]
        for word in LISTS:
            if isinstance(schema.get(word), list):
                yield from schema[word]
        for word in MAPS:
            if isinstance(schema.get(word), dict):
                yield from schema[word].values()
        for word in REFERENCES:
            if isinstance(schema.get(word), str):
                yield self._target(schema[word])

    def _target(self, reference: str) -> Any:
        document, _, fragment = reference.partition("#")
        if document not in ("", str(self._root.get("$id", "")).removesuffix("#")):
            raise TooMuch("a reference to another document; only references within the schema are taken")
        if fragment and not fragment.startswith("/"):
            if fragment not in self._anchors:
                raise TooMuch("a reference to an anchor that is not there")
            return self._anchors[fragment]
        at: Any = self._root
        for step in unquote(fragment).split("/")[1:]:
            at = _child(at, step.replace("~1", "/").replace("~0", "~"))
        return at


def _child(at: Any, step: str) -> Any:
    if isinstance(at, dict) and step in at:
        return cast("dict[str, Any]", at)[step]
    if isinstance(at, list) and step.isdecimal() and int(step) < len(cast("list[Any]", at)):
        return cast("list[Any]", at)[int(step)]
    raise TooMuch("a reference to a place that is not there")


def census(document: dict[str, Any]) -> Census:
    """Every expression and every anchor of a document."""
    patterns, anchors, open_ = set[str](), dict[str, Any](), list[Any]([document])
    while open_:
        found = open_.pop()
        if isinstance(found, list):
            open_ += cast("list[Any]", found)
        elif isinstance(found, dict):
            schema = cast("dict[str, Any]", found)
            open_ += schema.values()
            if isinstance(schema.get("pattern"), str):
                patterns.add(schema["pattern"])
            if isinstance(schema.get("patternProperties"), dict):
                patterns.update(schema["patternProperties"])
            anchors.update({schema[w]: schema for w in ("$anchor", "$dynamicAnchor") if isinstance(schema.get(w), str)})
    return Census(frozenset(patterns), anchors)


def nests_deeper(value: Any, most: int) -> bool:
    """Do lists and maps of a decoded JSON value lie deeper within each other than that?"""
    level: list[Any] = [value]
    for _ in range(most + 1):
        level = [child for found in level for child in _children(found)]
        if not level:
            return False
    return True


def _children(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [child for child in cast("dict[str, Any]", value).values() if isinstance(child, dict | list)]
    if isinstance(value, list):
        return [child for child in cast("list[Any]", value) if isinstance(child, dict | list)]
    return []
