"""The runner's answers to orders for what its provider has recorded. Pure."""

from __future__ import annotations

from understudy.messages.records import FetchRecord, Record, RecordFetched, RecordOrder
from understudy.messages.step import Effect, Send


def ordered(records: dict[str, str], order: RecordOrder, reply: str) -> list[Effect]:
    """Look it up, if anybody waits for it."""
    if not reply or order.record_id in records:
        return []
    records[order.record_id] = reply
    return [FetchRecord(order.record_id, order.generation)]


def answered(records: dict[str, str], found: RecordFetched) -> list[Effect]:
    """Pass it on."""
    reply = records.pop(found.record_id, "")
    said = Record(record_id=found.record_id, cost_usd=found.cost_usd, fault=found.fault)
    return [Send(reply, said)] if reply else []
