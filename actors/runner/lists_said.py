"""The runner's answers to orders for its provider's list. Pure."""

from __future__ import annotations

import msgspec

from understudy.messages.listing import ListEnded, ListFailed, ListOrder, ListPart, Row
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
    parts = [ListPart(list_id=answer.list_id, n=n, rows=rows) for n, rows in enumerate(_parts(answer.rows))]
    return [*(Send(reply, part) for part in parts), Send(reply, ListEnded(list_id=answer.list_id, parts=len(parts)))]


def _parts(rows: tuple[Row, ...]) -> list[tuple[Row, ...]]:
    found: list[list[Row]] = []
    size = PART_BYTES
    for row in rows:
        more = len(msgspec.json.encode(row)) + 1
        if size + more > PART_BYTES:
            found.append([])
            size = 0
        found[-1].append(row)
        size += more
    return [tuple(part) for part in found]
