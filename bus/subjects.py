"""Subjects and stream names: the one place that knows how they are spelled. Pure.

    <app>.<kind>.<family>.<name>[.<key>]        tta.evt.request.ended.01J...   tta.ask.runner.run.org_model_free

Every token is made of letters, digits, `_` and `-`, so that no token can widen a subscription or leave its stream.
"""

from __future__ import annotations

import re

import msgspec

from understudy.messages import slugs

KINDS = ("ask", "evt", "live", "obs", "trace", "dead")
"""ask: requests; evt: stored facts; live: the same, republished; obs: readings; trace: detail; dead: not handled."""

GUEST_INBOX, ACTOR_INBOX = "_INBOX", "_INBOX_A"
"""First tokens of the subjects on which components, and actors, wait for answers."""
_OF_GUESTS, _OF_ANYBODY = f"{GUEST_INBOX}.", (f"{GUEST_INBOX}.", f"{ACTOR_INBOX}.")

_TOKEN = re.compile(r"[A-Za-z0-9_-]+")


class Subject(msgspec.Struct, frozen=True):
    """The parts of a subject; `key` is empty where the subject has none."""

    app: str
    kind: str
    family: str
    name: str
    key: str = ""

    def __str__(self) -> str:
        return build(self.app, self.kind, self.family, self.name, self.key)


def build(app: str, kind: str, family: str, name: str, key: str = "") -> str:
    """Spell a subject. Raises ValueError for an unknown kind or a token with other characters."""
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, not {kind!r}")
    tokens = [app, kind, family, name, *([key] if key else [])]
    for token in tokens:
        if not _TOKEN.fullmatch(token):
            raise ValueError(f"subject token {token!r} must be letters, digits, '_' or '-'")
    return ".".join(tokens)


def parse(subject: str) -> Subject:
    """The inverse of `build`. Raises ValueError for anything `build` would not spell."""
    tokens = subject.split(".")
    if len(tokens) not in (4, 5) or not all(tokens):
        raise ValueError(f"{subject!r} is not <app>.<kind>.<family>.<name>[.<key>]")
    build(*tokens)
    return Subject(*tokens)


def slug(model_id: str) -> str:
    """A model id as one subject token: `org/model:free` becomes `org_model_free`.

    Two ids may share a slug; the topology reader refuses that. Raises ValueError for ids that are empty or hold
    spaces, control or other unprintable characters.
    """
    if not model_id or not model_id.isprintable() or any(c.isspace() for c in model_id):
        raise ValueError(f"model id {model_id!r} must be printable, without spaces and not empty")
    return slugs.slug(model_id)


def matches(pattern: str, subject: str) -> bool:
    """Whether a subscription to `pattern` receives `subject`: `*` is one token, a last `>` one or more."""
    wanted, given = pattern.split("."), subject.split(".")
    for i, token in enumerate(wanted):
        if token == ">" and i == len(wanted) - 1:
            return len(given) > i
        if i >= len(given) or token not in ("*", given[i]):
            return False
    return len(wanted) == len(given)


def is_guest_inbox(reply: str) -> bool:
    """Whether an answer to `reply` goes to a component's inbox, or the operator's, and nowhere else."""
    return reply.startswith(_OF_GUESTS)


def is_inbox(reply: str) -> bool:
    """Whether an answer to `reply` goes to somebody's inbox and nowhere else.

    Nobody but the one who answers can see to that: the server checks no reply subject, and an answer is published with
    the rights of whoever answers.
    """
    return reply.startswith(_OF_ANYBODY)


def evt_stream(app: str) -> str:
    """The log of facts, e.g. TTA_EVT."""
    return _stream(app, "EVT")


def trace_stream(app: str) -> str:
    """The stream of detail that may lose its last moments, e.g. TTA_TRACE."""
    return _stream(app, "TRACE")


def dead_stream(app: str) -> str:
    """What could not be handled, e.g. TTA_DEAD."""
    return _stream(app, "DEAD")


def claims_bucket(app: str) -> str:
    """The key-value bucket of claims, e.g. TTA_CLAIMS; its stream is `KV_` and this."""
    return _stream(app, "CLAIMS")


def cache_bucket(app: str) -> str:
    """The key-value bucket of kept answers, e.g. TTA_CACHE."""
    return _stream(app, "CACHE")


def _stream(app: str, what: str) -> str:
    if not _TOKEN.fullmatch(app):
        raise ValueError(f"app {app!r} must be letters, digits, '_' or '-'")
    return f"{app.upper()}_{what}"
