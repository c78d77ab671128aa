"""Keep answers of deterministic requests, sealed under their conversation's key, and erase conversations. Pure.

One conversation's answers are never given to another, nor one user's to another: the entry's key is a keyed hash over
both and the request (`selector/keeping.py`). What is kept can be read by nobody else: no other process has a data key.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import msgspec

from understudy.messages.base import Ask, Message
from understudy.messages.cache import (
    CachedAnswer,
    CacheKeep,
    CacheLook,
    CacheLooked,
    ConversationErased,
    EntryRead,
    EntryWritten,
    EraseConversation,
    EraseKey,
    ErasureDone,
    KeyErased,
    ReadEntry,
    WriteEntry,
)
from understudy.messages.generate import ADVICE, FailCode, Failed
from understudy.messages.hashes import keyed_hash
from understudy.messages.step import Asked, Effect, Input, Send, Store, Stored, StoreFailed

ASKS: dict[str, type[Ask | Message]] = {
    "cache.look": CacheLook,
    "cache.keep": CacheKeep,
    "conversation.erase": EraseConversation,
}
HEARS = ()
FOLDS = ()
EMITS = (ConversationErased,)
SENDS = ()


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`hash_key`, `folder` (of the data keys) and `ttl_s` (of the bucket) are set by the supervisor, not by hand."""

    max_entry_bytes: int = 262_144  # longer answers are not kept
    max_in_hand: int = 256  # looks, and answers being kept: beyond it a look is a miss and nothing more is kept
    hash_key: str = ""
    folder: str = ""
    ttl_s: int = 86_400


class Looking(NamedTuple):
    """A selector waits for it."""

    reply: str
    run_id: str


@dataclass(slots=True)
class Erasing:
    """The operator waits for it."""

    reply: str
    conversation: str
    keys: int = 0
    entries: int = 0


@dataclass(slots=True)
class State:
    """What is with the edge or the log now, by the id of its ask."""

    looks: dict[str, Looking] = field(default_factory=dict[str, Looking])
    keeps: set[str] = field(default_factory=set[str])
    erasures: dict[str, Erasing] = field(default_factory=dict[str, Erasing])
    untold: dict[str, tuple[int, int]] = field(default_factory=dict[str, tuple[int, int]])
    """By conversation: keys and entries that were erased and that no tombstone is known to tell of: the next does."""


_answer = msgspec.json.Decoder(CachedAnswer)


def in_hand(state: State) -> int:
    """What a stop waits for. A look that is not answered is a miss."""
    return len(state.keeps) + len(state.erasures)


def step(state: State, message: Input, settings: Settings) -> list[Effect]:
    """One input in, effects out; `state` is changed in place and by nobody else."""
    match message:
        case Asked(message=CacheLook() as look):
            return _look(state, message, look, settings)
        case Asked(message=CacheKeep() as keep):
            return _keep(state, message, keep, settings)
        case Asked(message=EraseConversation() as order):
            conversation = keyed_hash(settings.hash_key, order.conversation_id)
            state.erasures[message.id] = Erasing(message.reply, conversation)
            return [EraseKey(message.id, conversation)]
        case EntryRead():
            looking = state.looks.pop(message.id)
            said = CacheLooked(run_id=looking.run_id, key_id=message.key_id, answer=_readable(message.content))
            return [Send(looking.reply, said)]
        case EntryWritten():
            state.keeps.discard(message.id)
            return []
        case KeyErased():
            return _erased(state, message)
        case Stored() | StoreFailed():
            return _told(state, message)
        case _:
            return []


def _look(state: State, asked: Asked, look: CacheLook, settings: Settings) -> list[Effect]:
    if not asked.reply:
        return []
    if len(state.looks) >= settings.max_in_hand:
        return [Send(asked.reply, CacheLooked(run_id=look.run_id))]
    state.looks[asked.id] = Looking(asked.reply, look.run_id)
    return [ReadEntry(asked.id, look.conversation, look.key)]


def _keep(state: State, asked: Asked, keep: CacheKeep, settings: Settings) -> list[Effect]:
    content = msgspec.json.encode(keep.answer)
    if len(content) > settings.max_entry_bytes or len(state.keeps) >= settings.max_in_hand:
        return []
    state.keeps.add(asked.id)
    return [WriteEntry(asked.id, keep.conversation, keep.key, keep.key_id, content)]


def _readable(content: bytes | None) -> CachedAnswer | None:
    """One that another version has kept may not be."""
    if content is None:
        return None
    try:
        return _answer.decode(content)
    except msgspec.DecodeError:
        return None


def _erased(state: State, done: KeyErased) -> list[Effect]:
    erasing = state.erasures[done.id]
    keys, entries = state.untold.pop(erasing.conversation, (0, 0))
    erasing.keys, erasing.entries = done.keys + keys, done.entries + entries
    if done.failure:
        del state.erasures[done.id]
        _keep_untold(state, erasing)
        key = "Its key is destroyed. " if erasing.keys else ""
        return _failed(erasing, "bus_down", f"Not all is erased ({done.failure}). {key}Order it again.")
    event = ConversationErased(
        at_ms=int(done.at_ms), conversation=erasing.conversation, keys=erasing.keys, entries=erasing.entries
    )
    return [Store(event, f"erased.{done.id}")]


def _keep_untold(state: State, erasing: Erasing) -> None:
    keys, entries = state.untold.get(erasing.conversation, (0, 0))
    if keys + erasing.keys + entries + erasing.entries:
        state.untold[erasing.conversation] = keys + erasing.keys, entries + erasing.entries


def _told(state: State, answer: Stored | StoreFailed) -> list[Effect]:
    erasing = state.erasures.pop(answer.msg_id.removeprefix("erased."), None)
    if erasing is None:
        return []
    if isinstance(answer, Stored) and answer.synced:
        done = ErasureDone(
            conversation=erasing.conversation, keys=erasing.keys, entries=erasing.entries, seq=answer.seq
        )
        return [Send(erasing.reply, done)] if erasing.reply else []
    _keep_untold(state, erasing)
    code: FailCode = "log_full" if isinstance(answer, StoreFailed) and answer.code == "log_full" else "bus_down"
    return _failed(erasing, code, f"It is erased, but the log has not confirmed it. {ADVICE[code]}")


def _failed(erasing: Erasing, code: FailCode, text: str) -> list[Effect]:
    return [Send(erasing.reply, Failed(code=code, text=text))] if erasing.reply else []
