"""What stands of all consents: a fold of the log that selectors keep, and each external runner on its own. Pure.

It stands with the messages, whose source a snapshot goes by: one of another fold is not used again.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec

from understudy.messages.consent import ConsentGiven, ConsentWithdrawn, Scope
from understudy.messages.events import Event


class Standing(msgspec.Struct, frozen=True):
    """The last word of one scope about one provider, `origin` and `said_ms` where and when it was said first.

    `version` '': it was withdrawn. `seq` and `at_ms`: where and when it was said again last."""

    seq: int
    provider: str
    scope: Scope
    who: str
    version: str
    at_ms: int
    origin: int
    said_ms: int


@dataclass(slots=True)
class Consents:
    """By provider, scope and keyed hash; oldest first."""

    standing: dict[str, Standing] = field(default_factory=dict[str, Standing])

    def apply(self, seq: int, event: Event) -> None:
        """Fold one fact. What was only said again never stands against what was said since."""
        if not isinstance(event, ConsentGiven | ConsentWithdrawn):
            return
        version = event.version if isinstance(event, ConsentGiven) else ""
        key = _key(event.provider, event.scope, event.who)
        origin, known = event.origin or seq, self.standing.get(key)
        if known is not None and known.origin > origin:
            return
        self.standing.pop(key, None)
        said = event.said_ms or event.at_ms
        self.standing[key] = Standing(seq, event.provider, event.scope, event.who, version, event.at_ms, origin, said)

    def given(self, provider: str, version: str, user: str, conversation: str) -> int | None:
        """The position of the consent that a request of theirs may rest on; None where there is none.

        A withdrawal at any scope that includes them counts, whatever another scope says; a consent to another text is
        none. `user` and `conversation` are keyed hashes, '' for none.
        """
        found: int | None = None
        for scope, who in _scopes(user, conversation):
            one = self.standing.get(_key(provider, scope, who))
            if one is None:
                continue
            if not one.version:
                return None
            if version and one.version == version:
                found = one.seq
        return found

    def concerning(self, user: str, conversation: str) -> list[Standing]:
        """Those at any scope that includes them."""
        wanted = set(_scopes(user, conversation))
        return [one for one in self.standing.values() if (one.scope, one.who) in wanted]


def _scopes(user: str, conversation: str) -> list[tuple[Scope, str]]:
    """From the widest to the narrowest; the narrowest consent is the one that is named."""
    found: list[tuple[Scope, str]] = [("installation", "")]
    if user:
        found.append(("user", user))
    if conversation:
        found.append(("conversation", conversation))
    return found


def _key(provider: str, scope: str, who: str) -> str:
    return f"{provider} {scope} {who}"
