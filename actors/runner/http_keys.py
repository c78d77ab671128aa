"""The keys of one provider in the process that uses them: which one new calls carry, and does the provider take one."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

from understudy.actors.runner.dialects import BY_KIND
from understudy.actors.runner.http_pool import Client
from understudy.actors.runner.http_wire import Exchange, Failure, get_request, post_head
from understudy.messages.address import Target, target
from understudy.messages.topology import Provider

CHECK_S = 10.0  # twice it is less than the supervisor waits
REFUSED = (401, 403)
NO_KEY = "none"
"""The id where a provider wants no key."""


class Checked(NamedTuple):
    """What a provider says of a key. Where not `known`, its answer tells nothing: `ok` is False then too."""

    ok: bool
    why: str = ""
    status: int | None = None
    known: bool = True


class Heads(NamedTuple):
    """Heads of requests, with a key in them, which is not shown."""

    chat: bytes = b""
    embed: bytes = b""  # where the dialect has embeddings

    def __repr__(self) -> str:
        """Without the key."""
        return "Heads()"


NO_HEADS = Heads()


def said_id(key_id: str) -> str | None:
    """A key's id as others are told; None where there is no key."""
    return key_id if key_id not in ("", NO_KEY) else None


class Keys:
    """Request heads by key id. New calls carry the key in use; calls under way keep theirs."""

    def __init__(self, provider: Provider) -> None:
        """Raises ValueError (BadAddress) where the provider's address cannot be used."""
        self._provider, self._dialect = provider, BY_KIND[provider.kind]
        self._to: Target = target(provider.url or "")
        self._heads: dict[str, Heads] = {}
        self._texts: dict[str, str] = {}
        self.in_use: str | None = None
        self._in_hand: Counter[str] = Counter()
        self._watched: set[asyncio.Event] = set()
        self.on_forget: Callable[[str, Heads], None] = lambda _, __: None

    def __repr__(self) -> str:
        """Ids alone."""
        return f"Keys({', '.join(self._heads)})"

    def hold(self, key_id: str, key: str | None) -> None:
        """Have a key at hand; the first is used at once. Raises ValueError (without it) where it cannot be sent."""
        keyed, embeddings = self._dialect.key_fields(key), self._dialect.EMBEDDINGS
        fields = {"Content-Type": "application/json", "Accept": self._dialect.ACCEPT}
        heads = Heads(post_head(self._to, self._dialect.PATH, fields | keyed))
        if embeddings is not None:
            fields["Accept"] = "application/json"
            heads = Heads(heads.chat, post_head(self._to, embeddings.PATH, fields | keyed))
        self._heads[key_id], self._texts[key_id] = heads, key or ""
        if len(self._heads) == 1:
            self.in_use = key_id

    def use(self, key_id: str) -> None:
        """For new calls from now on. Raises KeyError where it is not held."""
        if key_id not in self._heads:
            raise KeyError(key_id)
        self.in_use = key_id
        self._changed()

    def forget(self, key_id: str) -> None:
        """Calls that were sent end on it; no other begins. Where it was in use, none begins at all."""
        heads = self._heads.pop(key_id, None)
        self._texts.pop(key_id, None)
        if self.in_use == key_id:
            self.in_use = None
        if heads is not None:
            self.on_forget(key_id, heads)
        self._changed()

    def heads(self) -> tuple[str, Heads] | None:
        """Id and request heads of the key in use; None: there is none, and nothing may be sent."""
        return None if self.in_use is None else (self.in_use, self._heads[self.in_use])

    def fields(self) -> dict[str, str] | None:
        """Header fields with the key in use, for requests that are no calls; None: nothing may be sent."""
        return None if self.in_use is None else self._dialect.key_fields(self._texts[self.in_use] or None)

    def begun(self, key_id: str) -> None:
        """A call is under way."""
        self._in_hand[key_id] += 1

    def ended(self, key_id: str) -> None:
        """It is over."""
        self._in_hand[key_id] -= 1
        self._changed()

    def _changed(self) -> None:
        for watched in self._watched:
            watched.set()

    async def others_ended(self, key_id: str, within_ms: float) -> int:
        """Wait until no call with another key is under way, or another key is used; how many still are then, or when
        the time is over."""
        watched = asyncio.Event()
        self._watched.add(watched)
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(within_ms / 1000):
                    while self._on_others(key_id) and self.in_use == key_id:
                        watched.clear()
                        await watched.wait()
        finally:
            self._watched.discard(watched)
        return self._on_others(key_id)

    def _on_others(self, key_id: str) -> int:
        return sum(count for other, count in self._in_hand.items() if other != key_id)

    async def check(self, key_id: str) -> Checked:
        """Does the provider take a key that is held? Raises KeyError where it is not."""
        return await check(self._provider, self._texts[key_id])


async def check(provider: Provider, key: str) -> Checked:
    """Ask the provider something cheap with this key: whether it takes it, else why not, and the HTTP status.

    Some show their list of models to everybody, so one that takes the key is asked with one that cannot be good.
    """
    path = BY_KIND[provider.kind].CHECK
    if path is None:
        return Checked(False, f"cannot be checked: {provider.kind} has nothing to ask with a key", known=False)
    said = await _ask(provider, path, key)
    if not said.ok:
        return said
    other = await _ask(provider, path, f"no-key-{secrets.token_hex(16)}")
    if other.status in REFUSED:
        return said
    why = "it answers any key" if other.ok else f"of a wrong key it says: {other.why}"
    return Checked(False, f"cannot be checked: where the provider is asked ({path}), {why}", other.status, known=False)


async def _ask(provider: Provider, path: str, key: str) -> Checked:
    dialect, to = BY_KIND[provider.kind], target(provider.url or "")
    exchange = _Check(get_request(to, path, {"Accept": "application/json"} | dialect.key_fields(key)))
    client = Client(to, limit=1, connect_s=provider.connect_timeout_ms / 1000)
    try:
        client.send(exchange)
        async with asyncio.timeout(CHECK_S):
            failure = await exchange.ended
    except TimeoutError:
        return Checked(False, f"the provider has not answered within {CHECK_S:g} s", known=False)
    finally:
        client.cancel(exchange)
        await client.close()
    status = exchange.status
    if status == 200 and failure is None:
        return Checked(True, "", status)
    if status in REFUSED:
        return Checked(False, f"the provider refuses the key ({status})", status)
    why = f"status {status}" if status else "no connection" if failure == "refused" else "no answer"
    return Checked(False, f"whether the provider takes the key is not known: {why}", status or None, known=False)


class _Check(Exchange):
    """Its body is of no interest."""

    __slots__ = ("ended",)

    def __init__(self, request: bytes) -> None:
        super().__init__(request)
        self.ended: asyncio.Future[Failure | None] = asyncio.get_running_loop().create_future()

    def on_end(self, failure: Failure | None) -> None:
        """Over."""
        if not self.ended.done():
            self.ended.set_result(failure)
