"""The table of `bench providers` as values: what every dialect must do with every fault (`provider_cells.json`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import msgspec
from msgspec.structs import replace

from understudy.messages.tools import Tool

FILE = Path(__file__).with_name("provider_cells.json")
Ask = Literal["chat", "tools", "json", "embed"]


class Cell(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What must come of one row in one dialect; see the file's `about`."""

    ask: Ask
    row: str
    first: str
    then: Literal["answered", "next", "continued", "restarted", "refused"]
    end: str
    usage: Literal["counted", "estimated"]
    limit: Literal["first_token", "stall"] | None = None
    but: dict[str, dict[str, str] | None] = {}

    def of(self, dialect: str) -> Cell | None:
        """The cell of a dialect; None where it cannot happen."""
        change = self.but.get(dialect, {})
        return None if change is None else replace(self, **change)


class _Table(msgspec.Struct, forbid_unknown_fields=True):
    about: str
    dialects: tuple[str, ...]
    rows: tuple[Cell, ...]


_table = msgspec.json.decode(FILE.read_bytes(), type=_Table)
CELLS, DIALECTS = _table.rows, _table.dialects

SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["place", "exits", "dark"],
    "properties": {
        "place": {"type": "string"},
        "exits": {"type": "array", "items": {"type": "string"}},
        "dark": {"type": "boolean"},
    },
    "additionalProperties": False,
}
"""What the rows of the kind json ask for."""
TOOLS = (
    Tool(
        name="look_around",
        description="Look at a place.",
        parameters={"type": "object", "properties": {"place": {"type": "string"}, "closely": {"type": "boolean"}}},
    ),
    Tool(
        name="take_thing",
        description="Take a thing along.",
        parameters={"type": "object", "properties": {"thing": {"type": "string"}}},
    ),
)
"""What the rows of the kind tools offer."""
