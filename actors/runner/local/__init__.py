"""A local Hugging Face model behind one class, `engine.Engine`: a plain library of threads, without NATS or asyncio.

This module holds what goes in (`GenerateSpec`) and what comes out (`Text`, then exactly one of `Finished` or `Failed`),
so that a caller can name them without importing torch.
"""

from __future__ import annotations

import os
from typing import Literal

import msgspec

# Before huggingface_hub is imported: it reads them once. A runner never asks the network for a model file.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

FinishReason = Literal["stop", "length", "stop_string"]
FailCode = Literal["context_too_long", "bad_prompt", "nan_logits", "cancelled", "deadline", "engine"]


class GenerateSpec(msgspec.Struct, frozen=True):
    """One call. `messages` are (role, content) pairs; `prefill` is the beginning of the answer, to be continued."""

    call_id: str
    messages: tuple[tuple[str, str], ...]
    prefill: str = ""
    max_tokens: int = 256
    temperature: float = 0.0  # 0 is greedy
    top_p: float = 1.0
    stop: tuple[str, ...] = ()  # strings in the decoded text; they end the answer and are not part of it
    seed: int = 0
    deadline_monotonic: float | None = None  # seconds of `time.monotonic()`


class Text(msgspec.Struct, frozen=True):
    """New text of a call, `tokens` tokens' worth (never empty; a token may wait until its characters are complete)."""

    call_id: str
    text: str
    tokens: int


class Finished(msgspec.Struct, frozen=True):
    """The answer is complete. `prompt_tokens` counts the prefill; `completion_tokens` does not count the end token."""

    call_id: str
    reason: FinishReason
    prompt_tokens: int
    completion_tokens: int


class Failed(msgspec.Struct, frozen=True):
    """The call ended without a complete answer. `detail` holds no content of the prompt or the answer."""

    call_id: str
    code: FailCode
    detail: str


Event = Text | Finished | Failed
