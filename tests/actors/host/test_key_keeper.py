"""The keeper and the opener as processes: what they hand over, to whom, and what they say when they cannot."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import pytest

from tests.waiting import until
from understudy.actors.host import key_pipe
from understudy.actors.host.child import Errand, edge_of
from understudy.actors.host.key_desk import KeyDesk
from understudy.actors.host.key_keeper import Keeper, KeeperFailed, Task, task_for
from understudy.actors.host.key_opener import outside_id
from understudy.actors.host.key_pipe import Frame, KeyPipe
from understudy.actors.host.keys import KeyMissing
from understudy.actors.host.logs import Log
from understudy.actors.host.permissions import Seat
from understudy.actors.host.vault import Mark, Vault
from understudy.actors.host.vault_audit import entries, opened
from understudy.actors.host.vault_root import Passphrase, RootFile, make_root, read_root
from understudy.messages.topology import KeySource, Provider, Topology

KEY, WORDS = "sk-desk-5f20", "five words are quite good"


def topology(**keys: KeySource) -> Topology:
    url = "http://127.0.0.1:9/v1"
    return Topology(
        version=1, models={}, providers={n: Provider(kind="openai", url=url, key=k) for n, k in keys.items()}
    )


def vault_in(folder: Path, *, passphrase: bool = False) -> str:
    """A vault with the key `lab`; the id."""
    spec: Any = Passphrase(salt=b"s" * 16, n=2**10) if passphrase else RootFile(path=str(folder / "root"))
    root = read_root(spec, lambda: WORDS) if passphrase else make_root(spec, lambda: "")
    Vault.create(folder / "keys.vault", "v1", spec, root).save(Mark())
    with opened(folder / "keys.vault", root) as book:
        record = book.vault.add("lab", KEY, "live", 1, None)
        book.write("operator:me", "add", "lab", record.key_id)
    return record.key_id


def said(text: str) -> int:
    """A descriptor with a line to read."""
    reader, writer = os.pipe()
    os.write(writer, text.encode() + b"\n")
    os.close(writer)
    return reader


async def got(desk: KeyDesk, wanted: Topology, name: str = "lab") -> dict[str, Any]:
    """What arrives in the pipe of the process that uses it."""
    pipe = KeyPipe()
    try:
        key_id = await desk.deliver(wanted, name, pipe, "runner-lab")
        frame = json.loads(os.read(pipe.reader, 4096))
    finally:
        pipe.close()
    assert frame["key_id"] == key_id
    return frame


async def test_a_key_from_the_vault_is_audited_before_it_is_handed_over(tmp_path: Path) -> None:
    key_id, wanted = vault_in(tmp_path), topology(lab=KeySource(vault="lab"))
    desk = KeyDesk(tmp_path, tmp_path, None)
    assert await desk.ids(wanted) == {"lab": key_id}
    assert len(entries(tmp_path / "keys.vault")) == 1, "to look at ids is no use of a key"
    assert await got(desk, wanted) == {"do": "hold", "key_id": key_id, "key": KEY, "wait_ms": 0, "n": 0}
    newest = entries(tmp_path / "keys.vault")[-1]
    assert (newest.actor, newest.purpose, newest.key_id, newest.outcome) == ("runner-lab", "use", key_id, "ok")
    assert KEY not in (tmp_path / "keys.vault.audit").read_text()


async def test_files_and_variables_go_the_same_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAB_KEY", KEY)
    (tmp_path / "key").write_text(f"{KEY}-file\n")
    wanted = topology(lab=KeySource(env="LAB_KEY"), spare=KeySource(file="key"))
    desk = KeyDesk(tmp_path, tmp_path, None)
    try:
        ids = await desk.ids(wanted)
        monkeypatch.delenv("LAB_KEY")
        assert (await got(desk, wanted))["key"] == KEY, "the keeper has it, as often as it is needed"
        assert (await got(desk, wanted, "spare"))["key"] == f"{KEY}-file"
        assert ids == {"lab": outside_id(tmp_path, "lab", KEY), "spare": outside_id(tmp_path, "spare", f"{KEY}-file")}
        assert ids["lab"] != outside_id(tmp_path, "spare", KEY)
    finally:
        desk.close()


@pytest.mark.parametrize(("source", "text"), [
    (KeySource(env="NOT_THERE_1"), "no key in the variable NOT_THERE_1"),
    (KeySource(file="none"), "no key in the file"),
    (KeySource(file="long"), "holds more than 2000 bytes, which is no key"),
    (KeySource(vault="lab"), "no vault at"),
])  # fmt: skip
async def test_what_is_missing_is_said(tmp_path: Path, source: KeySource, text: str) -> None:
    (tmp_path / "long").write_text("x" * 2001)
    with pytest.raises(KeyMissing, match=text):
        await KeyDesk(tmp_path, tmp_path, None).ids(topology(lab=source))


async def test_a_name_that_the_vault_has_not(tmp_path: Path) -> None:
    vault_in(tmp_path)
    with pytest.raises(KeyMissing, match="no key of the name other; `understudy keys add other`"):
        await KeyDesk(tmp_path, tmp_path, None).ids(topology(lab=KeySource(vault="other")))


async def test_a_passphrase_is_asked_for_once_and_kept(tmp_path: Path) -> None:
    key_id, wanted = vault_in(tmp_path, passphrase=True), topology(lab=KeySource(vault="lab"))
    task = task_for(wanted, tmp_path / "keys.vault", said(WORDS))
    assert task is not None
    keeper = Keeper.start(task)
    desk = KeyDesk(tmp_path, tmp_path, keeper)
    try:
        for _ in range(2):
            assert (await got(desk, wanted))["key"] == KEY
        assert desk.keeper_lives()
        os.kill(keeper.pid, 9)
        await until(lambda: not desk.keeper_lives())
        with pytest.raises(KeyMissing, match="restart `understudy up`"):
            await got(desk, wanted)
        assert await desk.ids(wanted) == {"lab": key_id}
    finally:
        desk.close()


async def test_a_key_goes_to_no_descriptor_but_its_pipes(tmp_path: Path) -> None:
    """The process ends while its key is fetched, and somebody else gets the descriptor's number."""
    vault_in(tmp_path, passphrase=True)
    wanted = topology(lab=KeySource(vault="lab"))
    task = task_for(wanted, tmp_path / "keys.vault", said(WORDS))
    assert task is not None
    keeper = Keeper.start(task)
    desk, pipe = KeyDesk(tmp_path, tmp_path, keeper), KeyPipe()
    try:
        number = pipe.writer
        async with keeper._one:  # it is asked for the root key, and its answer takes a while
            delivering = asyncio.create_task(desk.deliver(wanted, "lab", pipe, "runner-lab"))
            await asyncio.sleep(0)
            pipe.close()
            ours, theirs = socket.socketpair()
            assert number in (ours.fileno(), theirs.fileno()), "POSIX: the lowest number that is free"
        with pytest.raises(KeyMissing, match="cannot be handed over"):
            await delivering
        peer = theirs if ours.fileno() == number else ours
        peer.setblocking(False)
        with ours, theirs, pytest.raises(BlockingIOError):
            peer.recv(4_096)
        with pytest.raises(KeyMissing, match="the process has ended"):
            await desk.deliver(wanted, "lab", pipe, "runner-lab")
        assert not pipe.held
    finally:
        desk.close()


def test_an_order_is_no_first_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_pipe, "hold_secrets", lambda: None)
    reader, writer = os.pipe()
    for frame in (
        Frame(do="forget", key_id="k-old"),
        Frame(do="hold", key_id="k1", key=KEY),
        Frame(do="use", key_id="k1"),
    ):
        os.write(writer, frame.line())
    os.close(writer)
    assert key_pipe.first_key(reader) == Frame(do="hold", key_id="k1", key=KEY)
    assert b'"use"' in os.read(reader, 4_096), "what follows is left"
    assert key_pipe.first_key(reader) is None
    os.close(reader)


def test_the_first_key_stays_with_the_edge_alone() -> None:
    seat, keyed = Seat("runner", "runner-lab"), topology(lab=KeySource(vault="lab"))
    errand = Errand(seat=seat, url="", password="", topology=keyed, folder="", provider="lab")
    first = [Frame(do="hold", key_id="k1", key=KEY)]
    assert edge_of(errand, first, None, cast(Any, None), Log("r", ""), lambda: 0.0) is not None and first == []


def test_a_wrong_passphrase_and_none(tmp_path: Path) -> None:
    vault_in(tmp_path, passphrase=True)
    vault = str(tmp_path / "keys.vault")
    with pytest.raises(KeeperFailed, match="wrong_root: the passphrase does not open") as caught:
        Keeper.start(Task((), vault, said("some other words")))
    assert "other" not in str(caught.value)
    code = (
        "import sys; from understudy.actors.host.key_keeper import Keeper, KeeperFailed, Task\n"
        "try: Keeper.start(Task((), sys.argv[1]))\nexcept KeeperFailed as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code, vault], start_new_session=True, capture_output=True, text=True,
                          check=False, timeout=30)  # fmt: skip
    assert "no_terminal: " in done.stdout and "--passphrase-fd" in done.stdout


def test_nothing_to_keep(tmp_path: Path) -> None:
    vault_in(tmp_path)
    wanted = topology(lab=KeySource(vault="lab"), spare=KeySource(file="key"), gone=KeySource(env="NOT_THERE_1"))
    assert task_for(wanted, tmp_path / "keys.vault") is None
