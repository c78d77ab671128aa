"""What a provider's own record says that an attempt cost, asked for after the attempt.

The ledger asks `<app>.ask.runner.record.<provider>`, as the provider's own process alone holds the key, and is answered
with one `Record`. OpenRouter has such records: GET /generation?id=, by the id that each response's head names.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from understudy.messages.base import Message
from understudy.messages.money import Generation, UsdText

RecordFault = Literal["not_yet", "unreachable", "status", "malformed", "unsupported"]
"""Why there is no record: not written yet, or never; nobody answers in time; an HTTP error; not the vendor's form; a
provider without records."""


class RecordOrder(Message, tag="runner.record.v1", frozen=True, kw_only=True):
    """Look it up; `record_id` comes back with the answer."""

    record_id: str
    generation: Generation


class Record(Message, tag="runner.recorded.v1", frozen=True, kw_only=True):
    """The answer to `RecordOrder`: what is billed, all in all, or why nobody can say."""

    record_id: str
    cost_usd: UsdText | None = None
    fault: RecordFault | None = None


# --- between the runner's step and its edge ---------------------------------------------------------------------------


class FetchRecord(Struct, frozen=True):
    """Runner's edge: look up what an answer cost. Comes back as one `RecordFetched`."""

    record_id: str
    generation: str


class RecordFetched(Struct, frozen=True):
    """What the provider's record says that an answer cost, or why it does not."""

    at_ms: float
    record_id: str
    cost_usd: str | None = None
    fault: RecordFault | None = None
