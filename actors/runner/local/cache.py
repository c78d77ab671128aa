"""Keys and values of many requests of different age in one set of tensors, and the model's forward pass over it.

Rows 0..n-1 belong to the running requests. The row after the last slot is the *spare* row, where prompts are read:
running rows may trade places between two pieces of a prompt, the spare row stays. Short prompts stand in it side by
side, each blind to the others: one pass over the weights reads them all. Whatever is not in use is zero: a masked
position still takes part in `0 * value`, so a NaN left by an earlier request would poison the row's next user.

Everything stays on the model's device. A pass sends it one small tensor (ids, positions); nothing comes back but what
the caller asks of the logits.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer, get_layer_types_and_kwargs

SERVED_LAYERS = {"full_attention", "sliding_attention"}


def layer_types(model: Any) -> set[str]:
    """The kinds of layers of a model, as transformers names them."""
    return set(get_layer_types_and_kwargs(model.config.get_text_config(decoder=True))[0])


class Place:
    """Where the next forward pass writes and how far it reads; set before each pass, shared by all layers."""

    def __init__(self, slots: int, context: int) -> None:
        self.slots, self.context = slots, context
        self.prompt_start: int | None = None  # not None: pieces of prompts, for the spare row from this place on
        self.rows = self.positions = torch.zeros(0, dtype=torch.long)  # [n] each, one new token per running row
        self.span = 0  # places to read, counted from 0


class SlotLayer(DynamicLayer):
    """One layer's tensors, [slots + 1, heads, context, head size], made at the first pass when the shapes are known."""

    def __init__(self, place: Place) -> None:
        super().__init__()
        self.place = place

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Stores new states [n, heads, new tokens, head size]; returns all states up to the span, same layout."""
        place = self.place
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.keys, self.values = self._empty(key_states), self._empty(value_states)
        keys, values = self.keys, self.values
        assert keys is not None and values is not None
        rows = slice(0, key_states.shape[0])
        if place.prompt_start is not None:
            rows = slice(place.slots, place.slots + 1)
            keys[rows, :, place.prompt_start : place.span] = key_states
            values[rows, :, place.prompt_start : place.span] = value_states
        else:
            keys[place.rows, :, place.positions] = key_states[:, :, 0]
            values[place.rows, :, place.positions] = value_states[:, :, 0]
        return keys[rows, :, : place.span], values[rows, :, : place.span]

    def _empty(self, states: Tensor) -> Tensor:
        return states.new_zeros(self.place.slots + 1, states.shape[1], self.place.context, states.shape[3])

    def get_seq_length(self) -> int:
        """Zero, since rows differ: positions and masks are always given by `SlotModel`."""
        return 0

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Length and offset of the states that `update` returns."""
        return self.place.span, 0


class SlotModel:
    """A model over slots: `prefill` reads prompts, `admit` gives each a row, `decode` steps all rows."""

    def __init__(self, model: Any, slots: int, context: int) -> None:
        self.model, self.slots, self.context = model, slots, context
        self.device: torch.device = model.device
        self.place = Place(slots, context)
        config = model.config.get_text_config(decoder=True)
        self.layers = [SlotLayer(self.place) for _ in range(config.num_hidden_layers)]
        self.cache = Cache(layers=list(self.layers))
        self.window: int | None = config.sliding_window if "sliding_attention" in layer_types(model) else None
        # a configuration that lists its layers wants one mask per kind; one that does not (mistral) wants one mask
        self.mask_by_kind = getattr(config, "layer_types", None) is not None
        self.lowest = torch.finfo(model.dtype).min

    @torch.inference_mode()
    def prefill(self, pieces: Sequence[list[int]], start: int = 0) -> Tensor:
        """Reads pieces of prompts into the spare row; returns each one's last logits, [pieces, vocabulary].

        They stand side by side from place `start` on. What is there before `start` is the beginning of the first one's
        prompt; the others are whole prompts.
        """
        ends = [end - 1 for end in accumulate(len(piece) for piece in pieces)]
        # by place: token (not needed again for what was read before), position in its prompt, number of its prompt
        ids, positions, owners = [0] * start, list(range(start)), [0] * start
        for number, piece in enumerate(pieces):
            ids += piece
            first = 0 if number else start
            positions += range(first, first + len(piece))
            owners += [number] * len(piece)
        table = torch.tensor([ids, positions, owners]).to(self.device)
        self.place.prompt_start, self.place.span = start, table.shape[1]
        asked, at, owner = table[:, None, start:]
        seen = (table[1] <= at[..., None]) & (table[2] == owner[..., None])
        near = table[1] > at[..., None] - (self.window or 0)
        keep = 1 if len(pieces) == 1 else torch.tensor(ends).to(self.device)
        return self._forward(asked, at, seen, near, keep)[0]

    @torch.inference_mode()
    def decode(self, last: list[int], positions: list[int]) -> Tensor:
        """One token per running row, written at the row's position; returns logits [rows, vocabulary]."""
        table = torch.tensor([last, positions]).to(self.device)
        asked, at = table[:, :, None]
        self.place.prompt_start, self.place.span = None, max(positions) + 1
        self.place.positions = table[1]
        self.place.rows = torch.arange(len(last), device=self.device)
        keys = torch.arange(self.place.span, device=self.device)
        seen, near = keys <= at[..., None], keys > at[..., None] - (self.window or 0)
        return self._forward(asked, at, seen, near, 1)[:, 0]

    @torch.inference_mode()
    def admit(self, row: int, start: int, length: int) -> None:
        """Gives `length` places of the spare row, from `start` on, to `row`, which must be clear."""
        for states in self._states():
            states[row, :, :length] = states[self.slots, :, start : start + length]

    @torch.inference_mode()
    def free(self, row: int, last: int, length: int, last_length: int) -> None:
        """Ends `row` (its `length` positions); row `last` moves into its place, so that the rows stay dense."""
        self._zero(row, length)
        if row != last:
            for states in self._states():
                states[row, :, :last_length] = states[last, :, :last_length]
            self._zero(last, last_length)

    @torch.inference_mode()
    def clear_spare(self, length: int) -> None:
        """Clears the first `length` places of the spare row."""
        self._zero(self.slots, length)

    def reset(self) -> None:
        """Clears everything, after a pass that failed halfway."""
        for row in range(self.slots + 1):
            with torch.inference_mode():
                self._zero(row, self.context)

    def _zero(self, row: int, length: int) -> None:
        for states in self._states():
            states[row, :, :length] = 0

    def _states(self) -> list[Tensor]:
        ready = [layer for layer in self.layers if layer.is_initialized]
        return [states for layer in ready for states in (layer.keys, layer.values) if states is not None]

    def _forward(self, ids: Tensor, positions: Tensor, seen: Tensor, near: Tensor, keep: int | Tensor) -> Tensor:
        """Logits [rows, kept tokens, vocabulary] of new tokens [rows, new tokens]; masks [rows, new tokens, span]."""
        out = self.model(
            input_ids=ids,
            position_ids=positions,
            attention_mask=self._masks(seen, near),
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=keep,
        )
        return out.logits.float()

    def _masks(self, seen: Tensor, near: Tensor) -> Tensor | dict[str, Tensor]:
        """Additive masks [rows, 1, new tokens, span]: what may be seen, and what of it lies within the window."""
        if self.window is None:
            return {"full_attention": self._additive(seen)} if self.mask_by_kind else self._additive(seen)
        within = self._additive(seen & near)
        return {"full_attention": self._additive(seen), "sliding_attention": within} if self.mask_by_kind else within

    def _additive(self, allowed: Tensor) -> Tensor:
        zeros = torch.zeros(allowed.shape, dtype=self.model.dtype, device=self.device)
        return zeros.masked_fill_(~allowed, self.lowest)[:, None]
