"""The runner's answers to orders for its provider's list. Pure."""

from __future__ import annotations

from understudy.messages.batches import batches
from understudy.messages.listing import ListEnded, ListFailed, ListOrder, ListPart
from understudy.messages.step import Effect, Fetched, FetchFailed, FetchList, Send

PART_BYTES = 48_000
"""A part and what is around it fit into the smallest message that a topology may allow."""


def ordered(lists: dict[str, str], order: ListOrder, reply: str) -> list[Effect]:
    """Read it, if anybody waits for it."""
    if not reply or order.list_id in lists:
        return []
    lists[order.list_id] = reply
    return [FetchList(order.list_id)]


def answered(lists: dict[str, str], answer: Fetched | FetchFailed) -> list[Effect]:
    """Pass it on, in parts."""
    reply = lists.pop(answer.list_id, "")
    if not reply:
        return []
    if isinstance(answer, FetchFailed):
        return [Send(reply, ListFailed(list_id=answer.list_id, code=answer.code, text=answer.text, path=answer.path))]
    rows = batches(answer.rows, PART_BYTES)
    parts = [ListPart(list_id=answer.list_id, n=n, rows=some) for n, some in enumerate(rows)]
    return [*(Send(reply, part) for part in parts), Send(reply, ListEnded(list_id=answer.list_id, parts=len(parts)))]
