"""From logits to token ids, for many requests at once, each with its own temperature, top-p and random numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

COLDEST = 1e-4  # a lower temperature is greedy: nothing but the best token has a probability left


@dataclass
class Draw:
    """How one request draws: one uniform number per token, from its own generator, whoever shares the batch."""

    temperature: float
    top_p: float
    seed: int
    generator: torch.Generator = field(init=False)

    def __post_init__(self) -> None:
        """Seeds the generator; seeds are taken modulo 2**64."""
        self.generator = torch.Generator().manual_seed(self.seed & (2**64 - 1))


@torch.inference_mode()
def sample(logits: Tensor, draws: Sequence[Draw]) -> list[int | None]:
    """One token id per row of `logits` [rows, vocabulary]; None for a row that is not a number or infinite.

    The random numbers come from the CPU, so that they do not depend on the device; one copy back, whatever the rows.
    """
    best = logits.amax(-1)  # not a number as soon as one of the row is; -inf alone is how a model forbids a token
    chosen = logits.argmax(-1)
    hot = [row for row, draw in enumerate(draws) if draw.temperature >= COLDEST]
    if hot:
        rows = torch.tensor(hot).to(logits.device)
        drawn = _drawn(logits[rows].float(), chosen[rows], [draws[row] for row in hot])
        chosen = chosen.index_copy(0, rows, drawn)
    told = torch.where(torch.isfinite(best), chosen, -1).tolist()
    return [None if token < 0 else token for token in told]


def _drawn(logits: Tensor, best: Tensor, draws: Sequence[Draw]) -> Tensor:
    """Token ids [rows]: the uniform number's place in the cumulated probabilities."""
    uniforms = [float(torch.rand((), generator=draw.generator)) for draw in draws]
    table = torch.tensor([uniforms, [draw.temperature for draw in draws], [draw.top_p for draw in draws]])
    uniform, heat, kept = table.to(logits.device)[:, :, None]
    # the best logit is taken off first, so that a low temperature cannot overflow
    chances = ((logits - logits.amax(-1, keepdim=True)) / heat).softmax(-1)
    if any(draw.top_p < 1 for draw in draws):
        ranked, order = torch.sort(chances, dim=-1, descending=True, stable=True)
        ranked = ranked.masked_fill(ranked.cumsum(-1) - ranked >= kept, 0.0)
        # back in the vocabulary's order: in the sorted one, two tokens that are equal but for the rounding of this
        # batch would trade places, and with them the token that a number stands for
        chances = torch.zeros_like(chances).scatter_(-1, order, ranked)
    total = chances.cumsum(-1)
    place = torch.searchsorted(total, uniform * total[:, -1:], right=True).clamp_(max=chances.shape[1] - 1)
    # rounding may put the number behind the last possible token: take the best one then
    possible = chances.gather(1, place)[:, 0] > 0
    return torch.where(possible, place[:, 0], best)
