"""The table of `bench providers` as values: what every dialect must do with every fault (`provider_cells.json`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import msgspec
from msgspec.structs import replace

from understudy.messages.tools import Tool
from understudy.messages.topology import Topology
from understudy.tools.bench.stage import topology_on

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

LIMIT_MS = 1_000
"""First token and stall, so that hang and stall are over soon."""
CHUNKS = 48
"""Length of the fake's whole answers, in its tokens."""
KEY = "sk-providers-bench-4f9c1d7e2b"
CANARY = "CANARY7f3a91"
"""In every prompt: neither it nor the key may be in any event, log or error."""
SPOKEN = (b"the old mill", b"bicycle")
"""Words of the models' own answers, which are content too."""
NEXT = {
    "openai": "anthropic",
    "anthropic": "ollama",
    "ollama": "openrouter",
    "openrouter": "openai_responses",
    "openai_responses": "openai",
}
"""Who stands behind whom: every answer that breaks goes on in another dialect."""
NEXT_VECTORS = {**NEXT, "openai": "ollama"}
PATHS = {"openai": "/v1", "openai_responses": "/v1", "anthropic": "/v1", "openrouter": "/api/v1", "ollama": ""}


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """A cell to be asked once, in one mode: `stream` or `single`."""

    cell: Cell
    dialect: str
    mode: Literal["stream", "single"]

    @property
    def model(self) -> str:
        """A model of its own, so that no breaker is open and none is closed by another."""
        return f"{self.cell.row}@{self.dialect}-{self.cell.ask}-{self.mode}"

    @property
    def whole(self) -> bool:
        """Whether the first model must answer in words, to their end."""
        return (self.cell.ask, self.cell.then, self.cell.end) == ("chat", "answered", "stop") and not self.refusing

    @property
    def refusing(self) -> bool:
        """Whether the model says no in words of its own, which are no answer of the script."""
        return self.cell.row == "refusal"

    @property
    def prompt(self) -> str:
        """Another story for each."""
        return f"Tell me about {self.model} {CANARY}."


def cases(quick: bool = False) -> tuple[Case, ...]:
    """Every cell that can happen, streamed and not; vectors are never streamed. `quick`: every ninth."""
    found = [
        Case(cell=cell, dialect=dialect, mode=mode)
        for row in CELLS
        for dialect in DIALECTS
        if (cell := row.of(dialect)) is not None
        for mode in (("single",) if row.ask == "embed" else ("stream", "single"))
    ]
    return tuple(found[::9] if quick else found)


def successor(dialect: str, vectors: bool) -> str:
    """The model behind all faulty ones of a dialect; the Responses dialect goes on only when told to in words."""
    if vectors:
        return f"ok@{NEXT_VECTORS[dialect]}-vectors"
    name = NEXT[dialect]
    return f"{'able-instructed' if name == 'openai_responses' else 'able'}@{name}"


def topology(root: str, asked: tuple[Case, ...], key_file: str) -> Topology:
    """A provider per dialect with a key, one per dialect where nobody listens, and a model per case."""
    able = {"capabilities": ["chat", "tools", "json"]}
    vectors = {"capabilities": ["embeddings"]}
    models: dict[str, dict[str, Any]] = {}
    for dialect in DIALECTS:
        plain = "instructed" if dialect == "openai_responses" else "native"
        name = "able-instructed" if dialect == "openai_responses" else "able"
        models[f"{name}@{dialect}"] = {**able, "provider": dialect, "continues": plain}
        if dialect != "anthropic":
            models[f"ok@{dialect}-vectors"] = {**vectors, "provider": dialect}
    for case in asked:
        embeds = case.cell.ask == "embed"
        provider = f"dead_{case.dialect}" if case.cell.row == "refused" else case.dialect
        facts = vectors if embeds else able
        models[case.model] = {**facts, "provider": provider, "fallbacks": [successor(case.dialect, embeds)]}
    providers: dict[str, dict[str, Any]] = {}
    for dialect in DIALECTS:
        one = {"kind": dialect, "max_connections": 256, "key": {"file": key_file}}
        providers[dialect] = {**one, "url": root + PATHS[dialect]}
        providers[f"dead_{dialect}"] = {**one, "url": "http://127.0.0.1:9" + PATHS[dialect]}
    latency = {"interactive": {"deadline_ms": 20_000, "first_token_ms": LIMIT_MS, "stall_ms": LIMIT_MS}}
    return topology_on(
        root,
        models,
        providers=providers,
        latency=latency,
        policy={"failover_minimum": 10_000},
    )
