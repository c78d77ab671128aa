"""One performance graph over Bolt: the lease, batches closed by a compare-and-set, halves, the checksum.

Whatever may happen twice or half is decided here: a batch is one transaction, which first writes to the Projection
node (so that any other writer waits), then compares fence and position with what the caller expects, and whose last
statement moves the position on. A batch whose answer was lost is therefore either in the graph, and the position says
so, or it is not. What has become too old goes in a transaction of its own before the first batch of a day.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import msgspec
from neo4j import AsyncDriver, AsyncGraphDatabase, AsyncManagedTransaction, AsyncSession
from neo4j.exceptions import DriverError, Neo4jError

from understudy.actors.projector import cypher
from understudy.actors.projector.place import Held, NotOurs, Place, Retention
from understudy.actors.projector.rows import Facts, Rows
from understudy.messages.graph import Half, Incident

AT_ONCE = 2_000
"""Rows of one statement, and nodes that are deleted in one transaction."""
RETRY_S = 5.0
T = TypeVar("T")
BoltError = (DriverError, Neo4jError, OSError)
"""What the driver raises where a graph cannot be reached or refuses."""


class Graph:
    """A database with (at most) one performance graph in each half.

    Every method raises `BoltError` where the graph does not answer or refuses; those that write raise NotOurs where
    `fence` is not the newest.
    """

    errors = BoltError

    def __init__(
        self, uri: str, user: str, password: str, database: str, now_ms: Callable[[], float], keep: Retention
    ) -> None:
        """Connects at the first use. An empty `user` means that the server asks for none."""
        auth = (user, password) if user else None
        self._driver: AsyncDriver = AsyncGraphDatabase.driver(
            uri,
            auth=auth,
            max_connection_pool_size=8,
            connection_timeout=5.0,
            max_transaction_retry_time=RETRY_S,
            initial_retry_delay=0.05,
            notifications_min_severity="OFF",
        )
        self._database, self._now_ms, self._keep = database, now_ms, keep

    async def close(self) -> None:
        """Close all connections."""
        await self._driver.close()

    def session(self) -> AsyncSession:
        """Of our database."""
        return self._driver.session(database=self._database)

    async def rows(self, statement: str, **parameters: Any) -> list[list[Any]]:
        """What a reading statement returns."""
        async with self.session() as session:
            return await session.execute_read(_all, statement, parameters)

    async def _in_transaction(self, work: Callable[[AsyncManagedTransaction], Awaitable[T]]) -> T:
        async with self.session() as session:
            return await session.execute_write(work)

    # --- lease -----------------------------------------------------------------------------------------------------

    async def prepare(self) -> None:
        """Constraints, the Projection node."""
        async with self.session() as session:
            for statement in cypher.schema():
                await (await session.run(_query(statement))).consume()
            for statement in (cypher.MAKE, cypher.MAKE_LEASE):
                await session.execute_write(_run, statement, {"name": cypher.NAME})

    async def look(self) -> Place | None:
        """Where the projection stands; None before the first one."""
        async with self.session() as session:
            found = await session.execute_read(_dict, cypher.LOOK, {"name": cypher.NAME})
        return None if found is None else _place(found)

    async def take(self, holder: str, stream: str, lease_ms: int) -> Place:
        """The lease is ours: the newest fence. A batch of somebody else that is under way is waited for, or fails.
        Raises Held."""

        async def work(tx: AsyncManagedTransaction) -> Place:
            self._refuse_held(await _one(tx, cypher.LOOK_LEASE), holder)  # who waits for it writes nothing
            lease = await _one(tx, cypher.LOCK_LEASE, lock=holder)
            self._refuse_held(lease, holder)
            now = int(self._now_ms())
            place = await _lock(tx)
            fence = max(place.fence, lease["fence"]) + 1
            until = now + lease_ms
            await _one(tx, cypher.SET_LEASE, have=lease["fence"], fence=fence, holder=holder, until_ms=until)
            await _one(tx, cypher.FENCE, have=place.fence, fence=fence, stream=stream)
            return msgspec.structs.replace(place, fence=fence, stream=stream)

        return await self._in_transaction(work)

    def _refuse_held(self, lease: dict[str, Any], holder: str) -> None:
        if lease["holder"] not in ("", holder) and lease["until_ms"] > self._now_ms():
            raise Held(lease["holder"], lease["until_ms"])

    async def renew(self, fence: int, lease_ms: int) -> None:
        """We are here. `lease_ms` 0 gives the lease back."""

        async def work(tx: AsyncManagedTransaction) -> None:
            lease = await _one(tx, cypher.LOCK_LEASE, lock="")
            if lease["fence"] != fence:
                raise NotOurs(f"{lease['holder']} has fence {lease['fence']}; ours was {fence}")
            until = int(self._now_ms()) + lease_ms if lease_ms else 0
            await _one(tx, cypher.SET_LEASE, have=fence, fence=fence, holder=lease["holder"], until_ms=until)

        await self._in_transaction(work)

    async def incidents(self, prefix: str) -> tuple[Incident, ...]:
        """Those that last."""
        found = await self.rows(cypher.of(cypher.OPEN_INCIDENTS, prefix))
        return tuple(Incident(key, subject, kind, reason, at, 0, n) for key, subject, kind, reason, at, n in found)

    async def written(self, prefix: str) -> dict[str, Facts]:
        """The models of a half."""
        return {key: Facts(*facts) for key, *facts in await self.rows(cypher.of(cypher.WRITTEN, prefix))}

    # --- batches ---------------------------------------------------------------------------------------------------

    async def write(self, prefix: str, fence: int, have: int, upto: int, day: int, rows: Rows) -> None:
        """A batch, whole: from position `have` to `upto`. Raises NotOurs where the half is elsewhere.

        What is too old goes before it, in a transaction of its own: a second time it finds nothing, and a batch that
        is written beside 10,000 deletions takes half as long again.
        """
        ready = rows.ready or cypher.batch(rows, self._keep.gone(day))
        statements = [(cypher.of(text, prefix), some) for text, some in ready]

        async def swept(tx: AsyncManagedTransaction) -> None:
            if await _stands(tx, prefix, fence, have, upto) is not None:
                await self._sweep(tx, prefix, rows.sweep, weekly=rows.new_week)

        async def work(tx: AsyncManagedTransaction) -> None:
            part = await _stands(tx, prefix, fence, have, upto)
            if part is None:
                return
            for text, some in statements:
                for at in range(0, len(some), AT_ONCE):
                    await _run(tx, text, {"rows": some[at : at + AT_ONCE]})
            await _one(tx, cypher.advance(part), fence=fence, have=have, upto=upto, day=day)

        if rows.sweep:
            await self._in_transaction(swept)
        await self._in_transaction(work)

    async def _sweep(self, tx: AsyncManagedTransaction, prefix: str, day: int, *, weekly: bool) -> None:
        """What is older than it is kept: of hours their days stay, what was rare goes; with `weekly` days go too."""
        limits = self._keep.limits(day)
        ((found,),) = await _all(tx, cypher.of(cypher.OLDEST, prefix), {})
        oldest = float("inf") if found is None else found
        go = (*(cypher.HOURS_GO if oldest < limits["before"] else ()), *cypher.RARE_GO)
        if weekly:
            go += (*(cypher.DAYS_GO if oldest < limits["week_before"] else ()), *cypher.SERIES_GO)
        for statement in go:
            await _run(tx, cypher.of(statement, prefix), limits)

    # --- halves ----------------------------------------------------------------------------------------------------

    async def begin(self, prefix: str, fence: int, epoch: str, schema: str) -> None:
        """Empty the half that does not serve, and say that it is being built."""

        async def work(tx: AsyncManagedTransaction) -> None:
            await _lock(tx, fence, serving=prefix)
            await _one(tx, cypher.BEGIN, fence=fence, prefix="", epoch="", schema="")

        async def named(tx: AsyncManagedTransaction) -> None:
            await _lock(tx, fence, serving=prefix)
            await _one(tx, cypher.BEGIN, fence=fence, prefix=prefix, epoch=epoch, schema=schema)

        await self._in_transaction(work)  # nobody takes what is half deleted for what was half built
        await self.empty(prefix, fence)
        await self._in_transaction(named)

    async def swap(self, prefix: str, fence: int, have: int) -> None:
        """The half that was built serves from here on."""

        async def work(tx: AsyncManagedTransaction) -> None:
            place = await _lock(tx, fence)
            if place.half.prefix != prefix:
                await _one(tx, cypher.SWAP, fence=fence, prefix=prefix, have=have)

        await self._in_transaction(work)

    async def empty(self, prefix: str, fence: int) -> None:
        """Delete every node of a half that does not serve, a part at a time."""
        for label in cypher.EMPTIED:
            text = cypher.of(cypher.EMPTY.replace("LABEL", label), prefix)

            async def work(tx: AsyncManagedTransaction, text: str = text) -> int:
                await _lock(tx, fence, serving=prefix)
                return int((await _all(tx, text, {"at_most": AT_ONCE}))[0][0])

            while await self._in_transaction(work):
                pass

    async def checksum(self, prefix: str) -> tuple[str, dict[str, int]]:
        """sha256 sums over all nodes and relations, added up so that their order does not matter; how many of each."""
        total, counts = 0, dict[str, int]()
        for name, statement in cypher.SUMMED.items():
            counts[name] = 0
            async with self.session() as session:
                result = await session.run(_query(cypher.of(statement, prefix)))
                async for record in result:
                    line = msgspec.json.encode([name, *record.values()])
                    total += int.from_bytes(hashlib.sha256(line).digest(), "big")
                    counts[name] += 1
        return f"{total % 2**256:064x}", counts


def _place(found: dict[str, Any]) -> Place:
    def half(part: str) -> Half:
        names = ("prefix", "epoch", "schema", "seq", "day")
        return Half(**{name: found[part + name] for name in names})

    return Place(
        stream=found["stream"],
        fence=found["fence"],
        half=half(""),
        building=half("next_") if found["next_prefix"] else None,
    )


def _part(place: Place, prefix: str) -> tuple[str, Half]:
    """The properties that say where a half is, and where it is. Raises NotOurs."""
    if place.half.prefix == prefix:
        return "", place.half
    if place.building is not None and place.building.prefix == prefix:
        return "next_", place.building
    raise NotOurs(f"nobody builds {prefix} any longer")


async def _stands(tx: AsyncManagedTransaction, prefix: str, fence: int, have: int, upto: int) -> str | None:
    """The properties that say where the half is, which is at `have`; None where it is at `upto`: the driver runs a
    transaction again where its answer was lost. Raises NotOurs where it is elsewhere."""
    part, half = _part(await _lock(tx, fence), prefix)
    if half.seq not in (have, upto):
        raise NotOurs(f"the graph is at {half.seq}, not at {have}")
    return None if half.seq == upto else part


async def _lock(tx: AsyncManagedTransaction, fence: int | None = None, serving: str = "") -> Place:
    """Nobody else writes until this transaction is over. Raises NotOurs where the fence is another one, or where
    `serving` is the half that serves."""
    place = _place(await _one(tx, cypher.LOCK, lock=str(fence)))
    if fence is not None and place.fence != fence:
        raise NotOurs(f"the newest fence is {place.fence}; ours was {fence}")
    if serving and place.half.prefix == serving:
        raise NotOurs(f"{serving} serves")
    return place


async def _one(tx: AsyncManagedTransaction, statement: str, **parameters: Any) -> dict[str, Any]:
    """The row that a statement has to find. Raises NotOurs where there is none: what was written before is undone."""
    found = await _dict(tx, statement, {"name": cypher.NAME, **parameters})
    if found is None:
        raise NotOurs("somebody else wrote meanwhile, or has emptied the database")
    return found


def _query(statement: str) -> Any:
    """The driver's types ask for literals; ours are made of literals alone."""
    return statement


async def _run(tx: AsyncManagedTransaction, statement: str, parameters: dict[str, Any]) -> None:
    await (await tx.run(_query(statement), parameters)).consume()


async def _dict(tx: AsyncManagedTransaction, statement: str, parameters: dict[str, Any]) -> dict[str, Any] | None:
    record = await (await tx.run(_query(statement), parameters)).single()
    return None if record is None else record.data()


async def _all(tx: AsyncManagedTransaction, statement: str, parameters: dict[str, Any]) -> list[list[Any]]:
    return [list(row.values()) async for row in await tx.run(_query(statement), parameters)]
