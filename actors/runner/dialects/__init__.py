"""The wire formats of providers, one module each: see `dialect.Dialect`."""

from understudy.actors.runner.dialect import Dialect
from understudy.actors.runner.dialects import anthropic, ollama, openai_chat, openai_responses, openrouter

BY_KIND: dict[str, Dialect] = {
    "openai": openai_chat,
    "openai_responses": openai_responses,
    "openrouter": openrouter,
    "anthropic": anthropic,
    "ollama": ollama,
}
"""By the topology's `kind` of a provider."""
