"""Consent: who has agreed that their words go to which provider, and to which text about it.

It is given and withdrawn per provider for the whole installation, one user, or one conversation. Nothing stands for it
but the event: there is no default, and none for another version of the text.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from understudy.messages.base import Ask, Message, Part
from understudy.messages.events import Event
from understudy.messages.units import Count, Key, Word

Scope = Literal["installation", "user", "conversation"]
"""For whom: everybody here, one user, one conversation."""


class ConsentGiven(Event, tag="consent.given.v1", frozen=True, kw_only=True):
    """Their words may go to this provider. `version` names the text that they agreed to, and where it is sent."""

    provider: Word
    scope: Scope
    who: str = ""  # keyed hash of the user's or conversation's id; '' for the installation
    version: str
    origin: Count = 0  # said again before retention takes it: the position in the log where it was said first
    said_ms: int = 0  # and when


class ConsentWithdrawn(Event, tag="consent.withdrawn.v1", frozen=True, kw_only=True):
    """From here on not, whatever a wider scope says. It also stands where nothing had been given."""

    provider: Word
    scope: Scope
    who: str = ""
    origin: Count = 0  # as in `ConsentGiven`
    said_ms: int = 0


class GiveConsent(Ask, tag="consent.give.v1", frozen=True, kw_only=True):
    """Somebody has read the provider's text and agrees. `version` is the one of the text that was shown to them.

    `user_id` for the scope user, `conversation_id` for the scope conversation; for the installation neither, and only
    the operator may.
    """

    stores: ClassVar[bool] = True

    provider: Word
    scope: Scope
    version: str
    user_id: Key | None = None
    conversation_id: Key | None = None


class WithdrawConsent(Ask, tag="consent.withdraw.v1", frozen=True, kw_only=True):
    """Somebody agrees no longer, or says beforehand that they do not."""

    stores: ClassVar[bool] = True

    provider: Word
    scope: Scope
    user_id: Key | None = None
    conversation_id: Key | None = None


class ListConsents(Ask, tag="consent.list.v1", frozen=True, kw_only=True):
    """The texts to agree to, and what stands: all, or what concerns this user and this conversation.

    Oldest first, so many at a time: where there is `more`, ask again with the last one's `seq` as `after_seq`.
    """

    user_id: Key | None = None
    conversation_id: Key | None = None
    after_seq: Count = 0


class ConsentTaken(Message, tag="consent.taken.v1", frozen=True, kw_only=True):
    """It is in the log, at `seq`. Runners know of it with the next call, selectors within moments."""

    provider: Word
    scope: Scope
    given: bool
    seq: Count


class ConsentText(Part, frozen=True, kw_only=True):
    """What is to be shown before somebody agrees. `address`: the host that their words would go to."""

    provider: Word
    version: str
    text: str
    address: str
    models: tuple[str, ...]


class ConsentCard(Part, frozen=True, kw_only=True):
    """One that stands. `current`: it was given to the text as it is now, so it counts."""

    provider: Word
    scope: Scope
    who: str
    given: bool
    current: bool
    version: str
    at_ms: int
    seq: Count


class ConsentsListed(Message, tag="consent.listed.v1", frozen=True, kw_only=True):
    """The answer to `consent.list`."""

    as_of_seq: Count
    texts: tuple[ConsentText, ...]
    consents: tuple[ConsentCard, ...]
    more: bool = False
