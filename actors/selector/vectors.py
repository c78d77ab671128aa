"""A request for vectors, as the conversation that the rest of the selector knows. Pure."""

from __future__ import annotations

from msgspec.structs import replace

from understudy.actors.selector import admit
from understudy.messages.embed import Embed
from understudy.messages.generate import Generate, Turn


def check(ask: Embed) -> None:
    """Raises Refusal `invalid` with the path: no vector tells anything of a blank text."""
    for i, text in enumerate(ask.input):
        admit.refuse_control(text, f"$.input[{i}]")
        if not text.strip():
            raise admit.refuse("invalid", "A text of white space alone.", f"$.input[{i}]")


def longest(ask: Embed) -> int:
    """Each text has the model's window to itself: what the longest takes, as a guess in tokens."""
    return int(max(map(len, ask.input)) / admit.CHARS_PER_TOKEN) + 1


def as_generate(ask: Embed) -> Generate:
    """The same wishes about who answers and until when; one turn per text, so that lengths and hashes are right.

    One token of answer: nothing is generated.
    """
    need = ask.requirements
    return Generate(
        messages=tuple(Turn(role="user", content=text) for text in ask.input),
        task=ask.task,
        model=ask.model,
        requirements=replace(need, capabilities=tuple(dict.fromkeys((*need.capabilities, "embeddings")))),
        balance=ask.balance,
        max_tokens=1,
        deadline_ms=ask.deadline_ms,
        request_id=ask.request_id,
        conversation_id=ask.conversation_id,
        user_id=ask.user_id,
        priority=ask.priority,
        traffic=ask.traffic,
        privacy=ask.privacy,
        labels=ask.labels,
    )
