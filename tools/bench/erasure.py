"""A conversation is erased: what is left of it in any file, and what other conversations lose by it.

`erasure()` is the measurement, for `bench rotation` too. The state folder is searched byte by byte, while all runs and
after it has stopped, for the conversation's words, its id, its data key and its wrapped key. The same search must find
what was planted: words in the NATS store and in a file, and another conversation's wrapped key in SQLite.
"""

from __future__ import annotations

import asyncio
import base64
import sqlite3
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from understudy.actors.host.keys import hash_key
from understudy.actors.host.supervisor import Supervisor
from understudy.actors.response_cache.keys import DATABASE, NONCE_BYTES, ROOT_KEY, DataKeys, associated
from understudy.bus.client import Client
from understudy.bus.port import Outgoing, Received
from understudy.bus.subjects import cache_bucket
from understudy.messages.generate import Finished
from understudy.messages.hashes import keyed_hash
from understudy.tools.bench.report import Bar, Result, bar
from understudy.tools.bench.stage import running, topology_on
from understudy.tools.fake.script import REPEAT
from understudy.tools.fake.server import FakeProvider

ERASED, OTHERS = "erasure-canary-conversation", tuple(f"other-{n}" for n in range(4))
WORD, PLANTED = "erasure-canary-word", "planted-canary-word"
PLACES = ("words in planted", "words in nats/", f"key in conversations/{DATABASE}")
WAIT_S, LOOK_S = 5.0, 0.02
CLI = "import sys; from understudy.tools.cli import main; main(sys.argv[1:])"


class Erasure(msgspec.Struct, frozen=True, kw_only=True):
    """What was found. `erased_found`: traces of the erased conversation, or ways in which it could still be read."""

    erased_found: int
    others_lost: int
    planted: int
    planted_found: int
    erase_ms: float
    replayed: int
    replay_differs: int
    where: tuple[str, ...] = ()


class Secret(msgspec.Struct, frozen=True):
    """A conversation's data key as it was, wrapped and bare, and a sealed answer of it."""

    conversation: str
    wrapped: bytes
    bare: bytes
    entry: str
    sealed: bytes


def search(folder: Path, wanted: Mapping[str, bytes]) -> list[str]:
    """Every file that holds one of these byte strings, as `name in file`."""
    found: list[str] = []
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        try:
            data = path.read_bytes()
        except FileNotFoundError:  # a file of the server's, gone meanwhile
            continue
        found += [f"{name} in {path.relative_to(folder)}" for name, what in wanted.items() if what in data]
    return found


def spellings(name: str, what: bytes) -> dict[str, bytes]:
    """A key as bytes, as hex, as base64."""
    text = {"hex": what.hex(), "HEX": what.hex().upper(), "base64": base64.b64encode(what).rstrip(b"=").decode()}
    return {name: what, **{f"{name} ({form})": value.encode() for form, value in text.items()}}


async def ask(client: Client, conversation: str, word: str) -> Finished:
    """A request whose answer repeats a word; it may be kept."""
    prompt = f"{REPEAT} {word} of {conversation}."
    return await client.generate(prompt, conversation_id=conversation, user_id="player", temperature=0.0, cache=True)


async def until_kept(client: Client, conversation: str, word: str) -> Finished:
    """Ask until the answer comes from the cache. Raises TimeoutError."""
    until = time.monotonic() + WAIT_S
    while not (end := await ask(client, conversation, word)).cached:
        if time.monotonic() > until:
            raise TimeoutError(f"no answer of {conversation} is kept")
        await asyncio.sleep(LOOK_S)
    return end


async def command(state: Path, *words: str) -> Any:
    """The real command line with `--json`: what it printed. Raises RuntimeError where it failed."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", CLI, *words, "--json", "--state", str(state)), stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    if process.returncode:
        raise RuntimeError(f"understudy {words[0]}: {out.decode()}")
    return msgspec.json.decode(out)


async def secret_of(state: Path, operator: Client, conversation: str) -> Secret:
    """What only the response cache knows, read from its files by who may read them."""
    named = keyed_hash(hash_key(state), conversation)
    folder = state / "conversations"
    with sqlite3.connect(f"file:{folder / DATABASE}?mode=ro", uri=True) as db:
        query = "SELECT id, wrapped FROM data_key WHERE conversation = ?"
        key_id, wrapped = db.execute(query, (named,)).fetchone()
    db.close()
    root = AESGCM(bytes.fromhex((folder / ROOT_KEY).read_text()))
    bare = root.decrypt(wrapped[:NONCE_BYTES], wrapped[NONCE_BYTES:], associated("key", named, key_id))
    kept = await _kept(operator, named)
    assert kept is not None
    entry = kept.subject.rsplit(".", 1)[1]
    AESGCM(bare).decrypt(  # it is this key that opens it: raises otherwise
        kept.payload[:NONCE_BYTES], kept.payload[NONCE_BYTES:], associated("entry", named, key_id, entry)
    )
    return Secret(named, wrapped, bare, entry, kept.payload)


async def _kept(operator: Client, named: str) -> Received | None:
    bucket = cache_bucket(operator.app)
    return await operator.bus.get(f"KV_{bucket}", 1, f"$KV.{bucket}.{named}.>")


async def _plant(state: Path, operator: Client) -> None:
    (state / "planted").write_bytes(b"\0" + PLANTED.encode() + b"\n")
    await operator.bus.store([Outgoing(f"{operator.app}.dead.planted.file", PLANTED.encode(), "planted")], timeout_s=5)


def _still_opens(state: Path, secret: Secret) -> int:
    """Does any data key that there is open the old answer?"""
    keys = DataKeys(state / "conversations")
    try:
        return int(keys.open(secret.conversation, secret.entry, secret.sealed) is not None)
    finally:
        keys.close()


async def erasure() -> Erasure:
    """Start all actors on a state folder of their own, keep answers, erase one conversation, look for it everywhere."""
    with tempfile.TemporaryDirectory(prefix="understudy-erasure-") as folder:
        state = Path(folder)
        async with FakeProvider() as fake, running(topology_on(fake.url, {"ok": {}}), state) as supervisor:
            found, secret, other = await _erase(supervisor, state, fake)
        where = [*found.where, *search(state, _traces(secret))]
        planted = _planted(state, other)
        return msgspec.structs.replace(
            found, erased_found=len(where), where=tuple(where), planted_found=found.planted_found + planted
        )


def _traces(secret: Secret) -> dict[str, bytes]:
    keys = spellings("wrapped key", secret.wrapped) | spellings("data key", secret.bare)
    return {"its words": WORD.encode(), "its id": ERASED.encode(), **keys}


def _planted(state: Path, other: Secret) -> int:
    """How many of the planted controls the same search finds, each where it was put."""
    found = search(state, {"words": PLANTED.encode(), "key": other.wrapped})
    return sum(any(one.startswith(place) for one in found) for place in PLACES)


async def _erase(supervisor: Supervisor, state: Path, fake: FakeProvider) -> tuple[Erasure, Secret, Secret]:
    user, password = "operator", supervisor.operator_password
    async with (
        await Client.connect(supervisor.url) as client,
        await Client.connect(supervisor.url, user=user, password=password) as operator,
    ):
        for conversation in (ERASED, *OTHERS):
            await until_kept(client, conversation, WORD if conversation == ERASED else "a lantern")
        await client.pin(ERASED, "ok")
        secret, other = [await secret_of(state, operator, name) for name in (ERASED, OTHERS[0])]
        await _plant(state, operator)
        before = search(state, {"key": secret.wrapped})  # it is there to be found, and must not be later
        began = time.perf_counter()
        await command(state, "erase", "--conversation", ERASED)
        erase_ms = (time.perf_counter() - began) * 1000
        where = search(state, _traces(secret))
        where += ["an entry in the bucket"] * (await _kept(operator, secret.conversation) is not None)
        where += ["the old answer opens without a key"] * _still_opens(state, secret)
        lost = await _lost(client, fake)
        again = await ask(client, ERASED, WORD)  # it speaks again
        where += ["an answer from before"] * again.cached
        await until_kept(client, ERASED, WORD)
        where += ["the old answer opens under the new key"] * _still_opens(state, secret)
        await command(state, "erase", "--conversation", ERASED)
        replayed = await command(state, "replay")
        found = Erasure(
            erased_found=len(where),
            others_lost=lost,
            planted=2 * len(PLACES) + 1,  # while all runs, and after it has stopped
            planted_found=_planted(state, other) + (before == [f"key in conversations/{DATABASE}"]),
            erase_ms=round(erase_ms, 1),
            replayed=replayed["compared"],
            replay_differs=len(replayed["differ"]),
            where=tuple(where),
        )
        return found, secret, other


async def _lost(client: Client, fake: FakeProvider) -> int:
    """Of the other conversations: whose answer no longer comes from the cache, or needed a provider."""
    lost = 0
    for conversation in OTHERS:
        calls = len(fake.log)
        end = await ask(client, conversation, "a lantern")
        lost += not end.cached or len(fake.log) != calls or "a lantern" not in (end.text or "")
    return lost


async def measure() -> Result:
    """One erasure among five conversations."""
    found = await erasure()
    return Result(bench="erasure", bars=bars_of(found), detail=msgspec.to_builtins(found))


def bars_of(found: Erasure) -> tuple[Bar, ...]:
    """What may be left, and what must be found."""
    return (
        bar("erased_found", found.erased_found, "traces", 0),
        bar("others_lost", found.others_lost, "answers", 0),
        bar("planted_found", found.planted_found, "controls", found.planted, better="higher"),
        bar("replay_differs", found.replay_differs if found.replayed else 1, "decisions", 0),
    )
