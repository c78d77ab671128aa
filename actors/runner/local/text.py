"""One request's text: from messages to prompt tokens, from tokens to text and events."""

from __future__ import annotations

import re
from typing import Any

from tokenizers.decoders import DecodeStream

from understudy.actors.runner.local import Event, FailCode, Failed, Finished, FinishReason, GenerateSpec, Text
from understudy.actors.runner.local.load import Loaded
from understudy.actors.runner.local.sampling import Draw

PRIME_TOKENS = 8  # of a prefill, shown to the decoder so that a continued word keeps, or does not get, its space


class PromptError(Exception):
    """A request that cannot be served; the message holds no content."""

    def __init__(self, code: FailCode, detail: str) -> None:
        super().__init__(detail)
        self.code: FailCode = code
        self.detail = detail


def render(tokenizer: Any, messages: tuple[tuple[str, str], ...], prefill: str) -> list[int]:
    """Prompt token ids: the chat template up to the answer, then the prefill.

    Text that spells a special token (`<|end|>`) stays text. Only then are contents encoded apart from the template,
    piece by piece; all other prompts are encoded in one go, exactly as the model was trained.
    """
    added = tokenizer.backend_tokenizer.get_added_tokens_decoder().values()
    special = [token.content for token in added if token.special]
    texts = [content for _, content in messages]
    apart = any(name in text for name in special for text in [*texts, prefill])
    # private-use characters around the number stand for a content while the template is rendered
    shown = [f"\uf8f0{number}\uf8f1" for number in range(len(texts))] if apart else texts
    chat = [{"role": role, "content": text} for (role, _), text in zip(messages, shown, strict=True)]
    frame: str = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    if not apart:
        return encode(tokenizer, frame + prefill)
    ids: list[int] = []
    for number, piece in enumerate(re.split("\uf8f0(\\d+)\uf8f1", frame)):
        if number % 2:  # every second piece is the number of a content
            ids += encode(tokenizer, texts[int(piece)], special_as_text=True)
        else:
            ids += encode(tokenizer, piece)
    return ids + encode(tokenizer, prefill, special_as_text=True)


def encode(tokenizer: Any, text: str, *, special_as_text: bool = False) -> list[int]:
    """Token ids, without a special token in front or behind.

    As a batch of one and without offsets: only so does tokenizers let other threads run meanwhile (a text of 1 MB takes
    0.3 s), and it makes nothing but the ids.
    """
    core: Any = tokenizer.backend_tokenizer
    core.encode_special_tokens = special_as_text
    return core.encode_batch_fast([text], add_special_tokens=False)[0].ids


class TextStream:
    """Tokens in, text out as soon as it is whole characters and can no longer become a stop string."""

    def __init__(self, tokenizer: Any, stop: tuple[str, ...], prime: list[int]) -> None:
        self._tokenizer: Any = tokenizer.backend_tokenizer
        self._decoder = DecodeStream(ids=prime, skip_special_tokens=True)
        self._stop = tuple(word for word in stop if word)
        self._held = ""
        self.stopped = False

    def push(self, token: int) -> str:
        """Text that may be shown after this token; `stopped` is set when a stop string was completed."""
        try:
            piece = self._decoder.step(self._tokenizer, token)
        except Exception:  # noqa: BLE001 - tokenizers raises bare Exception when a token changes text already given out
            self._decoder = DecodeStream(ids=[], skip_special_tokens=True)
            piece = self._decoder.step(self._tokenizer, token)
        self._held += piece or ""
        found = [place for word in self._stop if (place := self._held.find(word)) >= 0]
        if found:
            self.stopped = True
            shown, self._held = self._held[: min(found)], ""
            return shown
        keep = max((self._overlap(word) for word in self._stop), default=0)
        shown, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        return shown

    def flush(self) -> str:
        """What was held back, when the answer ends. Bytes that are no whole character are dropped."""
        shown, self._held = self._held, ""
        return shown

    def _overlap(self, word: str) -> int:
        """Length of the longest beginning of `word` with which the held text ends."""
        longest = min(len(word) - 1, len(self._held))
        return next((n for n in range(longest, 0, -1) if self._held.endswith(word[:n])), 0)


class Request:
    """A call in the engine: its prompt, its random numbers, how far it is, and the events it causes."""

    def __init__(self, spec: GenerateSpec, ids: list[int], limit: int, loaded: Loaded) -> None:
        self.call_id, self.ids, self.limit = spec.call_id, ids, limit
        self.deadline = spec.deadline_monotonic
        self.draw = Draw(spec.temperature, spec.top_p, spec.seed)
        self.read = 0  # positions of the cache that hold this request
        self.last = ids[-1]  # newest token, not yet in the cache once the prompt is read
        self.done = False
        self._ends = loaded.end_ids
        self._stream = TextStream(loaded.tokenizer, spec.stop, ids[-PRIME_TOKENS:] if spec.prefill else [])
        self._tokens = self._untold = 0  # generated, and those of them whose text was not given out yet

    def take(self, token: int | None) -> list[Event]:
        """The next token, None for logits that are not numbers; sets `done` with the last event."""
        if token is None:
            return self.fail("nan_logits", "the model gave logits that are not finite numbers")
        if token in self._ends:
            return self._finish("stop", self._stream.flush())
        self.last = token
        self._tokens += 1
        self._untold += 1
        text = self._stream.push(token)
        if self._stream.stopped:
            return self._finish("stop_string", text)
        if self._tokens >= self.limit:
            return self._finish("length", text + self._stream.flush())
        return self._tell(text)

    def fail(self, code: FailCode, detail: str) -> list[Event]:
        """Ends the request without an answer; text held back is dropped."""
        self.done = True
        return [Failed(self.call_id, code, detail)]

    def _finish(self, reason: FinishReason, text: str) -> list[Event]:
        self.done = True
        return [*self._tell(text), Finished(self.call_id, reason, len(self.ids), self._tokens)]

    def _tell(self, text: str) -> list[Event]:
        if not text:
            return []
        told, self._untold = self._untold, 0
        return [Text(self.call_id, text, told)]


def prepare(spec: GenerateSpec, loaded: Loaded) -> Request:
    """Checks, renders and encodes a call. One bad row would fail a whole batch, so everything is refused here."""
    if spec.max_tokens < 1 or not 0 <= spec.temperature < float("inf") or not 0 < spec.top_p <= 1:
        raise PromptError("bad_prompt", "max_tokens, temperature or top_p out of range")
    try:
        ids = render(loaded.tokenizer, spec.messages, spec.prefill)
    except Exception as error:  # templates and tokenizers raise anything; the text of the error may quote the prompt
        raise PromptError("bad_prompt", f"prompt cannot be rendered: {type(error).__name__}") from error
    room = loaded.context_tokens - len(ids)
    if room < 1:  # first, so that nothing more is done with an endless list
        raise PromptError("context_too_long", f"{len(ids)} prompt tokens, context {loaded.context_tokens}")
    if not ids or max(ids) >= loaded.vocab:
        raise PromptError("bad_prompt", "the prompt has no tokens, or tokens that the model does not have")
    return Request(spec, ids, min(spec.max_tokens, room), loaded)


def refused(spec: GenerateSpec, error: PromptError) -> Failed:
    """The only event of a call that was not prepared."""
    return Failed(spec.call_id, error.code, error.detail)
