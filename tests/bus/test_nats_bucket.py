"""A bucket of kept answers on a real nats-server: newest value, age, room, purge by prefix."""

from __future__ import annotations

import pytest

from tests import waiting
from tests.bus.kit import Opener
from understudy.bus.nats_bucket import Bucket
from understudy.bus.nats_bus import NatsBus
from understudy.bus.port import BusDown
from understudy.bus.provision import BusSpec, provision


async def test_the_newest_value_until_it_is_purged_by_prefix(bus: NatsBus) -> None:
    bucket = Bucket(bus.client, "TTA_CACHE")
    assert await bucket.get("c1.e1", timeout_s=2) is None
    for key, value in (("c1.e1", b"old"), ("c1.e1", b"\0new"), ("c1.e2", b"x"), ("c2.e1", b"y"), ("c11.e1", b"z")):
        await bucket.put(key, value, timeout_s=2)
    assert await bucket.get("c1.e1", timeout_s=2) == b"\0new"
    assert await bucket.purge("c1", timeout_s=2) == 2
    assert await bucket.purge("c1", timeout_s=2) == 0
    left = [await bucket.get(key, timeout_s=2) for key in ("c1.e1", "c1.e2", "c2.e1", "c11.e1")]
    assert left == [None, None, b"y", b"z"]


async def test_values_end_with_their_age_and_the_oldest_make_room(connect: Opener) -> None:
    bus = await connect("bus")
    await provision(bus, BusSpec(cache_max_bytes=20_000, cache_ttl_s=1.0))
    bucket = Bucket(bus.client, "TTA_CACHE")
    for n in range(5):
        await bucket.put(f"c.{n}", b"x" * 6_000, timeout_s=2)
    held = [await bucket.get(f"c.{n}", timeout_s=2) is not None for n in range(5)]
    assert held[0] is False and held[4] is True

    async def over() -> bool:
        return await bucket.get("c.4", timeout_s=2) is None

    await waiting.found(over)


async def test_a_bucket_that_is_not_there_is_down(connect: Opener) -> None:
    bucket = Bucket((await connect("bus")).client, "TTA_CACHE")
    with pytest.raises(BusDown):
        await bucket.get("c.e", timeout_s=1)
    with pytest.raises(BusDown):
        await bucket.put("c.e", b"x", timeout_s=1)
