"""The runner's edge to an HTTP server in any dialect: each call is an exchange, its bytes become inputs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from understudy.actors.runner.address import target
from understudy.actors.runner.dialect import sent_stops
from understudy.actors.runner.dialects import BY_KIND
from understudy.actors.runner.http_call import Call, ChatCall, EmbedCall
from understudy.actors.runner.http_keys import NO_HEADS, NO_KEY, Heads, Keys
from understudy.actors.runner.http_pool import Client
from understudy.actors.runner.output import StopCut
from understudy.messages.prices import is_priced
from understudy.messages.run import RunModel
from understudy.messages.step import CallModel, CancelCall, Input
from understudy.messages.topology import Model, Provider


class HttpEdge:
    """Performs `CallModel` against `provider.url`. Keys, where there are any, stay in this process's memory."""

    def __init__(
        self,
        provider: Provider,
        models: dict[str, Model],
        key: str | None,
        now_ms: Callable[[], float],
        key_id: str = NO_KEY,
    ):
        self._provider, self._models, self.now_ms = provider, models, now_ms
        self._first = (key_id, key)
        self.keys: Keys
        self.dialect = BY_KIND[provider.kind]
        self.calls: dict[str, Call] = {}
        self.feed: Callable[[Input], None] = lambda _: None
        self.client: Client

    async def start(self, feed: Callable[[Input], None]) -> dict[str, Any]:
        """Open the pool. No time limits here: first token, stall and deadline are the selector's.

        Raises ValueError (without the key) where address or key cannot stand in a request.
        """
        self.feed = feed
        keys, to = Keys(self._provider), target(self._provider.url or "")
        keys.hold(*self._first)
        self._first = (NO_KEY, None)
        connect_s = self._provider.connect_timeout_ms / 1000
        self.client = Client(to, limit=self._provider.max_connections, connect_s=connect_s)
        self.keys = keys
        return {"engine": self.dialect.NAME}

    def perform(self, effect: CallModel | CancelCall) -> None:
        """Begin a call or end one. A step is being performed: whatever comes of it is fed later, never from here."""
        match effect:
            case CallModel(call_id=call_id, run=run):
                key_id, heads = self.keys.heads() or ("", NO_HEADS)
                model = self._models[run.model]
                call = self._call(call_id, run, model, heads)
                call.repeatable = not is_priced(model)  # one reservation pays for one call
                call.key_id, self.calls[call_id] = key_id, call
                self.keys.begun(key_id)
                if key_id:
                    self.client.send(call)
                else:  # the key was revoked: nothing is sent without one
                    asyncio.get_running_loop().call_soon(call.cut, "auth")
            case CancelCall(call_id=call_id):
                call = self.calls.get(call_id)
                if call is not None:
                    self.client.cancel(call)
                    asyncio.get_running_loop().call_soon(call.cut, "cancelled")

    def _call(self, call_id: str, run: RunModel, model: Model, heads: Heads) -> Call:
        name, embeddings = model.name or run.model, self.dialect.EMBEDDINGS
        if run.input and embeddings is not None:
            return EmbedCall(self, call_id, name, _post(heads.embed, embeddings.body(run, name)), run, embeddings)
        request = _post(heads.chat, self.dialect.body(run, name, model))
        return ChatCall(self, call_id, name, request, run, self._cut(run, model))

    def _cut(self, run: RunModel, model: Model) -> StopCut | None:
        """Stop strings are watched for here where the provider, or the model, knows them not."""
        wanted = run.parameters.stop
        known = sent_stops(model, self.dialect.stops(wanted))
        ours = tuple(stop for stop in wanted if stop not in known)
        return StopCut(ours) if ours else None

    async def stop(self) -> None:
        """End all calls and the pool."""
        for call in list(self.calls.values()):
            self.client.cancel(call)
            call.cut("cancelled")
        if hasattr(self, "client"):  # started
            await self.client.close()


def _post(head: bytes, payload: bytes) -> bytes:
    return b"%b%d\r\n\r\n%b" % (head, len(payload), payload)
