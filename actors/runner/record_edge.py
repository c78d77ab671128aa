"""Looks up what an answer cost in its provider's own records, on connections of its own: no call waits for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from understudy.actors.runner.dialects import openrouter_record
from understudy.actors.runner.http_pool import Client
from understudy.actors.runner.http_wire import Exchange, Failure, get_request
from understudy.messages.address import target
from understudy.messages.records import RecordFault, RecordFetched
from understudy.messages.step import Input
from understudy.messages.topology import Provider

RECORDS = {"openrouter": openrouter_record}
"""Who has records, by the provider's kind."""
ANSWER_S = 10.0
ANSWER_BYTES = 65_536
CONNECTIONS = 2


def generation(kind: str, headers: Iterable[tuple[bytes, bytes]]) -> str | None:
    """Under which id an answer with this head will have a record; None where there are none."""
    form = RECORDS.get(kind)
    return form.generation(headers) if form is not None else None


class _Look(Exchange):
    """One record, wanted whole; `said` is called once."""

    __slots__ = ("_body", "_said", "_timer", "_wanted")

    def __init__(self, request: bytes, wanted: str, said: Callable[[str | None, RecordFault | None], None]) -> None:
        super().__init__(request)
        self._body, self._wanted, self._said = b"", wanted, said
        self._timer: asyncio.TimerHandle | None = None

    def send(self, client: Client) -> None:
        """Begin, for a while."""
        self._timer = asyncio.get_running_loop().call_later(ANSWER_S, self._late, client)
        client.send(self)

    def _late(self, client: Client) -> None:
        client.cancel(self)
        self._said(None, "unreachable")

    def on_body(self, data: bytes) -> None:
        """Keep it, up to a limit: what is longer is no record."""
        self._body = (self._body + data)[: ANSWER_BYTES + 1]

    def on_end(self, failure: Failure | None) -> None:
        """Whole, or not."""
        assert self._timer is not None
        self._timer.cancel()
        if failure is not None or not self.status:
            self._said(None, "unreachable")
        elif self.status != 200:
            self._said(None, "not_yet" if self.status == 404 else "status")
        else:
            usd = openrouter_record.cost_usd(self._body, self._wanted)
            self._said(usd, "malformed" if usd is None else None)


class RecordEdge:
    """Performs `FetchRecord`. `keys` gives the header fields with the key in use; None: nothing may be sent."""

    def __init__(
        self,
        provider: Provider,
        keys: Callable[[], dict[str, str] | None],
        now_ms: Callable[[], float],
        feed: Callable[[Input], None],
    ) -> None:
        """Belongs to the running loop. Raises ValueError where the address cannot be used."""
        self._to, self._keys, self._now_ms, self._feed = target(provider.url or ""), keys, now_ms, feed
        self._has_records = provider.kind in RECORDS
        self._client = Client(self._to, limit=CONNECTIONS, connect_s=provider.connect_timeout_ms / 1000)

    def fetch(self, record_id: str, generation: str) -> None:
        """Begin; the end is fed later, never from here."""

        def said(usd: str | None, fault: RecordFault | None) -> None:
            self._feed(RecordFetched(self._now_ms(), record_id, usd, fault))

        keyed = self._keys()
        if not self._has_records or keyed is None:
            fault: RecordFault = "status" if self._has_records else "unsupported"
            asyncio.get_running_loop().call_soon(said, None, fault)
            return
        path = openrouter_record.PATH + generation
        _Look(get_request(self._to, path, {"Accept": "application/json", **keyed}), generation, said).send(self._client)

    async def stop(self) -> None:
        """End what is in hand: who asked hears nothing, and asks again."""
        await self._client.close()
