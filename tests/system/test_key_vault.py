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

from understudy.bus.client import AnswerFailed, Client
from understudy.tools.bench.proc_search import Unreadable, descendants, search
from understudy.tools.fake.exchange import key_hash
from understudy.tools.fake.server import FakeProvider

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(60),
]
CLI = "import sys; from understudy.tools.cli import main; main(sys.argv[1:])"
LAB, SPARE, NEXT = "sk-lab-3f9a1c77", "sk-spare-b2d40e18", "sk-next-58c6d2f0"
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
        few |= {f"drip@{name}": {"provider": name, "continues": "native"} for name in keys}
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
                if type(c.event).__struct_config__.tag == kind
            ]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def taking(fake: Any) -> AsyncIterator[FakeProvider]:
    """A provider that takes these keys."""
    async with FakeProvider(fake.faults) as provider:
        yield provider


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def up(taking: FakeProvider, kit: Any, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Up]:
    folder = tmp_path_factory.mktemp("up")
    taking.accepted = {"lab": LAB, "spare": SPARE}
    one = Up(folder, taking, kit, lab={"vault": "lab"}, spare={"vault": "spare"})
    code, made, err = await one.keys("add", "lab", "--root", f"file:{folder / 'root'}", key=LAB)
    assert (code, made["ok"]) == (0, True), err
    assert (await one.keys("add", "spare", key=SPARE))[0] == 0
    async with one:
        yield one


async def ask(up: Up, model: str, **fields: Any) -> Any:
    async with await Client.connect(up.url) as client:
        return await client.generate("Look around.", model=model, **fields)


async def live(up: Up, name: str) -> str:
    _, listed, _ = await up.keys("list")
    return next(k["key_id"] for k in listed["keys"] if k["name"] == name and k["state"] == "live")


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


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="no /proc: memory of processes cannot be searched here")
async def test_a_key_in_a_variable_leaves_every_environment(taking: FakeProvider, kit: Any, tmp_path: Path) -> None:
    key = "sk-env-77aa01c9"
    taking.accepted = {"lab": LAB, "spare": SPARE, "env": key}
    one = Up(tmp_path, taking, kit, lab={"env": "LAB_KEY_OF_TEST"})
    one.environment["LAB_KEY_OF_TEST"] = key
    async with one:
        before = one.pid("runner-lab")
        os.kill(before, 9)
        await kit.until(lambda: one.pid("runner-lab") not in (0, before), 15)
        await kit.until(lambda: all(p["ready"] for p in one.run_file()["processes"]), 15)
        answer = await ask(one, "ok@lab")
        assert (answer.model, taking.log[-1].key) == ("ok@lab", key_hash(key))
        (outcome,) = await one.events("request.ended.v1")
        assert outcome["attempts"][0].key_id.startswith("x")
        holders = {one.pid("runner-lab")}
        for pid in [one.process.pid, *descendants(one.process.pid)]:
            if "key_keeper" in Path(f"/proc/{pid}/cmdline").read_text():
                holders.add(pid)
            elif pid not in holders:
                assert await asyncio.to_thread(search, pid, key.encode()) == []
        assert len(holders) == 2
    assert one.process.returncode == 0
    await kit.until(lambda: not any(kit.alive(pid) for pid in holders), 5)


async def test_a_passphrase_is_asked_for_once_and_runners_come_back(
    taking: FakeProvider, kit: Any, tmp_path: Path
) -> None:
    taking.accepted = {"lab": LAB, "spare": SPARE}

    def words() -> int:
        reader, writer = os.pipe()
        os.write(writer, WORDS.encode() + b"\n")
        os.close(writer)
        return reader

    one = Up(tmp_path, taking, kit, lab={"vault": "lab"})
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
        before = one.pid("runner-lab")
        os.kill(before, 9)
        await kit.until(lambda: one.pid("runner-lab") not in (0, before), 15)
        await kit.until(lambda: all(p["ready"] for p in one.run_file()["processes"]), 15)
        assert (await ask(one, "ok@lab")).model == "ok@lab"


# --- what becomes of keys --------------------------------------------------------------------------------------------


async def test_a_key_is_tested_by_who_uses_it(up: Up, taking: FakeProvider) -> None:
    taking.accepted = {"lab": LAB, "spare": SPARE}
    code, told, _ = await up.keys("test", "lab")
    assert (code, told["ok"], taking.checks[-1].key) == (0, True, key_hash(LAB))
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
    assert [k["state"] for k in (await up.keys("list"))[1]["keys"] if k["name"] == "spare"] == ["live", "revoked"]


async def test_rotation_lets_calls_under_way_end_on_the_old_key(up: Up, taking: FakeProvider) -> None:
    taking.accepted = {"lab": LAB, "spare": SPARE, "next": NEXT}
    before = await live(up, "spare")
    async with await Client.connect(up.url) as client:
        story = client.generate("A slow one.", model="drip@spare")
        pieces = aiter(story)
        await anext(pieces)
        rotating = asyncio.create_task(up.keys("rotate", "spare", key=NEXT))
        async for _ in pieces:
            pass
        code, told, err = await rotating
    assert code == 0, (told, err)
    taking.accepted = {"lab": LAB, "next": NEXT}
    answer = await ask(up, "ok@spare")
    after = await live(up, "spare")
    assert (answer.attempts[-1].key_id, told["key_id"]) == (after, after) and after != before
    (rotated,) = await up.events("key.rotated.v1")
    assert (rotated["name"], rotated["key_id"], rotated["was"]) == ("spare", after, before)
    served = {e["run_id"]: [a.key_id for a in e["attempts"]] for e in await up.events("request.ended.v1")}
    assert (served[story.run_id], served[answer.run_id]) == ([before], [after])
    os.kill(pid := up.pid("runner-spare"), 9)
    async with asyncio.timeout(15):
        while up.pid("runner-spare") in (0, pid) or not all(p["ready"] for p in up.run_file()["processes"]):
            await asyncio.sleep(0.05)
    assert (await ask(up, "ok@spare")).attempts[-1].key_id == after, "the next process too"
    assert (await up.keys("audit"))[:2] == (0, {**(await up.keys("audit"))[1], "findings": []})


async def test_a_revoked_key_is_used_by_no_new_call_and_another_one_is_taken_up(up: Up, taking: FakeProvider) -> None:
    taking.accepted = {"lab": LAB, "spare": SPARE, "next": NEXT}
    before, seen = await live(up, "lab"), len(taking.log)
    assert (await up.keys("revoke", before))[0] == 0
    with pytest.raises(AnswerFailed):
        await ask(up, "ok@lab", deadline_ms=3_000)
    assert len(taking.log) == seen, "nothing was sent"
    assert (await up.keys("add", "lab", key=LAB))[0] == 0
    password = up.run_file()["password"]
    async with asyncio.timeout(20), await Client.connect(up.url, user="operator", password=password) as client:
        while next(m for m in (await client.models()).models if m.id == "ok@lab").status == "unavailable":
            await asyncio.sleep(0.1)
        assert (await client.generate("Again.", model="ok@lab")).attempts[-1].key_id == await live(up, "lab") != before
    assert [e["key_id"] for e in await up.events("key.revoked.v1")] == [before]


async def test_what_was_done_while_nothing_ran_is_told_at_the_next_start(
    taking: FakeProvider, kit: Any, tmp_path: Path
) -> None:
    taking.accepted = {"lab": LAB, "next": NEXT}
    one = Up(tmp_path, taking, kit, lab={"vault": "lab"})
    assert (await one.keys("add", "lab", "--root", f"file:{tmp_path / 'root'}", key=LAB))[0] == 0
    code, told, err = await one.keys("rotate", "lab", key=NEXT)
    assert code == 0, (told, err)
    for _ in range(2):
        async with one:
            async with asyncio.timeout(10):
                while not await one.events("key.rotated.v1"):
                    await asyncio.sleep(0.05)
            added, rotated = await one.events("key.added.v1"), await one.events("key.rotated.v1")
            assert [(e["name"], e["key_id"]) for e in added] == [("lab", rotated[0]["was"])] and len(rotated) == 1
            code, audited, _ = await one.keys("audit")
            assert (code, audited["findings"], audited["in_log"]) == (0, [], 2)
        one = Up(tmp_path, taking, kit, lab={"vault": "lab"})
