"""Many requests in one model: a loop that reads prompts piece by piece and steps all running requests together."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig

from understudy.actors.runner.local import Event
from understudy.actors.runner.local.cache import SERVED_LAYERS, SlotModel, layer_types
from understudy.actors.runner.local.load import LoadError
from understudy.actors.runner.local.sampling import sample
from understudy.actors.runner.local.text import Request

# Prompt tokens read between two decode steps while others run, for each that waits: with one newcomer the others'
# longest gap is about two steps (42 ms measured on a 42M model, against 76 ms with 256), and its first token comes
# after 145 instead of 76 ms. The more wait, the more is gained by filling the batch first.
PREFILL_EACH = {"cpu": 64, "cuda": 512}
PREFILL_MOST = {"cpu": 256, "cuda": 2048}  # per pass, and between two decode steps; on a GPU a pass costs little more
# Largest relative difference of logits, of the norm of their spread, between this loop and generate(). A wrong mask
# or position gives about 1; rounding gives 1e-6 in float32 and up to a few hundredths in bfloat16.
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.1}
PROBE_TOKENS = 6


class SlotLoop:
    """The main path. `running` has one request per row of the model; `waiting` ones have not read their prompt."""

    path = "slots"

    def __init__(self, model: SlotModel, tokens_per_s: float | None) -> None:
        self.model = model
        self.running: list[Request] = []
        self.waiting: list[Request] = []
        self._each, self._most = PREFILL_EACH[model.device.type], PREFILL_MOST[model.device.type]
        self._read_since = 0  # prompt tokens since the last decode step
        self._gap = 1 / tokens_per_s if tokens_per_s else 0.0  # seconds between two decode steps
        self._next_decode = 0.0  # monotonic

    @property
    def requests(self) -> list[Request]:
        """Every request that is not done."""
        return [*self.running, *self.waiting]

    def add(self, request: Request) -> None:
        """Queues a prepared request."""
        self.waiting.append(request)

    def remove(self, request: Request) -> None:
        """Forgets a request, wherever it is, and clears what it left in the cache."""
        if request in self.running:
            row, last = self.running.index(request), len(self.running) - 1
            self.model.free(row, last, request.read, self.running[last].read)
            self.running[row] = self.running[last]
            self.running.pop()
        elif request in self.waiting:
            self.waiting.remove(request)
            self.model.clear_spare(request.read)  # only the first one waiting has read anything; 0 clears nothing

    def wait_s(self, now: float) -> float:
        """Seconds until `step` has something to do; infinite without requests."""
        if self._may_read(now):
            return 0.0
        return max(0.0, self._next_decode - now) if self.running else math.inf

    def step(self, now: float) -> list[Event]:
        """One pass over prompts or one decode step, whichever is due."""
        if self._may_read(now):
            return self._read(now)
        if self.running and now >= self._next_decode:
            # counted from when this step was due: the mean reaches the limit, and a longer delay is not caught up with
            due = self._next_decode if now - self._next_decode < self._gap else now
            self._next_decode = due + self._gap
            self._read_since = 0
            return self._decode()
        return []

    def reset(self) -> list[Request]:
        """Drops everything after an error in the model; returns what was dropped."""
        dropped, self.running, self.waiting = self.requests, [], []
        self.model.reset()
        return dropped

    def _may_read(self, now: float) -> bool:
        if not self.waiting or len(self.running) >= self.model.slots:
            return False
        # a speed limit leaves time to read
        return self._read_since < self._allowance() or not self.running or now < self._next_decode

    def _allowance(self) -> int:
        """Prompt tokens that may be read before the next decode step."""
        return min(self._most, self._each * len(self.waiting)) if self.running else self._most

    def _read(self, now: float) -> list[Event]:
        """A piece of the first prompt that waits; when that completes it, whole other prompts that fit beside it.

        So the spare row never keeps anything but the beginning of the first one's prompt.
        """
        first, size = self.waiting[0], self._allowance()
        start = first.read
        pieces = [first.ids[start : start + size]]
        if start + len(pieces[0]) == len(first.ids):
            room = min(size - len(pieces[0]), self.model.context - len(first.ids))
            for request in self.waiting[1 : self.model.slots - len(self.running)]:
                room -= len(request.ids)
                if room < 0:
                    break
                pieces.append(request.ids)
        logits = self.model.prefill(pieces, start)
        if len(pieces) > 1 and not bool(torch.isfinite(logits.amax(-1)).all()):
            # a prompt that makes the model say NaN spoils those beside it: read it, and them, alone
            self.model.clear_spare(self.model.context)
            start, pieces = 0, [first.ids[: start + len(pieces[0])]]
            logits = self.model.prefill(pieces)
        self._read_since += sum(map(len, pieces))
        first.read = start + len(pieces[0])
        if first.read < len(first.ids):
            return []
        if not self.running:
            self._next_decode = now + self._gap  # this pass gives the first token
        return self._admit(len(pieces), logits)

    def _admit(self, count: int, logits: Tensor) -> list[Event]:
        """The first `count` waiting requests have been read: each gets a row and its first token."""
        begun, self.waiting = self.waiting[:count], self.waiting[count:]
        place = 0
        for request in begun:
            request.read = len(request.ids)
            self.model.admit(len(self.running), place, request.read)
            self.running.append(request)
            place += request.read
        self.model.clear_spare(place)
        return self._give(begun, logits)

    def _decode(self) -> list[Event]:
        rows = list(self.running)
        logits = self.model.decode([request.last for request in rows], [request.read for request in rows])
        for request in rows:
            request.read += 1
        return self._give(rows, logits)

    def _give(self, requests: list[Request], logits: Tensor) -> list[Event]:
        events: list[Event] = []
        for request, token in zip(requests, sample(logits, [r.draw for r in requests]), strict=True):
            events += request.take(token)
            if request.done:
                self.remove(request)
        return events


def why_not(model: Any, slots: int, context: int) -> tuple[SlotModel | None, str]:
    """The model over slots, or None and a word why generate() must do: `layers`, `forward` or `parity`.

    Raises LoadError when the slots do not fit into memory, which no other path would mend.
    """
    if layer_types(model) - SERVED_LAYERS:
        return None, "layers"
    try:
        served = SlotModel(model, slots, context)
        difference = parity(served)
    except torch.OutOfMemoryError as error:
        raise LoadError("no_memory", f"{slots} slots of {context} tokens do not fit; lower one of them") from error
    except (RuntimeError, ValueError, TypeError, AttributeError, KeyError, IndexError, NotImplementedError):
        return None, "forward"  # a model that takes other arguments, or a cache of other shapes
    if difference > TOLERANCE.get(model.dtype, 0.0):
        return None, "parity"
    served.reset()
    return served, ""


@torch.inference_mode()
def parity(served: SlotModel) -> float:
    """Largest relative difference of the logits from those of generate(), on two prompts of different length.

    The loop is given generate()'s tokens, so that one near tie does not make everything after it incomparable. One
    prompt is read in two pieces, the other beside the second piece, and the first row ends early, so that positions,
    masks, shared passes and moved rows are all tried.
    """
    model = served.model
    room = min(served.context - PROBE_TOKENS - 1, 64)
    sizes = [min(room, (served.window or 0) + 5 if (served.window or 0) < room - 5 else 11), 5]
    source = torch.Generator().manual_seed(0)
    vocab = int(model.get_input_embeddings().weight.shape[0])
    prompts = [torch.randint(0, vocab, (size,), generator=source).tolist() for size in sizes[: served.slots]]
    truth = [_generated(model, prompt) for prompt in prompts]
    half = len(prompts[0]) // 2
    served.prefill([prompts[0][:half]])
    logits = served.prefill([prompts[0][half:], *prompts[1:]], half)
    worst = max(_difference(ours, true[0]) for ours, (_, true) in zip(logits, truth, strict=True))
    for row, prompt in enumerate(prompts):
        served.admit(row, row * len(prompts[0]), len(prompt))
    live = list(range(len(prompts)))
    for step in range(PROBE_TOKENS - 1):
        if step == PROBE_TOKENS // 2 and len(live) == 2:
            served.free(0, 1, len(prompts[0]) + step, len(prompts[1]) + step)
            live = [1]
        logits = served.decode([truth[i][0][step] for i in live], [len(prompts[i]) + step for i in live])
        worst = max([worst, *(_difference(logits[row], truth[i][1][step + 1]) for row, i in enumerate(live))])
    return worst


def _generated(model: Any, prompt: list[int]) -> tuple[list[int], list[Tensor]]:
    """Greedy tokens of generate() and their logits, each [vocabulary]."""
    config = GenerationConfig(
        do_sample=False,
        max_new_tokens=PROBE_TOKENS,
        output_logits=True,
        return_dict_in_generate=True,
        pad_token_id=0,
    )
    ids = torch.tensor([prompt], device=model.device)
    out = model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=config)
    return out.sequences[0, len(prompt) :].tolist(), [logits[0].float() for logits in out.logits]


def _difference(ours: Tensor, theirs: Tensor) -> float:
    """Norm of the difference over the norm of the spread; infinite if either is not finite."""
    found = float((ours - theirs).norm() / (theirs - theirs.mean()).norm().clamp_min(1e-6))
    return found if math.isfinite(found) else math.inf
