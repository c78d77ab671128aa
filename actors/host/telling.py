"""What a host says about stored facts and about messages that it cannot read: never any content."""

from __future__ import annotations

import hashlib
from typing import Any

from understudy.actors.host.permissions import Seat
from understudy.bus.port import Received
from understudy.messages.catalogue_events import CatalogueEvent, CatalogueRefused, ModelRegistered
from understudy.messages.events import AttemptEnded, Event, RequestEnded
from understudy.messages.known import about
from understudy.messages.operate import DeadLetter
from understudy.messages.step import Stored, StoreFailed
from understudy.messages.wire import WireError, readable_tag, tag_of


def stored_name(event: Event) -> str:
    """The log line's word for a stored fact: its tag without the version."""
    return tag_of(type(event)).rsplit(".", 1)[0]


def stored_facts(event: Event, answer: Stored | StoreFailed) -> dict[str, Any]:
    """One line per request and per attempt; other facts with what they are about."""
    fields: dict[str, Any] = {"seq": answer.seq} if isinstance(answer, Stored) else {"store_failed": answer.code}
    if isinstance(answer, Stored) and not answer.synced:
        fields["synced"] = False
    match event:
        case RequestEnded():
            fields |= {"run": event.run_id, "outcome": event.outcome, "model": event.model, "task": event.task}
            fields |= {"ms": event.total_ms, "attempts": len(event.attempts), "seams": event.seams}
        case AttemptEnded():
            fields |= {"run": event.run_id, "model": event.model, "reason": event.reason, "ms": event.total_ms}
        case CatalogueRefused():
            fields |= {"provider": event.provider, "code": event.code, "text": event.text, "path": event.path}
        case _ if isinstance(event, CatalogueEvent):
            fields |= {"provider": event.provider, "models": len(list(about(event)))}
            fields |= {"reason": getattr(event, "reason", None)}
            if isinstance(event, ModelRegistered) and (odd := {m.id: m.problem for m in event.models if m.problem}):
                fields["problems"] = odd
        case _:
            fields |= {"model": getattr(event, "model", None), "reason": getattr(event, "reason", None)}
    return fields


def dead_letter(seat: Seat, received: Received, error: WireError, at_ms: int) -> DeadLetter:
    """What cannot be read: its length, hash and where it failed; never the payload."""
    return DeadLetter(
        actor=seat.actor,
        instance=seat.instance,
        subject=received.subject,
        message_tag=readable_tag(received.payload),
        bytes=len(received.payload),
        sha256=hashlib.sha256(received.payload).hexdigest()[:16],
        reason=error.code,
        path=error.path,
        at_ms=at_ms,
    )


def places(error: Exception) -> list[str]:
    """Where an error came by, outermost first: `file:line`, and never its text."""
    found: list[str] = []
    tb = error.__traceback__
    while tb is not None:
        found.append(f"{tb.tb_frame.f_code.co_filename.rsplit('/', 1)[-1]}:{tb.tb_lineno}")
        tb = tb.tb_next
    return found
