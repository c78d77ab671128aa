"""JSON Schema: is it one, and does an answer fit it? Pure; regular expressions in linear time, nothing is fetched.

The validator is `jsonschema-rs`. It is imported when first needed: most processes never see a schema.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, NoReturn

import msgspec

if TYPE_CHECKING:
    from jsonschema_rs import Validator

SHOWN_CHARS = 200
MOST_SCHEMA_BYTES = 200_000


class BadSchema(ValueError):
    """No schema that answers could be checked by; `str()` says why."""


def check(schema: dict[str, Any]) -> None:
    """Raises BadSchema: not valid, too large, refers to another document, an expression that needs backtracking."""
    _validator(msgspec.json.encode(schema))


def fits(schema: dict[str, Any], value: Any) -> bool:
    """Does a decoded JSON value fit? Raises BadSchema."""
    return _validator(msgspec.json.encode(schema)).is_valid(value)


@lru_cache(maxsize=64)
def _validator(encoded: bytes) -> Validator:
    from jsonschema_rs import RegexOptions, ValidationError, validator_for

    if len(encoded) > MOST_SCHEMA_BYTES:
        raise BadSchema(f"A schema of {len(encoded)} bytes; at most {MOST_SCHEMA_BYTES} are taken.")
    try:
        schema = msgspec.json.decode(encoded)
        return validator_for(schema, pattern_options=RegexOptions(), retriever=_refuse)
    except (ValidationError, ValueError) as error:
        said = getattr(error, "message", None) or str(error)
        where = "".join(f"[{step!r}]" for step in getattr(error, "instance_path", ()))
        raise BadSchema(f"No valid JSON Schema at {where or 'its top'}: {said[:SHOWN_CHARS]}") from None


def _refuse(uri: str) -> NoReturn:
    raise ValueError("only references within the schema are taken")
