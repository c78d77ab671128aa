"""The wire formats of providers, one module each: see `dialect.Dialect`."""

from understudy.actors.runner.dialect import Dialect
from understudy.actors.runner.dialects import anthropic, ollama, openai_chat, openrouter

BY_KIND: dict[str, Dialect] = {
    "openai": openai_chat,
    "openrouter": openrouter,
    "anthropic": anthropic,
    "ollama": ollama,
}
"""By the topology's `kind` of a provider."""
