"""JSON Schema: is it one, and does an answer fit it? Pure; regular expressions in linear time, nothing is fetched.

Whoever may ask can send one, and it is built and used where others wait: its size, its nesting, what its references
expand to and the memory of its expressions are all bounded before.
The validator is `jsonschema-rs`. It is imported when first needed: most processes never see a schema.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import msgspec

from understudy.messages.json_schema_cost import TooMuch, census, cost, nests_deeper

if TYPE_CHECKING:
    from jsonschema_rs import Validator

SHOWN_CHARS = 200
MOST_SCHEMA_BYTES = 200_000
MOST_VALUE_NESTING = 200
"""So deep may lists and maps of an answer lie within each other; Python's own JSON readers end not far behind."""
MOST_STEPS = 10_000
"""So many schemas may one value be held against."""
MOST_WORK = 50_000_000
"""Steps by values of an answer. One step takes some 50 ns, so this is a few seconds at the very worst."""
MOST_PATTERNS = 64
PATTERN_BYTES = 256 * 1024
"""Memory of one compiled expression; counted repeats of letters of all scripts (`\\pL{60}`) need more."""
CACHE_BYTES = 32 * 2**20


class BadSchema(ValueError):
    """No schema that answers could be checked by; `str()` says why."""


class _Built(NamedTuple):
    validator: Validator
    steps: int
    bytes: int  # what it may take at most, roughly


_cache: dict[bytes, _Built] = {}  # the least used first


def check(schema: dict[str, Any]) -> None:
    """Raises BadSchema: not valid, too large, refers to another document, an expression that needs backtracking."""
    _built(schema)


def fits(schema: dict[str, Any], value: Any) -> bool:
    """Does a decoded JSON value fit? One that is too deep or too long for its schema does not. Raises BadSchema."""
    built = _built(schema)
    try:
        text = msgspec.json.encode(value)
    except RecursionError:
        return False
    values = 1 + text.count(b",") + text.count(b"[") + text.count(b"{")
    if values * built.steps > MOST_WORK or nests_deeper(value, MOST_VALUE_NESTING):
        return False
    return built.validator.is_valid(value)


def decoded(text: str) -> Any:
    """A JSON value. Raises ValueError: none, or one that lies too deep within itself."""
    try:
        value = msgspec.json.decode(text)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        raise ValueError("no JSON, or too deep") from None
    if text.count("[") + text.count("{") > MOST_VALUE_NESTING and nests_deeper(value, MOST_VALUE_NESTING):
        raise ValueError("too deep")
    return value


def _built(schema: dict[str, Any]) -> _Built:
    try:
        encoded = msgspec.json.encode(schema)
    except RecursionError:
        raise BadSchema("A schema that nests too deeply.") from None
    built = _cache.pop(encoded, None) or _build(encoded)
    _cache[encoded] = built
    while sum(one.bytes for one in _cache.values()) > CACHE_BYTES and len(_cache) > 1:
        del _cache[next(iter(_cache))]
    return built


def _build(encoded: bytes) -> _Built:
    from jsonschema_rs import RegexOptions, ValidationError, validator_for

    if len(encoded) > MOST_SCHEMA_BYTES:
        raise BadSchema(f"A schema of {len(encoded)} bytes; at most {MOST_SCHEMA_BYTES} are taken.")
    try:
        schema = msgspec.json.decode(encoded)
        if nests_deeper(schema, MOST_VALUE_NESTING):
            raise TooMuch(f"more than {MOST_VALUE_NESTING} lists and maps within each other")
        found = census(schema)
        if len(found.patterns) > MOST_PATTERNS:
            raise TooMuch(f"{len(found.patterns)} expressions; at most {MOST_PATTERNS} are taken")
        steps = cost(schema, found.anchors, MOST_STEPS).steps
        options = RegexOptions(size_limit=PATTERN_BYTES, dfa_size_limit=PATTERN_BYTES)
        built = validator_for(schema, pattern_options=options, retriever=_refuse)
    except RecursionError:
        raise BadSchema("A schema that nests too deeply.") from None
    except TooMuch as error:
        raise BadSchema(f"No schema that is taken: {error}.") from None
    except (ValidationError, ValueError) as error:
        said = getattr(error, "message", None) or str(error)
        where = "".join(f"[{step!r}]" for step in getattr(error, "instance_path", ()))
        raise BadSchema(f"No valid JSON Schema at {where or 'its top'}: {said[:SHOWN_CHARS]}") from None
    return _Built(built, steps, 10 * len(encoded) + 2 * PATTERN_BYTES * len(found.patterns))


def _refuse(uri: str) -> NoReturn:
    raise ValueError("only references within the schema are taken")
