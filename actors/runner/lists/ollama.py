"""Ollama's lists: `/api/tags` says what is there, `/api/show` what it can do, `/api/ps` what is in memory. Pure.

Source of the shapes: the server's source and OpenAPI document (0.33). Context length and capabilities come from `show`,
never from the name; `show` is asked again only for other weights (another digest). What runs in the vendor's cloud
(`remote_model` or `remote_host`, or a tag that says so) has the same API and is not local.
"""

from __future__ import annotations

from typing import Any

import msgspec

from understudy.actors.runner.lists.lister import Answer, Fetch, Lister, Memory, read, tokens, unique
from understudy.messages.generate import Capability
from understudy.messages.listing import ListedPrice, Resident, Row
from understudy.messages.units import Count, ModelId

CAPABILITIES: dict[str, Capability] = {"completion": "chat", "tools": "tools", "vision": "vision"}
"""Our words for Ollama's; others (embedding, thinking, insert) have none."""
LICENCE_CHARS = 300
"""So much of a licence's text is kept: its title is at the beginning."""
FREE = ListedPrice(units={"prompt": "0", "completion": "0"})


class _Tag(msgspec.Struct):
    name: ModelId
    digest: str = ""
    remote_model: str | None = None
    remote_host: str | None = None


class _Tags(msgspec.Struct):
    models: list[_Tag]


class _Show(msgspec.Struct):
    model_info: dict[str, Any] | None = None
    capabilities: list[str] | None = None
    license: str | None = None
    remote_model: str | None = None
    remote_host: str | None = None


class _Loaded(msgspec.Struct):
    name: ModelId
    size: Count = 0
    size_vram: Count = 0
    context_length: Count = 0


class _Ps(msgspec.Struct):
    models: list[_Loaded]


def rows(memory: Memory) -> Lister:
    """See `Lister`. `memory`: (digest, row) by name."""
    tags = read((yield Fetch("/api/tags")), _Tags)
    found: dict[str, tuple[str, Row]] = {}
    for tag in tags.models:
        before: tuple[str, Row] | None = memory.get(tag.name)
        if before is not None and tag.digest and before[0] == tag.digest:
            found[tag.name] = before
            continue
        answer = yield Fetch("/api/show", msgspec.json.encode({"model": tag.name}))
        if answer.status != 404:  # removed a moment ago
            found[tag.name] = tag.digest, _row(tag, answer)
    memory.clear()
    memory.update(found)
    loaded = {one.name: one for one in read((yield Fetch("/api/ps")), _Ps).models}
    return unique(
        [msgspec.structs.replace(row, resident=_resident(loaded.get(name))) for name, (_, row) in found.items()]
    )


def is_cloud(name: str) -> bool:
    """Whether the tag says that it runs in the vendor's cloud."""
    tag = name.rpartition(":")[2]
    return tag == "cloud" or tag.endswith("-cloud")


def _row(tag: _Tag, answer: Answer) -> Row:
    show = read(answer, _Show)
    remote = is_cloud(tag.name) or any((tag.remote_model, tag.remote_host, show.remote_model, show.remote_host))
    told = show.capabilities or []
    chat, sees = "completion" in told, "vision" in told
    return Row(
        name=tag.name,
        location="external" if remote else "local",
        context_tokens=_window(show.model_info or {}),
        capabilities=tuple(ours for word, ours in CAPABILITIES.items() if word in told),
        input_modalities=("text", "image") if sees else ("text",),
        output_modalities=("text",) if chat else ("embeddings",) if "embedding" in told else (),
        licence=" ".join((show.license or "").split())[:LICENCE_CHARS],
        price=None if remote else FREE,
    )


def _window(info: dict[str, Any]) -> int | None:
    """`<architecture>.context_length`, by the architecture that the model names."""
    return tokens(info.get(f"{info.get('general.architecture')}.context_length"))


def _resident(loaded: _Loaded | None) -> Resident | None:
    if loaded is None:
        return None
    return Resident(bytes=loaded.size, vram_bytes=loaded.size_vram, context_tokens=loaded.context_length)
