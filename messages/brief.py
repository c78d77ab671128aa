"""What a fold reads of an event: the same tag, fewer fields. The rest is skipped without being built.

Most of an outcome's bytes are the embedded decision, which few ever look at. An actor that names a light form in its
`FOLDS` must also fold the whole event: those of replay come so.
"""

from __future__ import annotations

from understudy.messages.base import Part
from understudy.messages.events import Event
from understudy.messages.money import Charge


class AttemptBrief(Part, frozen=True, kw_only=True):
    """See `Attempt`; the id's form was checked when it was written."""

    model: str
    outcome: str
    first_token_ms: float | None = None
    total_ms: float = 0.0


class RequestBrief(Event, tag="request.ended.v1", frozen=True, kw_only=True):
    """See `RequestEnded`."""

    run_id: str
    instance: str
    attempts: tuple[AttemptBrief, ...] = ()
    claim: str = ""
    body: str = ""


class ChargesBrief(Event, tag="request.ended.v1", frozen=True, kw_only=True):
    """See `RequestEnded`: what a run cost."""

    run_id: str
    charges: tuple[Charge, ...] = ()
