"""OpenRouter's embeddings: OpenAI's, with the same rules about who may see a request as its chat has. Pure.

Source: its OpenAPI document (2026-08).
"""

from __future__ import annotations

from typing import Any

import msgspec

from understudy.actors.runner.dialects import openai_embeddings
from understudy.messages.run import RunModel

PATH: str = openai_embeddings.PATH
PROVIDER: dict[str, Any] = {"data_collection": "deny", "allow_fallbacks": False}
read = openai_embeddings.read


def body(run: RunModel, name: str) -> bytes:
    """See `Embeddings`."""
    return msgspec.json.encode({**openai_embeddings.fields(run, name), "provider": PROVIDER})
