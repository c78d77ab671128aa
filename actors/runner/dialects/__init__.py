"""The wire formats of providers, one module each: see `dialect.Dialect`."""

from understudy.actors.runner.dialect import Dialect
from understudy.actors.runner.dialects import anthropic, ollama, openai_chat

BY_KIND: dict[str, Dialect] = {"openai": openai_chat, "anthropic": anthropic, "ollama": ollama}
"""By the topology's `kind` of a provider."""
