"""Orders about keys: real pipes, a real vault and log, a provider that counts; of the processes only the ends of pipes.

What happens between two steps of an order is placed there exactly; `tests/system/test_key_vault.py` has the whole.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
import yaml

from tests.waiting import until
from understudy.actors.host import key_pipe
from understudy.actors.host.key_opener import Done, Job, do
from understudy.actors.host.key_pipe import first_key, follow
from understudy.actors.host.keys import KeyMissing
from understudy.actors.host.operations import Operation
from understudy.actors.host.permissions import Seat
from understudy.actors.host.seats import Process
from understudy.actors.host.supervisor import Supervisor
from understudy.actors.host.topology import read
from understudy.actors.host.vault import Mark, State, Vault
from understudy.actors.host.vault_audit import audit_path, opened
from understudy.actors.host.vault_root import RootFile, make_root
from understudy.actors.runner.http_keys import Keys
from understudy.bus.nats_bus import NatsBus
from understudy.bus.provision import BusSpec, provision
from understudy.bus.server import NatsServer
from understudy.bus.subjects import evt_stream
from understudy.messages.keys import KeyOrder
from understudy.messages.topology import KeySource, Model, Provider, Topology
from understudy.messages.wire import decode
from understudy.tools.fake.server import FakeProvider

OLD, NEW = "sk-orders-71c2", "sk-orders-93d8"
SPEC = BusSpec(evt_max_bytes=16 << 20, trace_max_bytes=1 << 20, dead_max_bytes=1 << 20, claims_max_bytes=1 << 20,
               claims_marker_ttl_s=5.0, consumers=())  # fmt: skip


class Runner:
    """What a process does with its pipe, in this one."""

    def __init__(self, house: House, process: Process) -> None:
        self.house, self.process = house, process
        self.keys: Keys
        self.on_say: Callable[[], None] = lambda: None

    async def start(self) -> None:
        process, supervisor = self.process, self.house.supervisor
        pipe = process.keys = key_pipe.KeyPipe()
        reader = os.dup(pipe.reader)
        assert await supervisor._hand_key(process, cast(Any, None))
        frame = first_key(reader)
        assert frame is not None
        self.keys = Keys(supervisor.topology.providers[process.provider])
        self.keys.hold(frame.key_id, frame.key)

        def say(key: Any) -> None:
            pipe.heard(msgspec.to_builtins(key))
            self.on_say()

        self.following = asyncio.create_task(follow(reader, self.keys, say))
        process.ready = True

    def die(self) -> None:
        assert self.process.keys is not None
        self.process.keys.close()
        self.process.keys, self.process.ready, self.on_say = None, False, lambda: None

    @property
    def held(self) -> tuple[str | None, set[str]]:
        return self.keys.in_use, set(self.keys._texts)


class House:
    """A vault with one key, for two providers, and who orders."""

    def __init__(self, folder: Path, url: str) -> None:
        self.path, self.said = folder / "keys.vault", list[tuple[str, dict[str, Any]]]()
        spec = RootFile(path=str(folder / "root"))
        self.root = make_root(spec, lambda: "")
        Vault.create(self.path, "v1", spec, self.root).save(Mark())
        keyed = Provider(kind="openai", url=url, key=KeySource(vault="lab"))
        providers, models = {"a": keyed, "b": keyed}, {"m@a": Model(provider="a"), "m@b": Model(provider="b")}
        topology = Topology(version=1, models=models, providers=providers)
        self.supervisor = Supervisor(topology, folder, folder, lambda word, **facts: self.said.append((word, facts)))
        self.supervisor.desk._run = self._open
        self.supervisor.processes = [Process(Seat("runner", f"runner-{n}"), n, (f"m@{n}",)) for n in providers]
        self.a, self.b = (Runner(self, p) for p in self.supervisor.processes)
        self.old = self.write("add", lambda v: v.add("lab", OLD, "live", 1, None).key_id)

    async def _open(self, job: Job, fds: Sequence[int], variables: set[str]) -> Done:
        """In this process, as starting one for each key takes most of the time (`test_key_keeper.py` starts them)."""
        done = do(job)
        if done.code:
            raise KeyMissing(done.text)
        return done

    def write(self, purpose: str, change: Callable[[Vault], str], was: str = "") -> str:
        with opened(self.path, self.root) as book:
            key_id = change(book.vault)
            book.write("operator:me", purpose, "lab", key_id, was=was)
        return key_id

    def next_key(self) -> str:
        return self.write("next", lambda v: v.add("lab", NEW, "next", 1, None).key_id)

    def state(self, purpose: str, key_id: str, expected: State, state: State) -> None:
        self.write(purpose, lambda v: v.set_state(key_id, expected, state).key_id)

    def switch(self, new: str) -> None:
        """As `understudy keys rotate` ends."""

        def change(vault: Vault) -> str:
            vault.set_state(self.old, "live", "revoked")
            return vault.set_state(new, "next", "live").key_id

        self.write("rotate", change, was=self.old)

    async def order(self, do: Any, key_id: str = "", wait_ms: int = 0) -> Operation:
        operation = Operation("one")
        await self.supervisor.key_orders.carry_out(
            operation, KeyOrder(do=do, name="lab", key_id=key_id, wait_ms=wait_ms)
        )
        return operation

    def told(self, word: str) -> list[dict[str, Any]]:
        return [facts for said, facts in self.said if said == word]

    async def events(self) -> list[Any]:
        bus, found, seq = self.supervisor.bus_side.bus, list[Any](), 0
        while (received := await bus.get(evt_stream("tta"), seq + 1, "tta.evt.key.>")) is not None:
            seq = received.seq
            found.append(decode(received.payload))
        return found


@pytest.fixture
async def fake() -> AsyncIterator[FakeProvider]:
    async with FakeProvider(require_key=OLD) as provider:
        provider.accepted = {"old": OLD, "new": NEW}
        yield provider


@pytest.fixture
async def house(tmp_path: Path, fake: FakeProvider, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[House]:
    monkeypatch.setattr(key_pipe, "hold_secrets", lambda: None)  # this process goes on to other tests
    with NatsServer(tmp_path / "nats", max_payload=1 << 20) as server:
        one = House(tmp_path, fake.url)
        bus = one.supervisor.bus_side._bus = await NatsBus.open(server.url, name="supervisor")
        await one.a.start()
        await one.b.start()
        try:
            yield one
        finally:
            for runner in (one.a, one.b):
                if runner.process.keys is not None:
                    runner.die()
                await runner.following
            await bus.close()


async def test_after_a_rotation_the_old_key_is_in_no_process(house: House) -> None:
    await provision(house.supervisor.bus_side.bus, SPEC)
    new = house.next_key()
    rotated = await house.order("rotate", new)
    assert not rotated.problems and house.a.held == house.b.held == (new, {house.old, new})
    house.switch(new)
    settled = await house.order("settle")
    assert not settled.problems and house.a.held == house.b.held == (new, {new})
    assert [type(e).__name__ for e in await house.events()] == ["KeyAdded", "KeyRotated"]


async def test_a_process_that_restarts_in_the_middle_ends_on_the_new_key(house: House) -> None:
    """It starts with what is live until the vault is changed."""
    new = house.next_key()
    house.a.keys.begun(house.old)
    rotating = asyncio.create_task(house.order("rotate", new, 30_000))
    await until(lambda: house.a.held[0] == house.b.held[0] == new)
    house.b.die()
    await house.b.start()
    assert house.b.held == (house.old, {house.old})
    house.b.keys.begun(house.old)
    house.a.keys.ended(house.old)
    assert not (await rotating).problems
    house.switch(new)
    settling = asyncio.create_task(house.order("settle", wait_ms=30_000))
    await until(lambda: house.b.held == (new, {new}))
    assert not settling.done(), "a call on the old key is still under way"
    house.b.keys.ended(house.old)
    assert not (await settling).problems
    assert (house.b.process.keys or key_pipe.KeyPipe()).key_id == new == house.supervisor.key_ids["b"]


async def test_a_process_that_is_away_at_its_turn_ends_nothing(house: House) -> None:
    new = house.next_key()
    house.b.on_say = house.b.die  # it has said that the provider takes the key
    rotated = await house.order("rotate", new)
    assert not rotated.problems and any("process has ended" in line for line in rotated.lines)
    assert house.a.held[0] == new
    house.switch(new)
    await house.b.start()
    assert not (await house.order("settle")).problems
    assert house.a.held == house.b.held == (new, {new})


async def test_where_one_process_cannot_use_the_new_key_none_does(house: House) -> None:
    new = house.next_key()
    house.b.on_say = lambda: house.b.keys.forget(new)
    rotated = await house.order("rotate", new)
    assert "does not hold" in rotated.problems[0] and not rotated.key_refused
    assert house.a.held == house.b.held == (house.old, {house.old})


async def test_only_a_provider_that_says_no_refuses_a_key(house: House, fake: FakeProvider) -> None:
    new = house.next_key()
    fake.accepted = {"old": OLD}
    rotated = await house.order("rotate", new)
    assert rotated.key_refused and len(rotated.problems) == 2
    fake.accepted = None
    rotated = await house.order("rotate", new)
    assert not rotated.key_refused and all("cannot be checked" in p for p in rotated.problems)
    assert house.a.held == house.b.held == (house.old, {house.old})
    order, operation = KeyOrder(do="rotate", name="lab", key_id=new, wait_ms=0, unchecked=True), Operation("one")
    await house.supervisor.key_orders.carry_out(operation, order)
    assert not operation.problems and house.a.held[0] == new


async def test_a_revocation_does_not_wait_for_a_rotation(house: House) -> None:
    """Of the new key: the old one is used again, and the rotation has ended."""
    new = house.next_key()
    house.a.keys.begun(house.old)
    house.b.keys.begun(house.old)
    rotating = asyncio.create_task(house.order("rotate", new, 60_000))
    await until(lambda: house.a.held[0] == house.b.held[0] == new)
    house.state("revoke", new, "next", "revoked")
    assert not (await house.order("settle")).problems
    assert house.a.held == house.b.held == (house.old, {house.old})
    async with asyncio.timeout(5):
        await rotating


async def test_of_the_old_key_while_the_new_one_is_tried(house: House) -> None:
    new = house.next_key()
    house.a.keys.begun(house.old)
    rotating = asyncio.create_task(house.order("rotate", new, 60_000))
    await until(lambda: house.a.held[0] == house.b.held[0] == new)
    house.state("revoke", house.old, "live", "revoked")
    assert not (await house.order("settle")).problems
    assert house.a.held == house.b.held == (new, {new}), "no request fails meanwhile"
    house.a.keys.ended(house.old)
    assert not (await rotating).problems


async def test_a_revoked_key_is_forgotten_also_where_nothing_takes_its_place(house: House) -> None:
    house.state("revoke", house.old, "live", "revoked")
    assert not (await house.order("settle")).problems
    assert house.a.held == house.b.held == (None, set())
    async with asyncio.timeout(5):
        checked = await house.order("check")
    assert len(checked.problems) == 2 and "no key is in use" in checked.problems[0]
    again = house.write("add", lambda v: v.add("lab", NEW, "live", 1, None).key_id)
    assert not (await house.order("settle")).problems and house.a.held == house.b.held == (again, {again})


async def test_who_does_not_follow_is_a_problem(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_pipe, "CHECK_S", 0.2)
    house.state("revoke", house.old, "live", "revoked")
    house.b.process.keys, pipe = key_pipe.KeyPipe(), house.b.process.keys  # a process that reads nothing
    deaf = house.b.process.keys
    deaf.handed, deaf.key_id, deaf.held = True, house.old, {house.old}
    settled = await house.order("settle")
    assert settled.problems == ("runner-b: the process does not answer (TimeoutError)",)
    deaf.close()
    house.b.process.keys = pipe
    assert not (await house.order("settle")).problems and house.b.held == (None, set()), "told again"


async def test_a_key_that_may_have_come_is_forgotten_too(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who writes it is killed by its time limit, after it has written and before it says so."""
    run, new = house.supervisor.desk._run, house.next_key()

    async def run_and_lose(*args: Any) -> Any:
        await run(*args)
        raise KeyMissing("the process that reads keys did not answer")

    monkeypatch.setattr(house.supervisor.desk, "_run", run_and_lose)
    assert len((await house.order("rotate", new)).problems) == 2
    assert house.a.held == house.b.held == (house.old, {house.old})


# --- the log ---------------------------------------------------------------------------------------------------------


async def test_what_cannot_be_told_is_told_later_and_once(house: House) -> None:
    orders = house.supervisor.key_orders
    house.state("revoke", house.old, "live", "revoked")
    await orders.announce()
    assert len(house.told("key_not_announced")) == 1, "there is no log yet"
    await provision(house.supervisor.bus_side.bus, SPEC)
    for _ in range(2):
        await orders.announce()
        assert [type(e).__name__ for e in await house.events()] == ["KeyAdded", "KeyRevoked"]
    assert len(house.told("key_not_announced")) == 1 and not house.told("key_audit")


@pytest.mark.parametrize("name", ["lab", "no word!"])
async def test_entries_that_nobody_sealed_are_not_told_and_end_nothing(house: House, name: str) -> None:
    await provision(house.supervisor.bus_side.bus, SPEC)
    path = audit_path(house.path)
    row = json.loads(path.read_text().splitlines()[-1])
    forged = {**row, "n": 999, "purpose": "revoke", "name": name, "key_id": "k-forged", "hash": "f" * 64}
    path.write_text(f"{path.read_text()}{json.dumps(forged)}\n")
    await house.supervisor.key_orders.announce()
    assert [(type(e).__name__, e.key_id) for e in await house.events()] == [("KeyAdded", house.old)]
    assert any("entry 999 was changed" in facts["found"] for facts in house.told("key_audit"))


async def test_a_vault_that_was_taken_back_is_told(house: House) -> None:
    await provision(house.supervisor.bus_side.bus, SPEC)
    before = house.path.read_bytes()
    house.state("revoke", house.old, "live", "revoked")
    await house.supervisor.key_orders.announce()
    assert not house.told("key_audit")
    house.path.write_bytes(before)
    await house.supervisor.key_orders.announce()
    assert ["was taken back" in facts["found"] for facts in house.told("key_audit")] == [True]


# --- variables -------------------------------------------------------------------------------------------------------


async def test_a_reload_takes_no_variable_that_every_process_has(root: Path, tmp_path: Path) -> None:
    """Those named at the start were kept out of every environment; one that is named later was not."""
    wanted = yaml.safe_load((root / "topology.yaml").read_text())
    lab = {"kind": "openai", "url": "http://127.0.0.1:9/v1", "key": {"env": "LATE_KEY"}}
    wanted |= {"providers": {"lab": lab}, "models": {"ok@lab": {"provider": "lab"}}, "aliases": {}, "budgets": {}}
    for task in wanted["tasks"].values():
        task.pop("fallbacks", None)
    (tmp_path / "topology.yaml").write_text(yaml.safe_dump(wanted))
    topology, nothing = read(tmp_path / "topology.yaml"), Topology(version=1, models={}, providers={})
    for running, why in ((nothing, "the variable LATE_KEY stands in the environment"), (topology, "no key in the var")):
        supervisor = Supervisor(running, tmp_path, tmp_path, lambda *_, **__: None, file=tmp_path / "topology.yaml")
        operation = Operation("one")
        await supervisor._operations.reload(operation)
        assert operation.refused and why in operation.problems[0]
