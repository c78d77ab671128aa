"""One request at a time with generate(): the path for models whose layers the slot loop does not cover.

Sampling, stopping, text and events are those of the slot loop, so that a request sees no difference but the waiting.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, StoppingCriteria
from transformers.generation.streamers import BaseStreamer

from understudy.actors.runner.local import Event
from understudy.actors.runner.local.sampling import sample
from understudy.actors.runner.local.text import Request


class SerialLoop:
    """`requests[0]` runs inside one `step`; `pulse` is called after each of its tokens and tells its events.

    `pulse(events, seconds)` also takes in new and cancelled calls, so these are seen within one token here too. With
    `seconds` above 0 it may rest that long. It may `remove` the running request, which then ends at this token.
    """

    path = "generate"

    def __init__(self, model: Any, tokens_per_s: float | None, pulse: Callable[[list[Event], float], None]) -> None:
        self.model = model
        self.requests: list[Request] = []
        self._pulse = pulse
        self._gap = 1 / tokens_per_s if tokens_per_s else 0.0  # seconds between two tokens

    def add(self, request: Request) -> None:
        """Queues a prepared request."""
        self.requests.append(request)

    def remove(self, request: Request) -> None:
        """Forgets a request; a running one ends at its next token."""
        request.done = True
        if request in self.requests:
            self.requests.remove(request)

    def wait_s(self, now: float) -> float:
        """Seconds until `step` has something to do; infinite without requests."""
        del now
        return 0.0 if self.requests else math.inf

    def step(self, now: float) -> list[Event]:
        """Runs the first request to its end."""
        del now
        if not self.requests:
            return []
        request = self.requests[0]
        run = _Run(request, self._told)
        ids = torch.tensor([request.ids], device=self.model.device)
        # no end token here: the request itself knows its ends, and stops generate() through `_Stop`
        config = GenerationConfig(do_sample=False, max_new_tokens=request.limit, pad_token_id=0)
        with torch.inference_mode():
            self.model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                generation_config=config,
                logits_processor=[_Choose(run)],
                stopping_criteria=[_Stop(run)],
                streamer=_Listen(run),
            )
        self.remove(request)
        return []

    def reset(self) -> list[Request]:
        """Drops everything after an error in the model; returns what was dropped."""
        dropped, self.requests = self.requests, []
        return dropped

    def _told(self, request: Request, token: int | None) -> None:
        due = time.monotonic() + self._gap
        events = request.take(token)
        if request.done:
            self.remove(request)  # before its last event is told: the slot is free when the caller hears of it
        self._pulse(events, 0.0)
        while not request.done and (left := due - time.monotonic()) > 0:
            self._pulse([], left)


class _Run:
    """What the three hooks of one generate() call share."""

    def __init__(self, request: Request, told: Callable[[Request, int | None], None]) -> None:
        self.request, self.told = request, told
        self.token: int | None = None
        self.prompt_seen = False


class _Choose(LogitsProcessor):
    """Replaces generate()'s choice by ours: its own seed is global to the process."""

    def __init__(self, run: _Run) -> None:
        self._run = run

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Any:
        """Scores [1, vocabulary] that leave exactly one token possible."""
        self._run.token = sample(scores, [self._run.request.draw])[0]
        only = torch.full_like(scores, -torch.inf)
        only[0, self._run.token or 0] = 0.0
        return only


class _Listen(BaseStreamer):
    """Hands each new token on; the first call brings the prompt."""

    def __init__(self, run: _Run) -> None:
        self._run = run

    def put(self, value: Tensor) -> None:
        """Called by generate() with the prompt, then with one token at a time."""
        del value
        if self._run.prompt_seen and not self._run.request.done:
            self._run.told(self._run.request, self._run.token)
        self._run.prompt_seen = True

    def end(self) -> None:
        """Called by generate() at its end."""


class _Stop(StoppingCriteria):
    """Ends generate() when the request is done or was removed."""

    def __init__(self, run: _Run) -> None:
        self._run = run

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Any:
        """One truth value per row, [1]."""
        return torch.full((input_ids.shape[0],), self._run.request.done, dtype=torch.bool, device=input_ids.device)
