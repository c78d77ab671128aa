"""The asks of `bench providers` as a caller sees them, and the judgement of each against its cell."""

from __future__ import annotations

import json
import time
from typing import Any

import msgspec

from understudy.bus.client import AnswerFailed, Client, turns
from understudy.messages.embed import Embedded
from understudy.messages.generate import Failed, Finished, Generate, Seam, Usage
from understudy.messages.json_schema import fits
from understudy.messages.tools import Format, ToolCall
from understudy.messages.wire import decode, encode
from understudy.tools.bench.providers_cases import CHUNKS, SCHEMA, TOOLS, Case, Cell
from understudy.tools.fake.embeddings import DIMENSIONS, vector
from understudy.tools.fake.script import Message, script

LOOKED = {"place": "the old mill", "closely": True}
VECTORS_MS = 6_000
"""Half of it until the next model is asked."""
TEXTS = ("a lantern", "a crooked compass")
REFUSAL = "I'm sorry, but I can't help with that."
SHORT = 12
"""Tokens of an answer that ends with `length`."""


class Seen(msgspec.Struct, kw_only=True):
    """One ask as the caller saw it. `held`: what a reader of the stream holds after the seam rule."""

    ms: float
    end: str  # finish reason, `embedded`, or a code
    attempts: tuple[str, ...]
    text: str = ""
    held: str | None = None
    calls: tuple[ToolCall, ...] = ()
    held_calls: tuple[ToolCall, ...] | None = None
    vectors: tuple[tuple[float, ...], ...] = ()
    seams: int = 0
    modes: tuple[str, ...] | None = None  # of the seams, where they could be read
    usage: Usage | None = None
    said: str = ""  # what an error says


async def ask(client: Client, case: Case) -> Seen:
    """Ask once."""
    began = time.perf_counter()
    if case.cell.ask == "embed":
        seen = await _vectors(client, case)
    elif case.mode == "stream":
        seen = await _streamed(client, case)
    else:
        seen = await _single(client, case)
    seen.ms = round((time.perf_counter() - began) * 1000, 2)
    return seen


def _wanted(case: Case) -> dict[str, Any]:
    match case.cell.ask:
        case "tools":
            return {"tools": TOOLS, "tool_choice": "required"}
        case "json":
            return {"format": Format(type="json_schema", schema=SCHEMA)}
        case _:
            return {}


async def _streamed(client: Client, case: Case) -> Seen:
    fields = msgspec.to_builtins(_wanted(case))
    answer, modes = client.generate(case.prompt, model=case.model, **fields), list[str]()
    try:
        async for piece in answer:
            if isinstance(piece, Seam):
                modes.append(piece.mode)
        assert answer.finished is not None
        seen = _seen(answer.finished)
    except AnswerFailed as failure:
        seen = _seen(failure.failed)
    seen.held, seen.held_calls, seen.modes = answer.text, answer.tool_calls, tuple(modes)
    return seen


async def _single(client: Client, case: Case) -> Seen:
    body = encode(Generate(messages=turns(case.prompt), model=case.model, **_wanted(case)))
    received = await client.bus.request(f"{client.app}.ask.model.generate", body, timeout_s=30)
    end = decode(received.payload)
    assert isinstance(end, Finished | Failed)
    return _seen(end)


async def _vectors(client: Client, case: Case) -> Seen:
    try:
        return _seen(await client.embed(TEXTS, model=case.model, deadline_ms=VECTORS_MS))
    except AnswerFailed as failure:
        return _seen(failure.failed)


def _seen(end: Finished | Failed | Embedded) -> Seen:
    attempts = tuple(a.outcome for a in end.attempts)
    match end:
        case Failed():
            return Seen(ms=0, end=end.code, attempts=attempts, said=end.text)
        case Embedded():
            return Seen(ms=0, end="embedded", attempts=attempts, vectors=end.vectors, usage=end.usage)
        case Finished():
            return Seen(
                ms=0,
                end=end.finish_reason,
                attempts=attempts,
                text=end.text or "",
                calls=end.tool_calls,
                seams=end.seams,
                usage=end.usage,
            )


# --- judging -------------------------------------------------------------------------------------------------------

SEAMS = {"continued": "continue", "restarted": "restart"}
ATTEMPTS = {"answered": 1, "refused": 1, "next": 2, "continued": 2, "restarted": 2}


def wrong(case: Case, seen: Seen) -> list[str]:
    """What was not as the table says."""
    cell, found = case.cell, list[str]()
    if seen.attempts[:1] != (cell.first,):
        found.append("first")
    if len(seen.attempts) != ATTEMPTS[cell.then]:
        found.append("then")
    seams = (SEAMS[cell.then],) if cell.then in SEAMS else ()
    if seen.seams != len(seams) or (seen.modes is not None and seen.modes != seams):
        found.append("seam")
    if seen.end != cell.end:
        found.append("end")
    if cell.then != "refused" and (seen.usage is None or seen.usage.estimated != (cell.usage == "estimated")):
        found.append("usage")
    if cell.then != "refused" and seen.end == cell.end and not _right(case, cell, seen):
        found.append("content")
    return found


def truncated(case: Case, seen: Seen) -> bool:
    """A text that is not whole and called so: the one fault that nobody could see."""
    return case.cell.ask == "chat" and seen.end == "stop" and not case.refusing and seen.text != _whole(case)


def zeroed(seen: Seen) -> bool:
    """Tokens that nobody counted, said to be none."""
    if seen.usage is None:
        return False
    return not seen.usage.prompt_tokens or (seen.end != "embedded" and not seen.usage.completion_tokens)


def _right(case: Case, cell: Cell, seen: Seen) -> bool:
    """The content, and that who read the stream holds the same as the end says."""
    if seen.held not in (None, seen.text) or seen.held_calls not in (None, seen.calls):
        return False
    match cell.end:
        case "embedded":
            return seen.vectors == tuple(tuple(vector(text, DIMENSIONS)) for text in TEXTS)
        case "tool_calls":
            return _right_calls(cell, seen)
        case "refusal":
            return seen.text == REFUSAL
        case "length":
            return bool(seen.text) and (cell.ask == "json" or _whole(case).startswith(seen.text))
        case _ if case.refusing and cell.ask == "chat":
            return seen.text == REFUSAL
        case _:
            return fits(SCHEMA, json.loads(seen.text)) if cell.ask == "json" else seen.text == _whole(case)


def _right_calls(cell: Cell, seen: Seen) -> bool:
    first = json.loads(seen.calls[0].arguments)
    two = cell.row in ("tool-two", "tool-interleaved")
    said = "Let me see." in seen.text if cell.row == "tool-text" else not seen.text
    return first == ({} if cell.row == "tool-no-arguments" else LOOKED) and len(seen.calls) == 1 + two and said


def _whole(case: Case) -> str:
    return "".join(script([Message("user", case.prompt)], CHUNKS))
