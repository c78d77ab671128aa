"""What may leave this machine, and how it is said what became of it."""

from __future__ import annotations

from typing import Literal

from understudy.messages.base import Part
from understudy.messages.units import Count, Word

Privacy = Literal["local_only", "external_allowed"]
"""`local_only`: only models of this machine. `external_allowed`: others too, where somebody has consented to them."""

Location = Literal["local", "external"]
"""Where a model computes: on this machine, or anywhere else."""

BlockReason = Literal[
    "no_consent",  # to this provider, or to another text, or it was withdrawn; or the request names no user
    "local_only",  # the request may not leave this machine
    "crisis",  # judged to speak of a crisis
    "secret",  # it holds a key or a password
    "pii",  # it holds personal data, and the policy refuses them; or they cannot be taken out
    "gate_error",  # something of the gate failed, or did not answer in time
    "content",  # in the log alone: one of crisis, secret, pii
]
"""Why nothing left. Closed."""

ABOUT_CONTENT: frozenset[BlockReason] = frozenset({"crisis", "secret", "pii"})
"""What these say about a person's words is told to the caller, and never stored."""

OWN_LABELS = ("external", "redacted", "code", "mathematics", "high_stakes")
"""Labels that an answer gets from us; no caller can give them."""


class Outbound(Part, frozen=True, kw_only=True):
    """One call that was to leave this machine: to whom, on whose consent, and what of it did leave. Never content."""

    provider: Word
    blocked: BlockReason | None = None
    consent: Count = 0  # position in the log of the `consent.given` that it rests on
    bytes: Count = 0  # of the request, head and body; 0: it was not handed to the network
    redacted: Count = 0  # pieces of personal data that were taken out of it
