"""The runner's edge to an HTTP server in any dialect: each call is an exchange, its bytes become inputs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from understudy.actors.runner.address import target
from understudy.actors.runner.dialect import Piece, retry_after_ms, served_by
from understudy.actors.runner.dialects import BY_KIND
from understudy.actors.runner.gather import Gather
from understudy.actors.runner.http_pool import Client
from understudy.actors.runner.http_wire import Exchange, Failure, post_head
from understudy.actors.runner.output import InvalidOutput, Output, StopCut
from understudy.actors.runner.sse import Malformed
from understudy.messages.run import RunFailure, RunModel
from understudy.messages.step import CallEnded, CallFailed, CallModel, CallText, CancelCall, Input
from understudy.messages.tools import Kind, ToolPart
from understudy.messages.topology import Model, Provider

ERROR_BYTES = 65_536
ERROR_S = 1.0
"""So long after its head may the body of an error take; then the call fails with what is known."""


class HttpEdge:
    """Performs `CallModel` against `provider.url`. The key, where there is one, stays in this process's memory."""

    def __init__(self, provider: Provider, models: dict[str, Model], key: str | None, now_ms: Callable[[], float]):
        self._provider, self._models, self._key, self.now_ms = provider, models, key, now_ms
        self.dialect = BY_KIND[provider.kind]
        self.calls: dict[str, Call] = {}
        self.feed: Callable[[Input], None] = lambda _: None
        self.client: Client
        self._head = b""

    async def start(self, feed: Callable[[Input], None]) -> dict[str, Any]:
        """Open the pool. No time limits here: first token, stall and deadline are the selector's.

        Raises ValueError (without the key) where address or key cannot stand in a request.
        """
        self.feed = feed
        to = target(self._provider.url or "")
        fields = {"Content-Type": "application/json", "Accept": self.dialect.ACCEPT}
        head = post_head(to, self.dialect.PATH, fields | self.dialect.key_fields(self._key))
        connect_s = self._provider.connect_timeout_ms / 1000
        self.client = Client(to, limit=self._provider.max_connections, connect_s=connect_s)
        self._head = head
        return {"engine": self.dialect.NAME}

    def perform(self, effect: CallModel | CancelCall) -> None:
        """Begin a call or end one. A step is being performed: whatever comes of it is fed later, never from here."""
        match effect:
            case CallModel(call_id=call_id, run=run):
                model = self._models[run.model]
                name = model.name or run.model
                payload = self.dialect.body(run, name, model)
                request = b"%b%d\r\n\r\n%b" % (self._head, len(payload), payload)
                call = Call(self, call_id, name, request, run, self.cuts(run, model))
                self.calls[call_id] = call
                self.client.send(call)
            case CancelCall(call_id=call_id):
                call = self.calls.get(call_id)
                if call is not None:
                    self.client.cancel(call)
                    asyncio.get_running_loop().call_soon(call.cut, "cancelled")

    def cuts(self, run: RunModel, model: Model) -> StopCut | None:
        """Stop strings are watched for here where the provider, or the model, knows none."""
        stops = run.parameters.stop
        known = self.dialect.KNOWS_STOP and "stop" not in model.refuses
        return StopCut(stops) if stops and not known else None

    async def stop(self) -> None:
        """End all calls and the pool."""
        for call in list(self.calls.values()):
            self.client.cancel(call)
            call.cut("cancelled")
        if self._head:  # started
            await self.client.close()


class Call(Exchange):
    """One call: text is passed on as it arrives, and one end."""

    __slots__ = (
        "_call_id",
        "_cut",
        "_edge",
        "_end",
        "_error",
        "_framing",
        "_name",
        "_out",
        "_output",
        "_run",
        "_timer",
    )

    def __init__(
        self, edge: HttpEdge, call_id: str, name: str, request: bytes, run: RunModel, cut: StopCut | None
    ) -> None:
        super().__init__(request)
        self._run, self._cut = run, cut
        self._output = Output(run) if run.tools or run.format else None
        self._edge, self._call_id, self._name = edge, call_id, name
        self._framing, self._end, self._out = edge.dialect.framing(), Piece(), Gather(self._say)
        self._error = b""
        self._timer: asyncio.TimerHandle | None = None

    def on_head(self) -> None:
        """An error's body is waited for, to tell why, but not for long."""
        if self.status != 200:
            self._timer = asyncio.get_running_loop().call_later(ERROR_S, self._give_up)

    def on_body(self, data: bytes) -> None:
        """Events of the stream, or a part of an error."""
        if self.status == 200:
            self._read(data)
            return
        self._error += data
        if len(self._error) >= ERROR_BYTES:
            self._give_up()

    def on_end(self, failure: Failure | None) -> None:
        """Before the dialect's terminator, any end is a failure."""
        if self.status in (0, 200):
            self.cut("refused_connection" if failure == "refused" else "broken_stream")
        else:
            headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in self.headers}
            reason = self._edge.dialect.reason_of(self.status, self._error[:ERROR_BYTES])
            self.cut(reason, retry_after_ms(headers, time.time()))

    def cut(self, reason: RunFailure, retry_after_ms: int | None = None) -> None:
        """Over without a whole answer; what is held goes out first."""
        if self._over():
            edge = self._edge
            edge.feed(CallFailed(edge.now_ms(), self._call_id, reason, self.status or None, retry_after_ms))

    def _over(self) -> bool:
        """Leave the calls in hand. False if it had."""
        if self._timer is not None:
            self._timer.cancel()
        if self._edge.calls.get(self._call_id) is not self:
            return False
        del self._edge.calls[self._call_id]
        self._out.flush()
        return True

    def _give_up(self) -> None:
        self._edge.client.cancel(self)
        self.on_end("broken")

    def _say(self, text: str, tokens: int, kind: Kind, call: ToolPart | None) -> None:
        self._edge.feed(CallText(self._edge.now_ms(), self._call_id, text, tokens, kind=kind, call=call))

    def _read(self, data: bytes) -> None:
        """What an arrival says is passed on in one piece, also when it ends in a fault."""
        end, text, count, read = self._end, "", 0, self._edge.dialect.read
        try:
            for field in self._framing.feed(data):
                piece = read(field)
                if piece.failure is None and piece.text:
                    text, count = text + piece.text, count + 1
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
        self._pass_on(text, count)
        if end.done and end.finish is not None:
            client = self._edge.client
            (client.cancel if self._cut is not None and self._cut.reached else client.finish)(self)
            self._end_well()
        elif end.done or end.failure is not None:
            self._edge.client.cancel(self)
            self.cut(end.failure or "broken_stream")

    def _pass_on(self, text: str, count: int) -> None:
        """The answer's text, up to a stop string that the provider does not know."""
        if self._cut is not None and text:
            text = self._cut.feed(text)
            if self._cut.reached:
                self._end.finish, self._end.done = "stop", True
        if self._output is not None:
            self._output.add(text)
        self._out.add(text, count)

    def _aside(self, piece: Piece) -> None:
        """Reasoning, and pieces of tool calls. Raises InvalidOutput."""
        if piece.reasoning:
            self._out.aside(piece.reasoning, 1, "reasoning", None)
        for part in piece.calls:
            self._output = self._output or Output(self._run)
            self._out.aside(part.arguments, 1, "tool_call", self._output.part(part))

    def _end_well(self) -> None:
        end, edge, finish, calls = self._end, self._edge, self._end.finish or "stop", ()
        if self._cut is not None:
            self._pass_on_rest(self._cut.rest())
        try:
            if self._output is not None:
                finish, calls = self._output.judge(finish)
        except InvalidOutput:
            self.cut("invalid_output")
            return
        if self._over():
            tokens = end.prompt_tokens, end.completion_tokens
            served = served_by(end.model, self._name)
            ended = CallEnded(edge.now_ms(), self._call_id, finish, *tokens, served_by=served, tool_calls=calls)
            edge.feed(ended)

    def _pass_on_rest(self, text: str) -> None:
        if self._output is not None:
            self._output.add(text)
        self._out.add(text, 1)
