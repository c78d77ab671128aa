"""Are a real server's models listed as it has them? Its list is read by the catalogue, and by the bench itself.

Lists are read for providers of their own, so that the models that are asked are known by the topology alone.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import time
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from understudy.bus.client import Client
from understudy.messages.catalogue import ListModels

PATHS = {"openai": "/v1", "openai_responses": "/v1", "anthropic": "/v1", "ollama": ""}
"""By dialect: what stands behind a server's root."""
ELSEWHERE = "elsewhere"
"""Stands for a dialect: a provider whose list lacks the model, which the same check must find."""
LISTED_S, PAUSE_S = 30.0, 0.1

Windows = dict[str, int]
"""Models by name, and how many tokens each takes; 0: the list does not say."""


def providers(root: str, dialects: tuple[str, ...], elsewhere: str) -> dict[str, Any]:
    """One per dialect, and the control; whatever a list has is admitted whose window is known."""
    ways = {dialect: (dialect, root + PATHS[dialect]) for dialect in dialects} | {ELSEWHERE: ("openai", elsewhere)}
    return {
        _provider(way): {
            "kind": kind,
            "url": url,
            "catalogue": {"prefix": f"{way}/", "admit": {"ids": ["*"], "capabilities": []}},
        }
        for way, (kind, url) in ways.items()
    }


async def said(root: str, dialect: str) -> Windows:
    """What the server itself lists. A list in OpenAI's form says no windows; Ollama's own `show` does."""
    return await asyncio.to_thread(_windows if dialect == "ollama" else _names, root)


async def listed(client: Client, way: str, model: str, truth: Windows) -> str:
    """`ok` where `ask.model.list` shows all that the server has and nothing else, `model` among it; else what it
    shows."""
    shown = await _shown(client, way)
    if isinstance(shown, str):
        return shown
    wanted = {f"{way}/{name}": (window, "local", window > 0) for name, window in truth.items()}
    mine = any(name in truth for name in (model, f"{model}:latest"))
    return "ok" if mine and shown == wanted else f"shows {sorted(shown)[:3]}"


async def _shown(client: Client, way: str) -> Mapping[str, tuple[int, str, bool]] | str:
    """By id: window, place, and whether it may be selected. Or why there is no list."""
    provider, until = _provider(way), time.monotonic() + LISTED_S
    while time.monotonic() < until:
        answer = await client.models(ListModels(provider=provider))
        if provider in answer.problems:
            return answer.problems[provider].code
        if answer.total:
            return {card.id: (card.context_tokens, card.location, card.candidate) for card in answer.models}
        await asyncio.sleep(PAUSE_S)
    return "no list"


def _provider(way: str) -> str:
    return f"list-{way}"


def _names(root: str) -> Windows:
    return {one["id"]: 0 for one in _json(f"{root}/v1/models")["data"]}


def _windows(root: str) -> Windows:
    found: Windows = {}
    for one in _json(f"{root}/api/tags")["models"]:
        info = _json(f"{root}/api/show", {"model": one["name"]})["model_info"]
        found[one["name"]] = info[f"{info['general.architecture']}.context_length"]
    return found


def _json(url: str, body: Any = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(urllib.request.Request(url, data), timeout=10) as answer:
        return json.load(answer)


def into_hub(folder: Path, cache: Path, model: str) -> None:
    """Copy a model into a Hugging Face cache, where `transformers serve` looks for what it lists."""
    revision, repo = "0" * 40, cache / f"models--{model.replace('/', '--')}"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text(revision)
    shutil.copytree(folder, repo / "snapshots" / revision)
