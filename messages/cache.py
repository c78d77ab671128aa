"""Answers that are kept, and conversations that are erased: between selectors, the response cache and the operator.

A selector asks `<app>.ask.cache.look` and, for a whole new answer, `<app>.ask.cache.keep`; the operator orders
`<app>.ask.conversation.erase`. Components may ask none of the three. Conversations and entries are named by keyed
hashes. The last part is what the cache's step says to its edge, and what comes back.
"""

from __future__ import annotations

from msgspec import Struct

from understudy.messages.base import Ask, Message, Part
from understudy.messages.events import Event
from understudy.messages.generate import FinishReason, Parameters
from understudy.messages.units import Count, Key, ModelId


class CachedAnswer(Part, frozen=True, kw_only=True):
    """A whole answer: what is needed to give it again. `labels`: those of ours that are facts of how it was made."""

    text: str
    model: ModelId
    finish_reason: FinishReason
    parameters: Parameters
    labels: tuple[str, ...] = ()


class CacheLook(Message, tag="cache.look.v1", frozen=True, kw_only=True):
    """Is there an answer under this key? Answered with `CacheLooked`."""

    run_id: str
    conversation: str
    key: str


class CacheLooked(Message, tag="cache.looked.v1", frozen=True, kw_only=True):
    """What is kept there, if anything. `key_id` names the conversation's data key as it is now, '' if that is unknown.

    An answer is kept only by who names it again: a run that began before its conversation was erased cannot.
    """

    run_id: str
    key_id: str = ""
    answer: CachedAnswer | None = None


class CacheKeep(Message, tag="cache.keep.v1", frozen=True, kw_only=True):
    """Keep this answer. Not answered: where it cannot be kept, the next request is a miss."""

    conversation: str
    key: str
    key_id: str
    answer: CachedAnswer


class EraseConversation(Ask, tag="conversation.erase.v1", frozen=True, kw_only=True):
    """Destroy a conversation's data key and all that is kept of it. Ordering it again changes nothing."""

    conversation_id: Key


class ErasureDone(Message, tag="conversation.erasure.v1", frozen=True, kw_only=True):
    """The conversation is erased, and the log says so at `seq`. Both counts are 0 where nothing was kept of it."""

    conversation: str  # keyed hash
    keys: Count
    entries: Count
    seq: Count


class ConversationErased(Event, tag="conversation.erased.v1", frozen=True, kw_only=True):
    """The tombstone: so many data keys were destroyed and so many kept answers purged. A pin of it is gone too."""

    conversation: str  # keyed hash
    keys: Count = 0
    entries: Count = 0


# --- between the cache's step and its edge ---------------------------------------------------------------------------


class ReadEntry(Struct, frozen=True):
    """Open what is kept under a key, and have a data key for the conversation; comes back as `EntryRead`."""

    id: str
    conversation: str
    key: str


class EntryRead(Struct, frozen=True):
    """`content` is None where nothing is kept, or nothing that can be opened."""

    at_ms: float
    id: str
    key_id: str
    content: bytes | None


class WriteEntry(Struct, frozen=True):
    """Seal and keep, if the conversation's data key is still the one of this id; comes back as `EntryWritten`."""

    id: str
    conversation: str
    key: str
    key_id: str
    content: bytes


class EntryWritten(Struct, frozen=True):
    """Kept, or not."""

    at_ms: float
    id: str
    kept: bool


class EraseKey(Struct, frozen=True):
    """Destroy the conversation's data key, then purge its entries; comes back as `KeyErased`."""

    id: str
    conversation: str


class KeyErased(Struct, frozen=True):
    """`failure`: why it is not all done, '' otherwise; ordering it again finishes it."""

    at_ms: float
    id: str
    keys: int = 0
    entries: int = 0
    failure: str = ""
