"""Keys of the vault in a real `understudy up`: who holds one, rotation, revocation, restarts, what the log is told."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Self

import nats
import pytest
import pytest_asyncio
import yaml
from psutil import Process

from understudy.actors.host.vault import read_public
from understudy.bus.client import AnswerFailed, Client
from understudy.tools.bench.proc_search import Unreadable, descendants, search
from understudy.tools.fake.exchange import key_hash
from understudy.tools.fake.server import FakeProvider

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(90),
]
CLI = "import sys; from understudy.tools.cli import main; main(sys.argv[1:])"
LAB, SPARE, NEXT = "sk-lab-3f9a1c77", "sk-spare-b2d40e18", "sk-next-58c6d2f0"
FIRST = "sk-first-0e6b4a91"
WORDS = "five words are quite good"


class Up:
    """`understudy up` as an operator starts it."""

    def __init__(self, folder: Path, fake: FakeProvider, kit: Any, *flags: str, **keys: dict[str, str]) -> None:
        self.folder, self.state, self.flags = folder, folder / "state", flags
        self.url = ""
        self.environment = dict(os.environ)
        self.pass_fds: tuple[int, ...] = ()
        providers = {name: {"kind": "openai", "url": fake.url, "key": key} for name, key in keys.items()}
        few = {f"ok@{name}": {"provider": name, "continues": "native"} for name in keys}
        few |= {f"crawl@{name}": {"provider": name, "continues": "native"} for name in keys}
        topology = kit.topology_of(
            fake.url, "", providers=providers, models=few, aliases={}, tasks={"general": {"latency": "patient"}}
        )
        (folder / "topology.yaml").write_text(yaml.safe_dump(topology))

    @property
    def where(self) -> list[str]:
        return ["--state", str(self.state), "--topology", str(self.folder / "topology.yaml")]

    async def __aenter__(self) -> Self:
        words = ["up", *self.where, "--json", *self.flags]
        self.process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", CLI, *words, stdout=asyncio.subprocess.PIPE, env=self.environment,
            pass_fds=self.pass_fds,
        )  # fmt: skip
        self.ready: asyncio.Event = asyncio.Event()
        self.said: list[dict[str, Any]] = []
        self.reading = asyncio.create_task(self._read())
        async with asyncio.timeout(25):
            await self.ready.wait()
        return self

    async def _read(self) -> None:
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            said = json.loads(line)
            self.said.append(said)
            if said["event"] == "ready":
                self.url = said["url"]
                self.ready.set()
        self.ready.set()

    async def __aexit__(self, *_: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.terminate()
        await self.process.wait()
        await self.reading

    async def keys(self, *words: str, key: str = "") -> tuple[int, Any, str]:
        """`understudy keys ...`, with a key on standard input: exit code, its JSON, its errors."""
        command = [sys.executable, "-c", CLI, "keys", *words, *self.where, "--json"]
        process = await asyncio.create_subprocess_exec(
            *command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        out, err = await process.communicate(key.encode() + b"\n")
        assert key == "" or key not in out.decode() + err.decode()
        return process.returncode or 0, json.loads(out or b"null"), err.decode()

    def run_file(self) -> dict[str, Any]:
        return json.loads((self.state / "run.json").read_text())

    def pid(self, instance: str) -> int:
        return next(p["pid"] for p in self.run_file()["processes"] if p["instance"] == instance)

    async def events(self, kind: str) -> list[dict[str, Any]]:
        password = self.run_file()["password"]
        async with await Client.connect(self.url, user="operator", password=password) as client:
            return [
                {f: getattr(c.event, f) for f in c.event.__struct_fields__}
                async for c in client.events()
                if c.event is not None and type(c.event).__struct_config__.tag == kind
            ]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def taking(fake: Any) -> AsyncIterator[FakeProvider]:
    """A provider that takes these keys."""
    async with FakeProvider(fake.faults) as provider:
        yield provider


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def up(taking: FakeProvider, kit: Any, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Up]:
    folder = tmp_path_factory.mktemp("up")
    taking.accepted = {"lab": LAB, "spare": SPARE, "first": FIRST}
    one = Up(folder, taking, kit, lab={"vault": "lab"}, spare={"vault": "spare"})
    code, made, err = await one.keys("add", "lab", "--root", f"file:{folder / 'root'}", key=LAB)
    assert (code, made["ok"]) == (0, True), err
    assert (await one.keys("add", "spare", key=FIRST))[0] == 0
    code, told, err = await one.keys("rotate", "spare", key=SPARE)
    assert code == 0, (told, err)
    async with one:
        yield one


async def ask(up: Up, model: str, **fields: Any) -> Any:
    async with await Client.connect(up.url) as client:
        return await client.generate("Look around.", model=model, **fields)


async def live(up: Up, name: str) -> str:
    _, listed, _ = await up.keys("list")
    return next(k["key_id"] for k in listed["keys"] if k["name"] == name and k["state"] == "live")


async def test_what_was_done_while_nothing_ran_is_told_to_the_log(up: Up, kit: Any) -> None:
    async with asyncio.timeout(10):
        while not await up.events("key.rotated.v1"):
            await asyncio.sleep(0.05)
    added, (rotated,) = await up.events("key.added.v1"), await up.events("key.rotated.v1")
    assert [(e["name"], e["key_id"]) for e in added] == [("lab", await live(up, "lab")), ("spare", rotated["was"])]
    assert (rotated["name"], rotated["key_id"]) == ("spare", await live(up, "spare"))
    code, audited, _ = await up.keys("audit")
    assert (code, audited["findings"], audited["in_log"]) == (0, [], 3)


# --- who holds a key -------------------------------------------------------------------------------------------------

PLANTED = """
import sys
held, file = sys.stdin.readline().strip(), open(sys.argv[1])
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="no /proc: memory of processes cannot be searched here")
async def test_only_the_process_of_its_provider_holds_a_key(up: Up, kit: Any, tmp_path: Path) -> None:
    """Also after that process was started again. The planted process shows that a key would be found."""
    heard: list[bytes] = []

    async def on_message(msg: Any) -> None:
        heard.append(msg.data)

    bus = await nats.connect(up.url, user="operator", password=up.run_file()["password"])
    await bus.subscribe(">", cb=on_message)
    assert (await ask(up, "ok@lab")).model == "ok@lab"
    before = up.pid("runner-lab")
    os.kill(before, 9)
    await kit.until(lambda: up.pid("runner-lab") not in (0, before), 15)
    await kit.until(lambda: all(p["ready"] for p in up.run_file()["processes"]), 15)
    assert (await ask(up, "ok@spare")).model == "ok@spare"
    assert (await ask(up, "ok@lab")).model == "ok@lab"
    await bus.flush()
    await bus.close()
    assert any(b"Look around." in data for data in heard) and not any(LAB.encode() in data for data in heard)

    keyed = {up.pid("runner-lab"): LAB, up.pid("runner-spare"): SPARE}
    others = [up.process.pid, *descendants(up.process.pid)]
    assert len(others) >= 7 and set(keyed) < set(others)
    for pid in others:
        for key in (LAB, SPARE):
            if pid in keyed:
                await _holds_alone(pid, key, own=keyed[pid] == key)
            else:
                assert await asyncio.to_thread(search, pid, key.encode()) == [], Path(
                    f"/proc/{pid}/cmdline"
                ).read_text()
    files = [p for p in up.folder.rglob("*") if p.is_file()]
    assert len(files) > 5 and not [p for p in files if LAB.encode() in p.read_bytes()]

    (tmp_path / "file").write_text(LAB)
    planted = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PLANTED, str(tmp_path / "file"), LAB, env={**os.environ, "PLANTED": LAB},
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert planted.stdin is not None and planted.stdout is not None
    planted.stdin.write(LAB.encode() + b"\n")
    await planted.stdout.readline()
    found = await asyncio.to_thread(search, planted.pid, LAB.encode())
    planted.stdin.close()
    await planted.wait()
    assert {f.partition(" ")[0] for f in found} == {"environ", "cmdline", "fd", "mem"}


async def _holds_alone(pid: int, key: str, *, own: bool) -> None:
    """A process with a key hides its memory from other processes of its user; the superuser sees it."""
    try:
        found = await asyncio.to_thread(search, pid, key.encode())
    except Unreadable:
        assert os.geteuid() != 0
    else:
        assert found == (["mem"] if own else [])


def words() -> int:
    """A descriptor to read the passphrase from."""
    reader, writer = os.pipe()
    os.write(writer, WORDS.encode() + b"\n")
    os.close(writer)
    return reader


async def test_what_can_be_had_only_once_is_kept_until_up_ends(taking: FakeProvider, kit: Any, tmp_path: Path) -> None:
    """A passphrase that is asked for once, a key in a variable that leaves every environment; the keeper is killed."""
    key = "sk-env-77aa01c9"
    taking.accepted = {"lab": LAB, "spare": SPARE, "env": key}
    one = Up(tmp_path, taking, kit, lab={"vault": "lab"}, env={"env": "LAB_KEY_OF_TEST"})
    one.environment["LAB_KEY_OF_TEST"] = key
    fd = words()
    command = [sys.executable, "-c", CLI, "keys", "add", "lab", "--root", "passphrase", *one.where]
    add = subprocess.run([*command, "--passphrase-fd", str(fd)], input=f"{LAB}\n", text=True, pass_fds=(fd,),
                         capture_output=True, check=False, timeout=30)  # fmt: skip
    os.close(fd)
    assert add.returncode == 0, add.stderr
    fd = words()
    one.flags, one.pass_fds = ("--passphrase-fd", str(fd)), (fd,)
    async with one:
        os.close(fd)
        before = {name: one.pid(name) for name in ("runner-lab", "runner-env")}
        for pid in before.values():
            os.kill(pid, 9)
        await kit.until(lambda: all(one.pid(n) not in (0, pid) for n, pid in before.items()), 15)
        await kit.until(lambda: all(p["ready"] for p in one.run_file()["processes"]), 15)
        assert (await ask(one, "ok@lab")).model == "ok@lab"
        answer = await ask(one, "ok@env")
        assert (answer.model, taking.log[-1].key) == ("ok@env", key_hash(key))
        assert answer.attempts[-1].key_id.startswith("x")
        holders = await _holders(one, key)
        keeper = next(pid for pid in holders if pid != one.pid("runner-env"))
        os.kill(keeper, 9)
        await kit.until(lambda: any(said["event"] == "keeper_gone" for said in one.said), 5)
        status = await kit.cli("status", "--state", str(one.state))
        assert "none can be started again until `understudy up` is restarted" in status[1]
        assert (await ask(one, "ok@lab")).model == "ok@lab", "who has a key goes on"
    assert one.process.returncode == 0
    await kit.until(lambda: not any(kit.alive(pid) for pid in holders), 5)


async def _holders(one: Up, key: str) -> set[int]:
    """The keeper and the runner; no other process holds the key, where that can be looked at."""
    holders = {one.pid("runner-env")}
    for pid in [one.process.pid, *descendants(one.process.pid)]:
        if "key_keeper" in " ".join(Process(pid).cmdline()):
            holders.add(pid)
        elif pid not in (*holders, one.pid("runner-lab")) and Path("/proc/self/mem").exists():
            assert await asyncio.to_thread(search, pid, key.encode()) == []
    assert len(holders) == 2
    return holders


# --- what becomes of keys --------------------------------------------------------------------------------------------


async def test_a_key_is_tested_by_who_uses_it(up: Up, taking: FakeProvider) -> None:
    taking.accepted = {"lab": LAB, "spare": SPARE}
    code, told, _ = await up.keys("test", "lab")
    assert (code, told["ok"], taking.checks[-2].key) == (0, True, key_hash(LAB))
    taking.accepted = {"spare": SPARE}
    code, told, _ = await up.keys("test", "lab")
    assert code == 1 and "refuses the key (401)" in told["problems"][0]
    with pytest.raises(AnswerFailed):
        await ask(up, "ok@lab", deadline_ms=3_000)
    taking.accepted = {"lab": LAB, "spare": SPARE}
    refused = await up.events("key.refused.v1")
    assert {(e["provider"], e["key_id"], e["model"]) for e in refused} == {
        ("lab", await live(up, "lab"), ""), ("lab", await live(up, "lab"), "ok@lab"),
    }  # fmt: skip
    code, told, err = await up.keys("test", "nobody")
    assert code == 1 and "no provider of the running topology" in str(told), err


async def test_a_refused_new_key_changes_nothing(up: Up, taking: FakeProvider) -> None:
    taking.accepted = {"lab": LAB, "spare": SPARE}
    before = await live(up, "spare")
    code, told, _ = await up.keys("rotate", "spare", key="sk-wrong-00000000")
    assert code == 1 and "refuses the key (401)" in told["problems"][0] and told["key_id"] == before
    assert await live(up, "spare") == before
    assert (await ask(up, "ok@spare")).attempts[-1].key_id == before
    assert [k["state"] for k in (await up.keys("list"))[1]["keys"] if k["name"] == "spare"] == [
        "revoked", "live", "revoked",
    ]  # fmt: skip


async def test_rotation_lets_calls_under_way_end_and_nothing_waits_for_it(up: Up, taking: FakeProvider) -> None:
    taking.accepted = {"lab": LAB, "spare": SPARE, "next": NEXT}
    before, lab = await live(up, "spare"), await live(up, "lab")
    async with await Client.connect(up.url) as client:
        story = client.generate("A slow one.", model="crawl@spare", max_tokens=2_000, deadline_ms=55_000)
        async for _ in story:
            rotating = asyncio.create_task(up.keys("rotate", "spare", key=NEXT))
            async with asyncio.timeout(20):
                while (await ask(up, "ok@spare")).attempts[-1].key_id == before:
                    await asyncio.sleep(0.05)
            code, told, _ = await up.keys("rotate", "spare", "--resume")
            assert code == 1 and "another order is under way" in told["problems"][0]
            states = [r.state for r in read_public(up.state / "keys.vault").records if r.name == "spare"]
            assert states == ["revoked", "live", "revoked", "next"], "the new key is in use: it is not thrown away"
            seen = len(taking.log)
            code, told, err = await up.keys("revoke", lab)
            assert (code, told["problems"]) == (0, []), err
            with pytest.raises(AnswerFailed):
                await ask(up, "ok@lab", deadline_ms=3_000)
            assert len(taking.log) == seen, "nothing was sent"
            assert not rotating.done(), "a call with the old key is under way"
            break
    code, told, err = await rotating
    assert code == 0, (told, err)
    taking.accepted = {"lab": LAB, "next": NEXT}
    answer = await ask(up, "ok@spare")
    after = await live(up, "spare")
    assert (answer.attempts[-1].key_id, told["key_id"]) == (after, after) and after != before
    rotated = (await up.events("key.rotated.v1"))[-1]
    assert (rotated["name"], rotated["key_id"], rotated["was"]) == ("spare", after, before)
    served = {e["run_id"]: [a.key_id for a in e["attempts"]] for e in await up.events("request.ended.v1")}
    assert served[answer.run_id] == [after]
    os.kill(pid := up.pid("runner-spare"), 9)
    async with asyncio.timeout(15):
        while up.pid("runner-spare") in (0, pid) or not all(p["ready"] for p in up.run_file()["processes"]):
            await asyncio.sleep(0.05)
    assert (await ask(up, "ok@spare")).attempts[-1].key_id == after, "the next process too"
    assert [e["key_id"] for e in await up.events("key.revoked.v1")] == [lab]
    code, audited, _ = await up.keys("audit")
    assert (code, audited["findings"]) == (0, [])


async def test_after_a_revocation_another_key_is_taken_up(up: Up, taking: FakeProvider) -> None:
    taking.accepted = {"lab": LAB, "next": NEXT}
    code, told, _ = await up.keys("revoke", "lab")
    assert code == 0 and told["told"] and "was revoked before" in told["lines"][0], "whoever runs is told again"
    assert (await up.keys("add", "lab", key=LAB))[0] == 0
    password = up.run_file()["password"]
    async with asyncio.timeout(40), await Client.connect(up.url, user="operator", password=password) as client:
        while next(m for m in (await client.models()).models if m.id == "ok@lab").status == "unavailable":
            await asyncio.sleep(0.1)
        assert (await client.generate("Again.", model="ok@lab")).attempts[-1].key_id == await live(up, "lab")
