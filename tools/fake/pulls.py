"""The fake's `POST /api/pull`, as Ollama speaks it: JSON lines, layer after layer, what is fetched is kept.

    provider.pulls.registry["tale:1b"] = Pullable(layers=[4_000_000, 500], gap_ms=20)
    provider.pulls.registry["broken"] = Pullable(layers=[1_000], fault="error", after=2)

What was pulled stands in `provider.lists.ollama`. Sources: Ollama's source (0.33), a real one (0.17.4).
"""

from __future__ import annotations

import asyncio
import hashlib
from typing import Annotated, Any, Literal

import msgspec
from aiohttp import web
from msgspec import Meta, Struct, field

from understudy.tools.fake.lists import Lists, OllamaModel

Trouble = Literal["error", "stall", "cut", "malformed", "status"]
"""An error's line under HTTP 200; silence; an end without `success`; no JSON; HTTP 500 before any line."""
MISSING = "pull model manifest: file does not exist"
FULL = "write /models/blobs: no space left on device"
Count = Annotated[int, Meta(ge=0)]


class Pullable(Struct, kw_only=True, forbid_unknown_fields=True):
    """A model of the registry: bytes of its layers, and how it is fetched: `step` bytes per line, `gap_ms` between two.

    `fault` strikes after so many lines; an error has these `words`.
    """

    layers: list[Count] = field(default_factory=lambda: [1_000_000, 400])
    step: Annotated[int, Meta(ge=1)] = 250_000
    gap_ms: Annotated[float, Meta(ge=0)] = 0
    fault: Trouble | None = None
    after: Count = 0
    words: str = FULL


class Pull(Struct):
    """One request: which model, how many lines it got, and how it ended."""

    model: str
    insecure: bool
    lines: int = 0
    ended: Literal["open", "done", "fault", "client_closed"] = "open"


class _Asked(Struct):
    model: str
    stream: bool = True
    insecure: bool = False


class PullServer:
    """Serves `registry` into `lists`. `log`: what was asked. `kept`: bytes by digest, whole or not."""

    def __init__(self, lists: Lists) -> None:
        self.lists = lists
        self.registry: dict[str, Pullable] = {}
        self.log: list[Pull] = []
        self.kept: dict[str, int] = {}

    async def pull(self, http: web.Request) -> web.StreamResponse:
        """Answer one request."""
        try:
            asked = msgspec.json.decode(await http.read(), type=_Asked)
        except msgspec.DecodeError as error:
            return web.json_response({"error": str(error)}, status=400)
        seen = Pull(asked.model, asked.insecure)
        self.log.append(seen)
        wanted = self.registry.get(asked.model)
        if wanted is not None and wanted.fault == "status":
            seen.ended = "fault"
            return web.json_response({"error": wanted.words}, status=500)
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        await response.prepare(http)
        try:
            seen.ended = await self._stream(response, seen, wanted)
        except (asyncio.CancelledError, ConnectionError):
            seen.ended = "client_closed"
            raise
        return response

    async def _stream(
        self, response: web.StreamResponse, seen: Pull, wanted: Pullable | None
    ) -> Literal["done", "fault"]:
        steps: list[dict[str, Any]] = [{"error": MISSING}] if wanted is None else self._lines(seen.model, wanted)
        for line in steps:
            if wanted is not None and wanted.fault is not None and seen.lines >= wanted.after:
                await _strike(response, wanted)
                return "fault"
            if wanted is not None and line.get("status") == "success":
                self._have(seen.model, wanted)
            if "digest" in line:
                self.kept[line["digest"]] = max(self.kept.get(line["digest"], 0), line.get("completed", 0))
            await response.write(msgspec.json.encode(line) + b"\n")
            seen.lines += 1
            if wanted is not None and wanted.gap_ms:
                await asyncio.sleep(wanted.gap_ms / 1000)
        await response.write_eof()
        return "fault" if wanted is None else "done"

    def _lines(self, model: str, wanted: Pullable) -> list[dict[str, Any]]:
        lines: list[dict[str, Any]] = [{"status": "pulling manifest"}]
        for n, size in enumerate(wanted.layers):
            digest = digest_of(model, n)
            line = {"status": f"pulling {digest[7:19]}", "digest": digest, "total": size}
            had = self.kept.get(digest, 0)
            reached = [*range(had + wanted.step, size, wanted.step), size] if had < size else [size]
            lines += [line, *({**line, "completed": count} for count in reached)]
        words = ("verifying sha256 digest", "writing manifest", "success")
        return [*lines, *({"status": word} for word in words)]

    def _have(self, model: str, wanted: Pullable) -> None:
        name = model if ":" in model.rpartition("/")[2] else f"{model}:latest"
        if all(one.name != name for one in self.lists.ollama):
            self.lists.ollama.append(OllamaModel(name=name, digest=digest_of(model, 0), size=sum(wanted.layers)))


async def _strike(response: web.StreamResponse, wanted: Pullable) -> None:
    match wanted.fault:
        case "error":
            await response.write(msgspec.json.encode({"error": wanted.words}) + b"\n")
        case "malformed":
            await response.write(b"<html>\n")
        case "stall":
            await asyncio.Event().wait()
        case _:
            pass
    await response.write_eof()


def digest_of(model: str, layer: int) -> str:
    """The name of a layer."""
    return "sha256:" + hashlib.sha256(f"{model} {layer}".encode()).hexdigest()
