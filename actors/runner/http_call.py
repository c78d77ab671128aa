"""One call to a provider: its response's bytes become inputs of the runner's step, and one end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Protocol

import msgspec
from msgspec.structs import replace

from understudy.actors.runner.dialect import Dialect, Piece, retry_after_ms, served_by
from understudy.actors.runner.embedding import MAX_BODY_BYTES, Embeddings, NoVectors, vectors_of
from understudy.actors.runner.gather import Gather
from understudy.actors.runner.http_keys import Keys, said_id
from understudy.actors.runner.http_pool import Client
from understudy.actors.runner.http_wire import Exchange, Failure
from understudy.actors.runner.output import InvalidOutput, Output, StopCut
from understudy.actors.runner.quotas import account_until_ms, exhausted_until_ms
from understudy.actors.runner.record_edge import generation
from understudy.actors.runner.sse import Malformed
from understudy.messages.run import RunFailure, RunModel
from understudy.messages.step import CallBegun, CallEnded, CallFailed, CallText, Input
from understudy.messages.tools import Kind, ToolPart

READING_FAULTS = (RecursionError, ValueError, TypeError, LookupError, ArithmeticError)
"""What code of ours may raise of an answer that it did not expect: the call then ends `malformed`, and keeps no slot.
Nothing of it is logged, as the text of such an error may hold the answer's."""
ERROR_BYTES = 65_536
OVER = -1  # one piece more has come than may be passed on
ERROR_S = 1.0
"""So long after its head may the body of an error take; then the call fails with what is known."""


class Edge(Protocol):
    """Who makes calls."""

    dialect: Dialect
    calls: dict[str, Call]
    client: Client
    keys: Keys
    now_ms: Callable[[], float]
    feed: Callable[[Input], None]


class Call(Exchange):
    """What all calls share: an error is read for its reason, and an end is said once."""

    __slots__ = ("_call_id", "_edge", "_error", "_name", "_run", "_timer", "key_id")

    def __init__(self, edge: Edge, call_id: str, name: str, request: bytes, run: RunModel) -> None:
        super().__init__(request)
        self._edge, self._call_id, self._name, self._run = edge, call_id, name, run
        self._error, self.key_id = b"", ""  # of the key in the request
        self._timer: asyncio.TimerHandle | None = None

    def on_head(self) -> None:
        """An error's body is waited for, to tell why, but not for long. What is paid may have a record of its own."""
        if self.status != 200:
            self._timer = asyncio.get_running_loop().call_later(ERROR_S, self._give_up)
        elif self._run.price is not None:
            named = generation(self._edge.dialect.NAME, self.headers)
            if named is not None:
                self._edge.feed(CallBegun(self._edge.now_ms(), self._call_id, named))

    def on_body(self, data: bytes) -> None:
        """A part of the answer, or of an error."""
        if self.status == 200:
            try:
                self.take(data)
            except READING_FAULTS:
                self._unreadable()
            return
        self._error += data
        if len(self._error) >= ERROR_BYTES:
            self._give_up()

    def on_end(self, failure: Failure | None) -> None:
        """The response is over, for good or not."""
        if self.status == 200 and failure is None:
            try:
                self.ended()
            except READING_FAULTS:
                self._unreadable()
        elif self.status in (0, 200):
            self.cut("refused_connection" if failure == "refused" else "broken_stream")
        else:
            headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in self.headers}
            edge, error = self._edge, self._error[:ERROR_BYTES]
            wait_ms, now = retry_after_ms(headers, time.time()), edge.now_ms()
            until_ms = exhausted_until_ms(self._name, self.status, headers, error, now)
            account_ms = account_until_ms(edge.dialect.NAME, self._name, self.status, headers, now)
            if account_ms is not None:
                wait_ms = max(wait_ms or 0, int(account_ms - now))
            self.cut(edge.dialect.reason_of(self.status, error), wait_ms, until_ms, account_ms is not None)

    def cut(
        self,
        reason: RunFailure,
        wait_ms: int | None = None,
        exhausted_until_ms: int | None = None,
        account: bool = False,
    ) -> None:
        """Over without a whole answer; what is held goes out first."""
        if self.over():
            edge, status, key_id = self._edge, self.status or None, said_id(self.key_id)
            now = edge.now_ms()
            failed = CallFailed(now, self._call_id, reason, status, wait_ms, key_id, exhausted_until_ms)
            edge.feed(replace(failed, upstream=self.upstream(), account=account))

    def over(self) -> bool:
        """Leave the calls in hand. False if it had."""
        if self._timer is not None:
            self._timer.cancel()
        if self._edge.calls.get(self._call_id) is not self:
            return False
        del self._edge.calls[self._call_id]
        self._edge.keys.ended(self.key_id)
        self.flush()
        return True

    def upstream(self) -> str | None:
        """Who serves it behind a router, as far as it has been said."""
        return None

    def take(self, data: bytes) -> None:
        """A part of the answer."""
        raise NotImplementedError

    def ended(self) -> None:
        """The body is over."""
        raise NotImplementedError

    def flush(self) -> None:
        """Whatever is held goes out."""

    def _unreadable(self) -> None:
        self._edge.client.cancel(self)
        self.cut("malformed")

    def _give_up(self) -> None:
        self._edge.client.cancel(self)
        self.on_end("broken")


class ChatCall(Call):
    """Text is passed on as it arrives; the answer is whole with the dialect's terminator alone."""

    __slots__ = ("_cut", "_end", "_framing", "_hung_up", "_left", "_out", "_output", "_part_said", "_said")

    def __init__(self, edge: Edge, call_id: str, name: str, request: bytes, run: RunModel, cut: StopCut | None) -> None:
        super().__init__(edge, call_id, name, request, run)
        self._framing, self._end, self._out = edge.dialect.framing(), Piece(), Gather(self._say)
        self._output = Output(run) if run.tools or run.format else None
        self._cut = cut
        self._hung_up = False  # at a stop string, before the provider had said its end
        self._said = False  # whether anything was passed on
        self._part_said = False  # whether text has come since a part of it ended
        limit = run.parameters.max_tokens
        self._left = (
            limit if limit < edge.dialect.LEAST_TOKENS else None
        )  # pieces that may come, where we do the cutting

    def ended(self) -> None:
        """Before the dialect's terminator, any end is a failure; a clean one after the reason to end may not be."""
        if self._end.finish is not None and self._end.failure is None and not self._edge.dialect.NEEDS_DONE:
            self._end_well()
        else:
            self.cut("broken_stream")

    def flush(self) -> None:
        """See `Call`."""
        self._out.flush()

    def upstream(self) -> str | None:
        """See `Call`."""
        return self._end.upstream

    def take(self, data: bytes) -> None:
        """What an arrival says is passed on in one piece, also when it ends in a fault."""
        end, text, count, read = self._end, "", 0, self._edge.dialect.read
        try:
            for field in self._framing.feed(data):
                piece = read(field)
                if self._left is not None:
                    self._limit(piece)
                if piece.text_again:
                    self._tell_again(piece)
                if piece.failure is None and piece.text:
                    text, count = text + piece.text, count + 1
                    self._part_said = True
                end.merge(piece)
                if piece.reasoning or piece.calls:
                    self._pass_on(text, count)
                    text, count = "", 0
                    self._aside(piece)
                if end.done or end.failure is not None:
                    break
        except Malformed:
            end.failure = "malformed"
        except InvalidOutput:
            end.failure = "invalid_output"
        if text and self._cut is None and self._output is None:  # plain chat, which is most of what comes
            self._said = True
            self._out.add(text, count)
        elif text:
            self._pass_on(text, count)
        if end.failure is not None:
            self._edge.client.cancel(self)
            self.cut(end.failure)
        elif end.done and end.finish is not None:
            client = self._edge.client
            (client.cancel if self._cut is not None and self._cut.reached else client.finish)(self)
            self._end_well()
        elif end.done:
            self._edge.client.cancel(self)
            self.cut("broken_stream")

    def _limit(self, piece: Piece) -> None:
        """A limit of tokens too small for the provider: pieces are counted, and what is too much is not passed on.

        The answer is read to its end all the same, for what it has cost.
        """
        if self._left is not None and self._left > OVER and (piece.text or piece.reasoning or piece.calls):
            self._left -= 1
        if self._left == OVER:
            piece.text, piece.reasoning, piece.calls, piece.text_again = "", "", (), ""

    def _tell_again(self, piece: Piece) -> None:
        """The whole text of a part, from a server that has sent it in no other way."""
        if not self._part_said:
            piece.text = piece.text_again
        else:
            self._part_said = False

    def _say(self, text: str, tokens: int, kind: Kind, call: ToolPart | None) -> None:
        self._edge.feed(CallText(self._edge.now_ms(), self._call_id, text, tokens, kind=kind, call=call))

    def _pass_on(self, text: str, count: int) -> None:
        """The answer's text, up to a stop string that the provider does not know."""
        if self._cut is not None and text:
            text = self._cut.feed(text)
            if self._cut.reached and self._end.failure is None:
                self._hung_up = self._hung_up or not self._end.done
                self._end.finish, self._end.done = "stop", True
        if self._output is not None:
            self._output.add(text)
        self._said = self._said or bool(text)
        self._out.add(text, count)

    def _aside(self, piece: Piece) -> None:
        """Reasoning, and pieces of tool calls. Raises InvalidOutput."""
        self._said = True
        if piece.reasoning:
            self._out.aside(piece.reasoning, 1, "reasoning", None)
        for part in piece.calls:
            self._output = self._output or Output(self._run)
            call = self._output.part(part)
            self._out.aside(part.arguments, 1, "tool_call", call)

    def _end_well(self) -> None:
        end, edge = self._end, self._edge
        finish, calls = "refusal" if end.refused else end.finish or "stop", ()
        if self._cut is not None:
            rest = self._cut.rest()
            self._cut = None
            self._pass_on(rest, 1)
        if self._left == OVER and finish in ("stop", "tool_calls"):
            finish = "length"
        if not edge.dialect.TELLS_LENGTH and (end.completion_tokens or 0) >= self._run.parameters.max_tokens:
            finish = "length" if finish == "stop" else finish
        try:
            self._output = self._output or (Output(self._run) if finish == "tool_calls" else None)
            if self._output is not None:
                finish, calls = self._output.judge(finish)
        except InvalidOutput:
            self.cut("invalid_output")
            return
        if self._hung_up:  # what had been counted by then is not what will be billed
            end.completion_tokens = end.cost_usd = None
        if self.over():
            ended = CallEnded(
                edge.now_ms(),
                self._call_id,
                finish,
                end.prompt_tokens or None,  # nobody reads nothing: a 0 is no count
                end.completion_tokens or (None if self._said else end.completion_tokens),
                served_by=served_by(end.model, self._name),
                tool_calls=calls,
                key_id=said_id(self.key_id),
                cached_tokens=end.cached_tokens,
                reasoning_tokens=end.reasoning_tokens,
                cost_usd=end.cost_usd,
                upstream=end.upstream,
            )
            edge.feed(ended)


class EmbedCall(Call):
    """The whole body, then its vectors."""

    __slots__ = ("_body", "_dialect")

    def __init__(self, edge: Edge, call_id: str, name: str, request: bytes, run: RunModel, dialect: Embeddings) -> None:
        super().__init__(edge, call_id, name, request, run)
        self._dialect, self._body = dialect, bytearray()

    def take(self, data: bytes) -> None:
        """See `Call`."""
        self._body += data
        if len(self._body) > MAX_BODY_BYTES:
            self._edge.client.cancel(self)
            self.cut("malformed")

    def ended(self) -> None:
        """See `Call`."""
        edge = self._edge
        try:
            found = vectors_of(self._dialect, bytes(self._body), self._run)
        except NoVectors as error:
            self.cut(error.reason)
            return
        vectors = msgspec.json.encode(found.vectors).decode()
        if self.over():
            served = served_by(found.model, self._name)
            ended = CallEnded(
                edge.now_ms(),
                self._call_id,
                "stop",
                found.prompt_tokens or None,
                0,
                served_by=served,
                vectors=vectors,
                key_id=said_id(self.key_id),
            )
            edge.feed(ended)
