"""Providers' lists of models, one module per kind: see `lister.Lister`."""

from __future__ import annotations

from collections.abc import Callable

from understudy.actors.runner.lists import anthropic, ollama, openai, openrouter
from understudy.actors.runner.lists.lister import Lister, Memory

BY_KIND: dict[str, Callable[[Memory], Lister]] = {
    "openai": openai.rows,
    "openai_responses": openai.rows,
    "openrouter": openrouter.rows,
    "anthropic": anthropic.rows,
    "ollama": ollama.rows,
}
"""By the topology's `kind` of a provider."""
