"""The runner's edge to an HTTP server in any dialect: each call is an exchange, its bytes become inputs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from understudy.actors.runner.dialect import sent_stops
from understudy.actors.runner.dialects import BY_KIND, openrouter
from understudy.actors.runner.http_call import Call, ChatCall, EmbedCall
from understudy.actors.runner.http_keys import NO_HEADS, NO_KEY, Heads, Keys
from understudy.actors.runner.http_pool import Client
from understudy.actors.runner.list_edge import ListEdge
from understudy.actors.runner.output import StopCut
from understudy.actors.runner.pull_edge import PullEdge
from understudy.actors.runner.record_edge import RecordEdge
from understudy.messages.address import target
from understudy.messages.places import location_of
from understudy.messages.prices import is_priced
from understudy.messages.privacy import Location, Outbound
from understudy.messages.pulls import EndPull, StartPull
from understudy.messages.records import FetchRecord
from understudy.messages.run import RunModel
from understudy.messages.step import (
    CallFailed,
    CallModel,
    CallSent,
    CancelCall,
    FetchFailed,
    FetchList,
    Input,
    RunnerWork,
    Screen,
)
from understudy.messages.topology import Model, Provider

if TYPE_CHECKING:
    from understudy.actors.runner.screener import Screener


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
        self._body = partial(openrouter.body, zdr=True) if provider.zdr else self.dialect.body
        self._lists: ListEdge | None = None
        self._records: RecordEdge
        self._pulls: PullEdge
        self._screener: Screener | None = None
        # Told of each call before it leaves this machine: has it in writing when it returns, or raises.
        self.audit: Callable[..., None] = lambda *_, **__: None
        self.gate_failed: Callable[[Exception], None] = lambda _: None

    async def start(self, feed: Callable[[Input], None]) -> dict[str, Any]:
        """Open the pool. No time limits here: first token, stall and deadline are the selector's.

        Raises ValueError (without the key) where address or key cannot stand in a request.
        """
        self.feed = feed
        if "external" in self._places():
            from understudy.actors.runner.screener import Packs, Screener  # RE2 and its rules: only where needed

            packs = Packs()
            packs.warm_up()
            self._screener = Screener(packs, self.now_ms, feed, self.gate_failed)
        keys, to = Keys(self._provider), target(self._provider.url or "")
        keys.hold(*self._first)
        self._first = (NO_KEY, None)
        self._records = RecordEdge(self._provider, keys.fields, self.now_ms, feed)
        self._pulls = PullEdge(self._provider, keys.fields, self.now_ms, feed)
        if self._provider.catalogue is not None:
            self._lists = ListEdge(self._provider, self._provider.catalogue, keys.fields, self.now_ms, feed)
        connect_s = self._provider.connect_timeout_ms / 1000
        self.client = Client(to, limit=self._provider.max_connections, connect_s=connect_s)
        self.keys, keys.on_forget = keys, self._forgotten
        return {"engine": self.dialect.NAME}

    def perform(self, effect: RunnerWork) -> None:
        """Begin a call or end one. A step is being performed: whatever comes of it is fed later, never from here."""
        match effect:
            case Screen():
                assert self._screener is not None, "models that compute here pass no gate"
                self._screener.screen(effect)
            case CallModel(call_id=call_id, outbound=None, run=run) if self._leads_out(run):
                self._refuse(call_id)  # it has not passed the gate
            case CallModel(call_id=call_id, run=run, outbound=outbound):
                key_id, heads = self.keys.heads() or ("", NO_HEADS)
                model = self._models.get(run.model) or _admitted(run)
                call = self._call(call_id, run, model, heads)
                # One reservation pays for one call.
                call.repeatable = run.price is None and not self._may_cost(model, run)
                call.key_id, self.calls[call_id] = key_id, call
                self.keys.begun(key_id)
                if not key_id:  # the key was revoked: nothing is sent without one
                    asyncio.get_running_loop().call_soon(call.cut, "auth")
                    return
                if outbound is None or self._leaves(call_id, run, outbound, len(call.request)):
                    self.client.send(call)
            case CancelCall(call_id=call_id):
                call = self.calls.get(call_id)
                if call is not None:
                    self.client.cancel(call)
                    asyncio.get_running_loop().call_soon(call.cut, "cancelled")
            case FetchRecord():
                self._records.fetch(effect.record_id, effect.generation)
            case StartPull():
                self._pulls.start(effect)
            case EndPull(pull_id=pull_id):
                self._pulls.end(pull_id)
            case FetchList(list_id=list_id):
                if self._lists is not None:
                    self._lists.fetch(list_id)
                else:
                    none = FetchFailed(self.now_ms(), list_id, "unsupported", "the provider has no `catalogue`")
                    asyncio.get_running_loop().call_soon(self.feed, none)

    def _places(self) -> set[Location]:
        """Where its models compute, those that only its list has too."""
        names = ["", *(one.name or model for model, one in self._models.items())]
        return {location_of(self._provider, name) for name in names}

    def _may_cost(self, model: Model, run: RunModel) -> bool:
        """As far as can be told here: a price that is not declared may stand in the provider's list."""
        listed = model.price_known is None and self._provider.catalogue is not None
        return is_priced(model) or (listed and (self._provider.kind == "openrouter" or self._leads_out(run)))

    def _leads_out(self, run: RunModel) -> bool:
        """Does a call for it leave this machine? Asked again here, of what a call goes by."""
        model = self._models.get(run.model) or _admitted(run)
        return location_of(self._provider, model.name or run.model, run.location) == "external"

    def _leaves(self, call_id: str, run: RunModel, outbound: Outbound, size: int) -> bool:
        """Written down before it leaves: to whom, on whose consent, how much; never content. Else it does not leave."""
        facts = {"provider": outbound.provider, "consent": outbound.consent, "redacted": outbound.redacted}
        try:
            self.audit("outbound", run_id=run.run_id, attempt=run.attempt, model=run.model, bytes=size, **facts)
        except Exception as error:  # noqa: BLE001 - a gate that fails is shut
            self.gate_failed(error)
            self.keys.ended(self.calls.pop(call_id).key_id)
            self._refuse(call_id)
            return False
        asyncio.get_running_loop().call_soon(self.feed, CallSent(self.now_ms(), call_id, size))
        return True

    def _refuse(self, call_id: str) -> None:
        failed = CallFailed(self.now_ms(), call_id, "blocked")
        asyncio.get_running_loop().call_soon(self.feed, failed)

    def _forgotten(self, key_id: str, old: Heads) -> None:
        """Calls with this key that wait for a connection go out with the one in use now, or not at all; those that
        were sent are not sent again."""
        now = self.keys.heads()
        for call in list(self.calls.values()):
            if call.key_id != key_id:
                continue
            if call.connection is not None:
                call.repeatable = False
            elif now is None:
                self.client.cancel(call)
                call.cut("auth")
            else:
                was, head = (old.embed, now[1].embed) if isinstance(call, EmbedCall) else (old.chat, now[1].chat)
                call.request = head + call.request[len(was) :]
                self.keys.ended(key_id)
                call.key_id = now[0]
                self.keys.begun(call.key_id)

    def _call(self, call_id: str, run: RunModel, model: Model, heads: Heads) -> Call:
        name, embeddings = model.name or run.model, self.dialect.EMBEDDINGS
        if run.input and embeddings is not None:
            return EmbedCall(self, call_id, name, _post(heads.embed, embeddings.body(run, name)), run, embeddings)
        request = _post(heads.chat, self._body(run, name, model))
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
        if self._lists is not None:
            await self._lists.stop()
        if hasattr(self, "client"):  # started
            await self.client.close()
            await self._records.stop()
            await self._pulls.stop()


def _admitted(run: RunModel) -> Model:
    """A model that the topology does not name: what the order says of it is all that a body needs. What it costs is not
    known here."""
    window = run.context_tokens or Model(provider="").context_tokens
    return Model(provider="", name=run.name, context_tokens=window, price_known=False)


def _post(head: bytes, payload: bytes) -> bytes:
    return b"%b%d\r\n\r\n%b" % (head, len(payload), payload)
