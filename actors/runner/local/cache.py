"""Keys and values of many requests of different age in one set of tensors, and the model's forward pass over it.

Rows 0..n-1 belong to the running requests. The row after the last slot is the *spare* row, where a prompt is read:
running rows may trade places between two pieces of a prompt, the spare row stays. Whatever is not in use is zero: a
masked position still takes part in `0 * value`, so a NaN left by an earlier request would poison the row's next user.
"""

from __future__ import annotations

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
        self.prompt_start: int | None = None  # not None: a piece of a prompt, for the spare row
        self.positions = torch.zeros(0, dtype=torch.long)  # [n], one new token per running row
        self.span = 0  # positions to read, counted from 0


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
            index = torch.arange(key_states.shape[0])
            keys[index, :, place.positions] = key_states[:, :, 0]
            values[index, :, place.positions] = value_states[:, :, 0]
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
    """A model over slots: `prefill` reads a prompt piece by piece, `admit` gives it a row, `decode` steps all rows."""

    def __init__(self, model: Any, slots: int, context: int) -> None:
        self.model, self.slots, self.context = model, slots, context
        self.place = Place(slots, context)
        config = model.config.get_text_config(decoder=True)
        self.layers = [SlotLayer(self.place) for _ in range(config.num_hidden_layers)]
        self.cache = Cache(layers=list(self.layers))
        self.window: int | None = config.sliding_window if "sliding_attention" in layer_types(model) else None
        # a configuration that lists its layers wants one mask per kind; one that does not (mistral) wants one mask
        self.mask_by_kind = getattr(config, "layer_types", None) is not None
        self.lowest = torch.finfo(model.dtype).min

    @torch.inference_mode()
    def prefill(self, ids: list[int], start: int) -> Tensor:
        """Reads `ids` at positions `start`.. of the spare row; returns the last token's logits, [vocabulary]."""
        self.place.prompt_start, self.place.span = start, start + len(ids)
        return self._forward([ids], torch.arange(start, start + len(ids))[None])[0]

    @torch.inference_mode()
    def decode(self, last: list[int], positions: list[int]) -> Tensor:
        """One token per running row, written at the row's position; returns logits [rows, vocabulary]."""
        self.place.prompt_start, self.place.span = None, max(positions) + 1
        self.place.positions = torch.tensor(positions)
        return self._forward([[token] for token in last], self.place.positions[:, None])

    @torch.inference_mode()
    def admit(self, row: int, length: int) -> None:
        """Gives the `length` positions of the spare row to `row`, which must be clear."""
        self._copy(self.slots, row, length)

    @torch.inference_mode()
    def free(self, row: int, last: int, length: int, last_length: int) -> None:
        """Ends `row` (its `length` positions); row `last` moves into its place, so that the rows stay dense."""
        self._zero(row, length)
        if row != last:
            self._copy(last, row, last_length)
            self._zero(last, last_length)

    @torch.inference_mode()
    def clear_spare(self, length: int) -> None:
        """Clears the first `length` positions of the spare row."""
        self._zero(self.slots, length)

    def reset(self) -> None:
        """Clears everything, after a pass that failed halfway."""
        for row in range(self.slots + 1):
            with torch.inference_mode():
                self._zero(row, self.context)

    def _copy(self, source: int, target: int, length: int) -> None:
        for states in self._states():
            states[target, :, :length] = states[source, :, :length]

    def _zero(self, row: int, length: int) -> None:
        for states in self._states():
            states[row, :, :length] = 0

    def _states(self) -> list[Tensor]:
        ready = [layer for layer in self.layers if layer.is_initialized]
        return [states for layer in ready for states in (layer.keys, layer.values) if states is not None]

    def _forward(self, ids: list[list[int]], positions: Tensor) -> Tensor:
        out = self.model(
            input_ids=torch.tensor(ids),
            position_ids=positions,
            attention_mask=self._masks(positions),
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return out.logits[:, -1].float()

    def _masks(self, queries: Tensor) -> Tensor | dict[str, Tensor]:
        """Additive masks [rows, 1, new tokens, span] from query positions [rows, new tokens]."""
        keys, asked = torch.arange(self.place.span)[None, None], queries[:, :, None]
        seen = keys <= asked
        if self.window is None:
            return {"full_attention": self._additive(seen)} if self.mask_by_kind else self._additive(seen)
        near = self._additive(seen & (keys > asked - self.window))
        return {"full_attention": self._additive(seen), "sliding_attention": near} if self.mask_by_kind else near

    def _additive(self, allowed: Tensor) -> Tensor:
        zeros = torch.zeros(allowed.shape, dtype=self.model.dtype)
        return zeros.masked_fill_(~allowed, self.lowest)[:, None]
