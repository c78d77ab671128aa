"""What a model's answer must be when tools or JSON were asked for, and where it must end. Pure, one object per call."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

from understudy.actors.runner.dialect import CallPiece
from understudy.messages.json_schema import decoded, fits
from understudy.messages.run import RunModel
from understudy.messages.tools import AUTO, NONE, REQUIRED, CallId, ToolCall, ToolPart


class InvalidOutput(Exception):
    """The answer is whole, but none of the kind that was asked for. What it says instead is content: not told."""


@dataclass(slots=True)
class _Call:
    part: ToolPart
    said_id: str
    arguments: str = ""


class Output:
    """Collects what is judged at the end: tool calls, and the text where it must be JSON."""

    __slots__ = ("_calls", "_open", "_run", "_text")

    def __init__(self, run: RunModel) -> None:
        self._run = run
        self._calls: list[_Call] = []
        self._open: dict[int, _Call] = {}  # by the provider's own index, which may begin anywhere
        self._text: list[str] = []

    def add(self, text: str) -> None:
        """The answer's text, in order."""
        if self._run.format is not None:
            self._text.append(text)

    def part(self, piece: CallPiece) -> ToolPart:
        """Which call a piece belongs to, counted from 0; its id and name are told once.

        Some servers repeat both with every piece, some give no id, some the same to every call. Arguments that only
        repeat what has come are taken out of the piece. Raises InvalidOutput for a call that nobody offered, or without
        a name.
        """
        call = None if piece.whole else self._open.get(piece.index)
        if call is not None and not (piece.name and piece.id and call.said_id not in ("", piece.id)):
            if piece.again and call.arguments:
                piece.arguments = ""
            call.arguments += piece.arguments
            return ToolPart(index=call.part.index)
        if not piece.name or not self._run.tools:
            raise InvalidOutput
        index = len(self._calls)
        part = ToolPart(index=index, id=self._new_id(piece.id, index), name=piece.name)
        call = self._open[piece.index] = _Call(part, piece.id, piece.arguments)
        self._calls.append(call)
        return part

    def _new_id(self, said: str, index: int) -> str:
        given = {call.part.id for call in self._calls}
        known = _id(said)
        if known is not None and known not in given:
            return known
        ours = f"call_{self._run.run_id}_{index}"
        while ours in given:
            ours += "_"
        return ours

    def judge(self, finish: str) -> tuple[str, tuple[ToolCall, ...]]:
        """The finish reason and the calls. Raises InvalidOutput.

        An answer that a limit or a refusal has cut is what it is: whole calls are kept, and no JSON is expected.
        """
        if finish not in ("stop", "tool_calls"):
            return finish, tuple(self._whole(call) for call in self._calls if self._survives(call))
        calls = tuple(self._whole(call) for call in self._calls)
        if not _wanted(self._run, calls) or (finish == "tool_calls" and not calls):
            raise InvalidOutput
        if calls:
            return "tool_calls", calls
        if self._run.format is not None:
            self._judge_json()
        return finish, ()

    def _survives(self, call: _Call) -> bool:
        """A last call without arguments may have been cut before them; one that another call follows was not."""
        return (
            self._is_offered(call) and _is_whole(call) and bool(call.arguments.strip() or call is not self._calls[-1])
        )

    def _is_offered(self, call: _Call) -> bool:
        return call.part.name in {tool.name for tool in self._run.tools}

    def _whole(self, call: _Call) -> ToolCall:
        if not self._is_offered(call) or not _is_whole(call):
            raise InvalidOutput
        return ToolCall(id=call.part.id, name=call.part.name, arguments=call.arguments.strip() or "{}")

    def _judge_json(self) -> None:
        wanted = self._run.format
        assert wanted is not None
        value = _decoded("".join(self._text))
        if not (isinstance(value, dict) if wanted.schema is None else fits(wanted.schema, value)):
            raise InvalidOutput


def _wanted(run: RunModel, calls: tuple[ToolCall, ...]) -> bool:
    """Are there calls where there must be some, none where there must be none, and of the tool that was named?"""
    match run.tool_choice:
        case choice if choice == AUTO:
            return True
        case choice if choice == NONE:
            return not calls
        case choice if choice == REQUIRED:
            return bool(calls)
        case name:
            return bool(calls) and all(call.name == name for call in calls)


def _is_whole(call: _Call) -> bool:
    """A tool without arguments may be called with none at all."""
    try:
        return not call.arguments.strip() or isinstance(_decoded(call.arguments), dict)
    except InvalidOutput:
        return False


def _decoded(text: str) -> Any:
    try:
        return decoded(text)
    except ValueError:
        raise InvalidOutput from None


def _id(said: str) -> str | None:
    try:
        return msgspec.convert(said, CallId)
    except msgspec.ValidationError:
        return None


class StopCut:
    """Ends a text at the first stop string, for a provider that knows none.

    Held back is what may be the beginning of one, so that no part of a stop string is ever passed on.
    """

    __slots__ = ("_held", "_stops", "reached")

    def __init__(self, stops: tuple[str, ...]) -> None:
        self._stops, self._held, self.reached = stops, "", False

    def feed(self, text: str) -> str:
        """What may be passed on now."""
        if self.reached:
            return ""
        text = self._held + text
        found = [at for at in (text.find(stop) for stop in self._stops) if at >= 0]
        if found:
            self.reached, self._held = True, ""
            return text[: min(found)]
        begun = max((n for s in self._stops for n in range(1, len(s)) if text.endswith(s[:n])), default=0)
        self._held = text[len(text) - begun :]
        return text[: len(text) - begun]

    def rest(self) -> str:
        """The answer ended: nothing is held back any longer."""
        held, self._held = self._held, ""
        return held
