"""Judging what somebody says: the question that is asked before anything leaves this machine."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from understudy.messages.base import Ask, Message
from understudy.messages.generate import Turn

CRISIS_LEVEL = 3
"""From here on nothing leaves this machine."""


class Judge(Ask, tag="safety.judge.v1", frozen=True, kw_only=True):
    """How do things stand with whoever wrote this? A conversation, or texts."""

    messages: tuple[Turn, ...] = ()
    input: tuple[str, ...] = ()
    conversation: str = ""  # keyed hash
    user: str = ""  # keyed hash


class Judged(Message, tag="safety.judged.v1", frozen=True, kw_only=True):
    """The answer: 0 (nothing), 1 (distress), 2 (risk), 3 (crisis), 4 (acute danger)."""

    level: Annotated[int, Meta(ge=0, le=4)]
