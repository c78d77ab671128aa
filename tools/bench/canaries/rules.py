"""Which canary may be where; everything else is a hit.

`text`: words of players, models, tools. `id`: a user's, a conversation's, a request's. `stored`: fields that are stored
by design (README). `junk`: what the bench itself says on `obs` to be unreadable. `key-<provider>`, `passphrase`.
"""

from __future__ import annotations

from collections import Counter
from typing import Literal, NamedTuple

Kind = Literal["file", "output", "bus", "mem", "environ", "cmdline", "fd"]

BUS: dict[str, tuple[str, ...]] = {
    "tta.ask.model.": ("text", "id"),  # what callers ask, also what is refused
    "tta.ask.feedback.": ("text", "id"),  # likewise: a comment belongs into no field, but somebody may send one
    "tta.ask.consent.": ("text", "id"),
    "tta.ask.runner.run.": ("text",),  # the order to the runner; ids are hashed before
    "tta.ask.safety.": ("text",),
    "_INBOX.": ("text", "id"),  # answers to callers; an ask that was wrong is told what was
    "_INBOX_A.": ("text",),  # answers of runners to selectors
    "tta.obs.": ("junk",),
}
"""By the beginning of a subject, what it may carry beside `stored`. No subject may carry a key."""


class Hit(NamedTuple):
    """A canary where it was found. `who`: the process (its instance), file, command or subject."""

    kind: Kind
    who: str
    canary: str
    form: str


def may_carry(subject: str) -> set[str]:
    """What a subject may carry beside `stored`."""
    return {one for begin, may in BUS.items() if f"{subject}.".startswith(begin) for one in may}


def allowed(hit: Hit) -> bool:
    """Whether it may be there."""
    if hit.canary == "stored":
        return True
    if hit.kind == "bus":
        return hit.canary in may_carry(hit.who)
    provider = hit.canary.removeprefix("key-")
    return hit.kind == "mem" and provider != hit.canary and hit.who == f"runner-{provider}"


def planted(hit: Hit) -> bool:
    """Whether the bench put it there itself, to be found."""
    return hit.canary.startswith("planted-")


def is_key(hit: Hit) -> bool:
    """Whether a key or the passphrase was found."""
    return hit.canary.startswith("key-") or hit.canary == "passphrase"


def rows(hits: set[Hit]) -> list[str]:
    """For people: what was found where."""
    found = Counter((h.kind, h.who, h.canary, h.form) for h in hits)
    return [f"{kind} {who}: {canary} ({form})" for kind, who, canary, form in sorted(found)]
