"""The fake's lists of models, in the vendors' shapes: OpenRouter, OpenAI, Anthropic, Ollama. What is listed answers.

    provider.lists.openrouter = [entry("lab/story:free"), entry("lab/tale", prompt="0.0000025")]
    provider.lists.faults["openrouter"] = Trouble(body="{", page=1)

or, from another process, POST /control/lists with the fields of `Lists`, of which those named are replaced.
Sources: OpenRouter's OpenAPI document (2026-08), OpenAI's, Anthropic's SDK (0.121), Ollama's source (0.33).
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Annotated, Any, Literal

import msgspec
from aiohttp import web
from msgspec import Meta, Struct, field

Kind = Literal["openrouter", "openai", "anthropic", "ollama"]
OPENROUTER_PAGE, OPENROUTER_MOST = 500, 1_000
ANTHROPIC_PAGE, ANTHROPIC_MOST = 20, 1_000


class Trouble(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a list misbehaves, from request number `page` (from 0) of each reading on."""

    status: Annotated[int, Meta(ge=200, le=599)] = 200
    delay_ms: Annotated[float, Meta(ge=0)] = 0
    body: str | None = None  # in place of the page
    page: int = 0


class OllamaModel(Struct, kw_only=True, forbid_unknown_fields=True):
    """A model of an Ollama. `loaded`: bytes in memory and of these in the GPU's, None: not loaded."""

    name: str
    digest: str = "sha256:0"
    size: int = 1_000_000
    context_length: int | None = 8_192
    architecture: str = "llama"
    capabilities: list[str] = field(default_factory=lambda: ["completion"])
    license: str = ""
    remote_host: str | None = None
    loaded: tuple[int, int] | None = None
    show_status: Annotated[int, Meta(ge=200, le=599)] = 200  # of its details


class Lists(Struct, kw_only=True, forbid_unknown_fields=True):
    """What is listed now; may be changed while the fake runs. All but `ollama` are entries as they are sent."""

    openrouter: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    openai: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    anthropic: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    ollama: list[OllamaModel] = field(default_factory=list[OllamaModel])
    faults: dict[Kind, Trouble] = field(default_factory=dict[Kind, Trouble])

    def has(self, model: str) -> bool:
        """Whether any list names it: then it answers, as a healthy model does."""
        rows = (*self.openrouter, *self.openai, *self.anthropic)
        return any(row.get("id") == model for row in rows) or any(one.name == model for one in self.ollama)


def entry(model: str, prompt: str = "0", completion: str | None = None, **more: Any) -> dict[str, Any]:
    """An entry of OpenRouter's list with all that the vendor always sends. `pricing` adds to the two prices."""
    pricing = {"prompt": prompt, "completion": prompt if completion is None else completion, **more.pop("pricing", {})}
    return {
        "id": model,
        "canonical_slug": model.partition(":")[0],
        "name": model,
        "created": 1_700_000_000,
        "context_length": 131_072,
        "architecture": {
            "modality": "text->text",
            "input_modalities": ["text"],
            "output_modalities": ["text"],
            "tokenizer": "Other",
            "instruct_type": None,
        },
        "pricing": pricing,
        "top_provider": {"context_length": 131_072, "max_completion_tokens": 16_384, "is_moderated": False},
        "per_request_limits": None,
        "supported_parameters": ["max_tokens", "temperature", "top_p", "stop", "seed"],
        "default_parameters": None,
        "supported_voices": None,
        "links": {"details": f"/api/v1/models/{model}/endpoints"},
        **more,
    }


def _details(one: OllamaModel) -> dict[str, Any]:
    """What Ollama says of a model's file wherever it names the model."""
    family = {"family": one.architecture, "families": [one.architecture]}
    return {"parent_model": "", "format": "gguf", **family, "parameter_size": "1B", "quantization_level": "Q4_K_M"}


class ListServer:
    """Serves `lists`. `asked` counts requests by path."""

    def __init__(self) -> None:
        self.lists = Lists()
        self.asked: Counter[str] = Counter()

    def routes(self) -> list[web.RouteDef]:
        """All but OpenAI's, whose path Anthropic's shares: see `under_v1`."""
        return [
            web.get("/api/v1/models", self._openrouter),
            web.get("/api/tags", self._tags),
            web.post("/api/show", self._show),
            web.get("/api/ps", self._ps),
            web.post("/control/lists", self._control),
        ]

    async def under_v1(self, http: web.Request, names: list[str]) -> web.Response:
        """`GET /v1/models`, as the vendor whose header it has; OpenAI's begins with `names`."""
        if "anthropic-version" in http.headers:
            return await self._anthropic(http)
        bare = {"object": "model", "created": 0, "owned_by": "understudy-fake"}
        rows = [{"id": name, **bare} for name in names] + [{**bare, **row} for row in self.lists.openai]
        return await self._give(http, "openai", 0, {"object": "list", "data": rows})

    async def _give(self, http: web.Request, kind: Kind, page: int, body: Any) -> web.Response:
        self.asked[http.path] += 1
        trouble = self.lists.faults.get(kind)
        if trouble is None or page < trouble.page:
            return web.Response(body=msgspec.json.encode(body), content_type="application/json")
        await asyncio.sleep(trouble.delay_ms / 1000)
        data = msgspec.json.encode(body) if trouble.body is None else trouble.body.encode()
        return web.Response(body=data, content_type="application/json", status=trouble.status)

    async def _openrouter(self, http: web.Request) -> web.Response:
        offset = int(http.query.get("offset", 0))
        limit = min(int(http.query.get("limit", OPENROUTER_PAGE)), OPENROUTER_MOST)
        rows, until = self.lists.openrouter, offset + limit
        more = f"/api/v1/models?offset={until}&limit={limit}" if until < len(rows) else None
        body = {"data": rows[offset:until], "total_count": len(rows), "links": {"next": more}}
        return await self._give(http, "openrouter", offset // limit, body)

    async def _anthropic(self, http: web.Request) -> web.Response:
        limit = min(int(http.query.get("limit", ANTHROPIC_PAGE)), ANTHROPIC_MOST)
        after, ids = http.query.get("after_id"), [row["id"] for row in self.lists.anthropic]
        begin = ids.index(after) + 1 if after is not None else 0
        bare = {"type": "model", "created_at": "2026-01-01T00:00:00Z", "lifecycle": "active"}
        rows = [{**bare, "display_name": r["id"], **r} for r in self.lists.anthropic[begin : begin + limit]]
        last = rows[-1]["id"] if rows else None
        body = {"data": rows, "has_more": begin + limit < len(ids), "first_id": rows[0]["id"] if rows else None}
        return await self._give(http, "anthropic", begin // limit, {**body, "last_id": last})

    async def _tags(self, http: web.Request) -> web.Response:
        rows = [
            {
                "name": one.name,
                "model": one.name,
                "modified_at": "2026-01-01T00:00:00Z",
                "size": one.size,
                "digest": one.digest,
                "details": _details(one),
                **({"remote_host": one.remote_host, "remote_model": one.name} if one.remote_host else {}),
            }
            for one in self.lists.ollama
        ]
        return await self._give(http, "ollama", 0, {"models": rows})

    async def _show(self, http: web.Request) -> web.Response:
        wanted = (await http.json()).get("model")
        one = next((one for one in self.lists.ollama if one.name == wanted), None)
        if one is None:
            self.asked[http.path] += 1
            return web.json_response({"error": f"model '{wanted}' not found"}, status=404)
        if one.show_status != 200:
            self.asked[http.path] += 1
            return web.json_response({"error": "as its list says"}, status=one.show_status)
        info: dict[str, Any] = {"general.architecture": one.architecture}
        if one.context_length is not None:
            info[f"{one.architecture}.context_length"] = one.context_length
        body = {"license": one.license, "details": _details(one), "model_info": info, "capabilities": one.capabilities}
        return await self._give(http, "ollama", 1, body)

    async def _ps(self, http: web.Request) -> web.Response:
        rows = [
            {"name": one.name, "model": one.name, "size": one.loaded[0], "size_vram": one.loaded[1],
             "digest": one.digest, "details": _details(one), "expires_at": "2026-01-01T00:05:00Z",
             "context_length": one.context_length or 0}
            for one in self.lists.ollama
            if one.loaded is not None
        ]  # fmt: skip
        return await self._give(http, "ollama", 2, {"models": rows})

    async def _control(self, http: web.Request) -> web.Response:
        """Replace the lists that are named."""
        try:
            given = msgspec.json.decode(await http.read(), type=dict[str, Any])
            fresh = msgspec.convert(given, Lists)
        except msgspec.MsgspecError as error:
            return web.json_response({"error": str(error)}, status=400)
        for name in given:
            setattr(self.lists, name, getattr(fresh, name))
        return web.json_response({"ok": True})
