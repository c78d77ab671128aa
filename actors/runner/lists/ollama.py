"""Ollama's lists: `/api/tags` says what is there, `/api/show` what it can do, `/api/ps` what is in memory. Pure.

Source of the shapes: the server's source and OpenAPI document (0.33). Context length and capabilities come from `show`,
never from the name; `show` is asked again only for other weights (another digest). What runs in the vendor's cloud
(`remote_model` or `remote_host`, or a tag that says so) has the same API and is not local.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec.structs import replace

from understudy.actors.runner.lists.lister import Answer, BadList, Fetch, Lister, Memory, read, tokens, unique
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
    """See `Lister`. `memory`: (digest, row) by name.

    A model that cannot be shown (removed a moment ago, or broken) is a row with a `problem`, and takes no other model
    along; where more than half cannot, it is the server that is broken, and there is no list.
    """
    tags = read((yield Fetch("/api/tags")), _Tags)
    shown: dict[str, tuple[str, Row]] = {}
    found: dict[str, Row] = {}
    faults: list[BadList] = []
    for n, tag in enumerate(tags.models):
        before: tuple[str, Row] | None = memory.get(tag.name)
        if before is None or not tag.digest or before[0] != tag.digest:
            answer = yield Fetch("/api/show", msgspec.json.encode({"model": tag.name}), of_one=True)
            try:
                before = tag.digest, _row(tag, answer)
            except BadList as fault:
                faults.append(BadList(fault.text, f"$.models[{n}]", fault.code))
                if sum(one.code == "timeout" for one in faults) > 1:
                    raise faults[-1] from None  # it is the server that hangs, and no list is waited for so long
                found[tag.name] = _not_shown(tag, fault, before)
                if before is not None:
                    shown[tag.name] = before  # so that it is known as other weights the next time too
                continue
        shown[tag.name] = before
        found[tag.name] = before[1]
    if 2 * len(faults) > len(tags.models):
        text = f"{len(faults)} of {len(tags.models)} models cannot be shown; of the first {faults[0].text}"
        raise BadList(text, faults[0].path, faults[0].code)
    memory.clear()
    memory.update(shown)
    loaded = {one.name: one for one in read((yield Fetch("/api/ps")), _Ps).models}
    return unique([replace(row, resident=_resident(loaded.get(name))) for name, row in found.items()])


def is_cloud(name: str) -> bool:
    """Whether the tag says that it runs in the vendor's cloud."""
    tag = name.rpartition(":")[2]
    return tag == "cloud" or tag.endswith("-cloud")


def _not_shown(tag: _Tag, fault: BadList, before: tuple[str, Row] | None) -> Row:
    """Other weights under an old name may compute anywhere: nothing has shown these to be local."""
    other = before is not None and before[0] != tag.digest
    return Row(name=tag.name, location="external" if other or _is_remote(tag) else "local", problem=fault.text)


def _is_remote(told: _Tag | _Show) -> bool:
    return bool(told.remote_model or told.remote_host) or (isinstance(told, _Tag) and is_cloud(told.name))


def _row(tag: _Tag, answer: Answer) -> Row:
    """Raises BadList, in words for this one model."""
    if answer.fault is not None:
        raise BadList(f"the details did not come: {answer.fault.text}", code=answer.fault.code)
    if answer.status != 200:
        raise BadList(f"the details were answered with HTTP {answer.status}", code="status")
    try:
        show = read(answer, _Show)
    except BadList as fault:
        raise BadList(f"the details are in no form that we know: {fault.text} at {fault.path}") from None
    remote = _is_remote(tag) or _is_remote(show)
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
