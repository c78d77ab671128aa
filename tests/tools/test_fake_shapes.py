"""Every answer of the fake provider against what the vendors publish about theirs: `shapes/<dialect>.json`.

The schemas there are ours, and hold facts alone: required fields, types, nullability, words. OpenAI, OpenRouter and
Ollama publish OpenAPI documents. Anthropic publishes none of its Messages: its SDK's types stand in. What a schema
cannot say is not asked here: the order of events, and whether a stream came to its end.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import pytest
from jsonschema_rs import Draft202012Validator

from understudy.tools.fake.lists import OllamaModel, entry
from understudy.tools.fake.pulls import Pullable
from understudy.tools.fake.script import Fault, built_in_faults
from understudy.tools.fake.server import FakeProvider

SHAPES = Path(__file__).with_name("shapes")
PARAMETERS = {"type": "object", "properties": {"place": {"type": "string"}}}
FUNCTION = {"name": "look_around", "parameters": PARAMETERS}
TURN = {"role": "user", "content": "Tell me a story."}
SCHEMA = {"type": "object"}
MORE = {"thinks": Fault(reasoning="Let me think."), "stopped": Fault(chunks=3, finish_reason="stop")}
CHUNK = "an event of a stream"
NEVER_WHOLE = {"hang", "silent", "stall", "reset"}  # no body to judge


class Dialect(NamedTuple):
    """Where a dialect is asked, what is asked beside the model and the turn, and how tools and JSON are asked for."""

    path: str
    body: dict[str, Any]
    tools: dict[str, Any]
    json: dict[str, Any]
    headers: dict[str, str] = {}


OPENAI_TOOLS = {"tools": [{"type": "function", "function": FUNCTION}]}
OPENAI_JSON = {"response_format": {"type": "json_schema", "json_schema": {"name": "it", "schema": SCHEMA}}}
DIALECTS = {
    "openai": Dialect("/v1/chat/completions", {"messages": [TURN]}, OPENAI_TOOLS, OPENAI_JSON),
    "openrouter": Dialect("/api/v1/chat/completions", {"messages": [TURN]}, OPENAI_TOOLS, OPENAI_JSON),
    "responses": Dialect(
        "/v1/responses",
        {"input": [TURN]},
        {"tools": [{"type": "function", **FUNCTION, "strict": False}]},
        {"text": {"format": {"type": "json_schema", "name": "it", "schema": SCHEMA}}},
    ),
    "anthropic": Dialect(
        "/v1/messages",
        {"messages": [TURN], "max_tokens": 1000},
        {"tools": [{"name": "look_around", "input_schema": PARAMETERS}]},
        {"output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}},
        {"anthropic-version": "2023-06-01"},
    ),
    "ollama": Dialect("/api/chat", {"messages": [TURN]}, OPENAI_TOOLS, {"format": SCHEMA}),
}
BROKEN_BODY = {
    "502": "a proxy's page, no JSON",
    "cut": "half of a body",
    "cut-word": "half of a body",
    "json-cut": "half of a body",
    "malformed": "one event is no JSON",
    "tool-cut": "half of a body",
}
AN_ERROR_UNDER_200 = {"error-first": "an error in the answer's place"}
A_TORSO = {"error-mid": "an error within the answer, which the vendor's document does not know"}
OF_ANOTHER_VENDOR = {
    "402": "OpenRouter's error, as servers that speak this dialect give it",
    "429-free-day": "OpenRouter's error",
    "429-free-minute": "OpenRouter's error",
    "529": "Anthropic's error",
    "no-endpoints": "OpenRouter's error",
    "privacy-restricted": "OpenRouter's error",
}
PAUSED = {"paused": "Anthropic's reason to end"}
NO_JSON = {"tool-bad-json": "arguments that are no JSON, where the dialect has them as a value"}
MALFORMED: dict[str, dict[str, str]] = {
    "openai": {**BROKEN_BODY, **AN_ERROR_UNDER_200, **A_TORSO, **OF_ANOTHER_VENDOR, **PAUSED},
    "openrouter": {**BROKEN_BODY, **AN_ERROR_UNDER_200, **PAUSED},
    "responses": {**BROKEN_BODY, **OF_ANOTHER_VENDOR},
    "anthropic": {
        **BROKEN_BODY,
        **AN_ERROR_UNDER_200,
        **A_TORSO,
        **NO_JSON,
        "no-usage": "usage is always there",
        "native-error": "usage is always there",
    },
    "ollama": {**BROKEN_BODY, **AN_ERROR_UNDER_200, **A_TORSO, **NO_JSON},
}
"""Faults that are not of the vendor's shape on purpose, and why. The test fails as well when one of them is."""


class Shapes:
    """The schemas of one file."""

    def __init__(self, name: str) -> None:
        self.file: dict[str, Any] = json.loads((SHAPES / f"{name}.json").read_bytes())
        self.validators = {name: self.validator(schema) for name, schema in self.file["answers"].items()}

    def validator(self, schema: dict[str, Any]) -> Draft202012Validator:
        """Return a validator of one schema, which may refer to the file's `$defs`."""
        return Draft202012Validator({"$defs": self.file["$defs"], **schema}, validate_formats=True)

    def problems(self, name: str, value: object) -> list[str]:
        """Say what is wrong with an answer, each with its path; nothing for a good one."""
        if name not in self.validators:
            return [f"{name}: no such answer or event"]
        found = self.validators[name].iter_errors(value)
        return [f"{name}{''.join(f'[{step!r}]' for step in one.instance_path)}: {one.message[:200]}" for one in found]

    def event(self, event: object) -> str:
        """Name the schema of a stream's event: dialects that type their events have one for each type."""
        if "chunk" in self.validators:
            return "chunk"
        kind = str(event.get("type")) if isinstance(event, dict) else "?"
        return "error.event" if kind == "error" else kind


ALL = {name: Shapes(name) for name in DIALECTS}


class Wire:
    """A running fake provider and an HTTP client."""

    def __init__(self, fake: FakeProvider, http: aiohttp.ClientSession) -> None:
        self.fake, self.http = fake, http

    async def given(self, dialect: str, model: str, stream: bool, **more: Any) -> list[tuple[str, str]]:
        """Ask for a chat; return each body or event as it came, and the schema for it: CHUNK for an event."""
        to = DIALECTS[dialect]
        body = {"model": model, "stream": stream, **to.body, **more}
        async with self.http.post(self.fake.root + to.path, json=body, headers=to.headers) as answer:
            try:
                data = (await answer.read()).decode()
            except aiohttp.ClientPayloadError:
                return [("completion", "the connection ended within the body")]
            if answer.status != 200:
                return [("error", data)]
            if not stream:
                return [("completion", data)]
            assert answer.content_type in ("text/event-stream", "application/x-ndjson")
        lines = [line.removeprefix("data: ") for line in data.split("\n") if line.startswith(("data: ", "{"))]
        return [(CHUNK, line) for line in lines if line != "[DONE]"]

    async def asked(self, dialect: str, model: str, stream: bool, **more: Any) -> list[str]:
        """Ask for a chat; return what is wrong with the answer."""
        came = await self.given(dialect, model, stream, **more)
        return [problem for name, text in came for problem in judged(ALL[dialect], name, text)]

    async def other(self, method: str, path: str, **options: Any) -> list[str]:
        """Ask for something else; return the lines of the answer, which are one but for a pull."""
        async with self.http.request(method, self.fake.root + path, **options) as answer:
            return (await answer.text()).splitlines()

    async def others(self, dialect: str) -> list[tuple[str, str]]:
        """Ask for all but chats; return each body or line, and the schema for it."""
        self._fill()
        asks: list[tuple[str, str, str, dict[str, Any]]] = [
            (name, method, path, options) for to, name, method, path, options in OTHERS if to == dialect
        ]
        if dialect == "openrouter":
            ((_, said),) = await self.given(dialect, "ok", False)
            asks.append(("generation", "GET", f"/api/v1/generation?id={json.loads(said)['id']}", {}))
        return [
            (name, line) for name, method, path, options in asks for line in await self.other(method, path, **options)
        ]

    def _fill(self) -> None:
        lists, pulls = self.fake.lists, self.fake.pulls
        lists.openrouter = [entry("lab/story:free"), entry("lab/tale", prompt="0.0000025", pricing={"request": "0.01"})]
        lists.openai, lists.anthropic = [{"id": "gpt"}], [{"id": "claude"}]
        far = OllamaModel(name="far:cloud", remote_host="https://elsewhere.example")
        lists.ollama = [OllamaModel(name="tale:1b", loaded=(2_000, 1_000)), far]
        pulls.registry["fresh:1b"] = Pullable(layers=[600_000, 400])
        pulls.registry["full"] = Pullable(layers=[10], fault="error")
        pulls.registry["down"] = Pullable(layers=[10], fault="status")


def vectors(model: str) -> dict[str, Any]:
    return {"json": {"model": model, "input": ["a", "b"]}}


OTHERS: list[tuple[str, str, str, str, dict[str, Any]]] = [
    ("openai", "models", "GET", "/v1/models", {}),
    ("openai", "embeddings", "POST", "/v1/embeddings", vectors("ok")),
    ("openai", "error", "POST", "/v1/embeddings", vectors("429")),
    ("openrouter", "models", "GET", "/api/v1/models", {}),
    ("openrouter", "models", "GET", "/api/v1/models?limit=1", {}),
    ("openrouter", "embeddings", "POST", "/api/v1/embeddings", vectors("ok")),
    ("openrouter", "error", "POST", "/api/v1/embeddings", vectors("429")),
    ("openrouter", "error", "GET", "/api/v1/generation?id=nobody", {}),
    ("anthropic", "models", "GET", "/v1/models", {"headers": DIALECTS["anthropic"].headers}),
    ("ollama", "models", "GET", "/api/tags", {}),
    ("ollama", "ps", "GET", "/api/ps", {}),
    ("ollama", "show", "POST", "/api/show", {"json": {"model": "tale:1b"}}),
    ("ollama", "error", "POST", "/api/show", {"json": {"model": "nobody"}}),
    ("ollama", "embeddings", "POST", "/api/embed", vectors("ok")),
    ("ollama", "error", "POST", "/api/embed", vectors("429")),
    ("ollama", "pull", "POST", "/api/pull", {"json": {"model": "fresh:1b"}}),
    ("ollama", "error", "POST", "/api/pull", {"json": {"model": "full"}}),
    ("ollama", "error", "POST", "/api/pull", {"json": {"model": "down"}}),
    ("ollama", "error", "POST", "/api/pull", {"json": {"model": "nobody"}}),
]


def judged(shapes: Shapes, name: str, text: str) -> list[str]:
    """Say what is wrong with one body or event."""
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        return [f"no JSON: {text[:80]}"]
    return shapes.problems(shapes.event(value) if name == CHUNK else name, value)


@pytest.fixture
async def wire() -> AsyncIterator[Wire]:
    async with FakeProvider(MORE) as fake, aiohttp.ClientSession() as http:
        yield Wire(fake, http)


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_chat_and_its_errors_have_the_vendors_shape(wire: Wire, dialect: str) -> None:
    to, wrong = DIALECTS[dialect], dict[str, list[str]]()
    for name, fault in {**built_in_faults(), **MORE}.items():
        if name in NEVER_WHOLE:
            continue
        more = {**(to.tools if fault.calls else {}), **(to.json if fault.say_json is not None else {})}
        both = await asyncio.gather(*(wire.asked(dialect, name, stream, **more) for stream in (True, False)))
        if problems := [*both[0], *both[1]]:
            wrong[name] = problems
    allowed = MALFORMED[dialect]
    assert {name: found[:3] for name, found in wrong.items() if name not in allowed} == {}
    assert sorted(wrong) == sorted(allowed), "listed as malformed, but of the vendor's shape"


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("dialect", DIALECTS)
async def test_what_the_fake_refuses_by_itself_has_the_vendors_shape(wire: Wire, dialect: str, stream: bool) -> None:
    to = DIALECTS[dialect]
    assert await wire.asked(dialect, "nobody", stream) == []
    assert await wire.asked(dialect, "ok", stream, **{next(iter(to.body)): 7}) == []
    wire.fake.accepted = {"mine": "k"}
    assert await wire.asked(dialect, "ok", stream) == []


@pytest.mark.parametrize("dialect", [name for name in DIALECTS if name != "responses"])
async def test_lists_vectors_records_and_pulls_have_the_vendors_shape(wire: Wire, dialect: str) -> None:
    came = await wire.others(dialect)
    assert {name for name, *_ in came} >= {name for to, name, *_ in OTHERS if to == dialect}
    assert [problem for name, text in came for problem in judged(ALL[dialect], name, text)] == []


@pytest.mark.parametrize("path", ["/v1/embeddings", "/api/v1/embeddings", "/api/embed"])
async def test_faults_of_vectors(wire: Wire, path: str) -> None:
    """Too few and empty ones are of the vendor's shape: only who asked can tell."""
    dialect = next(to for to, name, _, where, _ in OTHERS if (name, where) == ("embeddings", path))
    wrong = set[str]()
    for name in ("embed-few", "embed-empty", "embed-null"):
        (text,) = await wire.other("POST", path, **vectors(name))
        if judged(ALL[dialect], "embeddings", text):
            wrong.add(name)
    assert wrong == {"embed-null"}


ONCE_WRONG: dict[str, set[str]] = {
    "openai": {"error[error][code] is of a wrong type", "chunk[choices][0][finish_reason] is left out"},
    "openrouter": {
        "chunk[usage] is of a wrong type",
        "error[error][code] is of a wrong type",
        "error[error][metadata][error_type] is an unknown word",
        "models[data][0][links] is left out",
        "generation[data][provider_name] is left out",
    },
    "responses": {"completion[instructions] is left out", "response.output_text.delta[logprobs] is left out"},
    "anthropic": {"content_block_start[content_block][caller] is left out", "models[data][0][lifecycle] is left out"},
    "ollama": {
        "chunk[message][role] is an unknown word",
        "models[models][0][details][families] is left out",
        "ps[models][0][digest] is left out",
    },
}
"""Places that a schema has to watch, whatever becomes of it: most of these the fake once had wrong."""


def planted(shapes: Shapes, schema: dict[str, Any], value: Any) -> Iterator[tuple[str, Any]]:
    """Yield copies of a good answer with one fault each, and its place: left out, of a wrong type, an unknown word."""
    if "$ref" in schema:
        yield from planted(shapes, shapes.file["$defs"][schema["$ref"].rpartition("/")[2]], value)
        return
    for options in (schema.get("oneOf"), schema.get("anyOf")):
        if options is not None:
            fitting = next(one for one in options if shapes.validator(one).is_valid(value))
            yield from planted(shapes, fitting, value)
            return
    if "enum" in schema:
        yield " is an unknown word", "unheard-of"
    elif "type" in schema:
        yield " is of a wrong type", 7.5 if "object" in schema["type"] else {"unheard": "of"}
    if isinstance(value, list):
        for at, one in enumerate(value[:1]):
            for place, wrong in planted(shapes, schema.get("items", {}), one):
                yield f"[{at}]{place}", [*value[:at], wrong, *value[at + 1 :]]
    elif isinstance(value, dict):
        for name in schema.get("required", ()):
            yield f"[{name}] is left out", {key: one for key, one in value.items() if key != name}
        for name, inner in schema.get("properties", {}).items():
            if name in value:
                for place, wrong in planted(shapes, inner, value[name]):
                    yield f"[{name}]{place}", {**value, name: wrong}


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_each_schema_is_used_and_finds_what_is_planted(wire: Wire, dialect: str) -> None:
    shapes, to = ALL[dialect], DIALECTS[dialect]
    came = await wire.others(dialect)
    for model in ("ok", "length", "refusal", "tool-two", "comments", "429", "error-mid", "error-first", "no-endpoints"):
        for stream in (True, False):
            came += await wire.given(dialect, model, stream, **(to.tools if model == "tool-two" else {}))
    tried: dict[str, dict[str, Any]] = {name: {} for name in shapes.validators}
    for kind, text in came:
        answer = json.loads(text)
        name = shapes.event(answer) if kind == CHUNK else kind
        if shapes.problems(name, answer) == []:
            for place, wrong in planted(shapes, shapes.file["answers"][name], answer):
                tried[name].setdefault(place, wrong)
    for name, places in tried.items():
        assert any("left out" in place for place in places), f"{name}: no answer was held against it"
        assert any("left out" not in place for place in places), f"{name}: neither types nor words"
        assert [(place, wrong) for place, wrong in places.items() if not shapes.problems(name, wrong)] == []
    assert any("unknown word" in place for places in tried.values() for place in places)
    assert {f"{name}{place}" for name, places in tried.items() for place in places} >= ONCE_WRONG[dialect]


@pytest.mark.parametrize("dialect", DIALECTS)
def test_an_event_that_nobody_knows_is_found(dialect: str) -> None:
    assert judged(ALL[dialect], CHUNK, '{"type": "response.unheard", "sequence_number": 0}')
    assert judged(ALL[dialect], CHUNK, "[]")
