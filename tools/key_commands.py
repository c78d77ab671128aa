"""What `understudy keys` does: changes to the vault here, and orders by key id to a running supervisor."""

from __future__ import annotations

import argparse
import asyncio
import getpass
import os
import secrets
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from understudy.actors.host import vault_root
from understudy.actors.host.key_desk import vault_path
from understudy.actors.host.linux import hold_secrets
from understudy.actors.host.topology import TopologyError, read
from understudy.actors.host.vault import Record, Vault, locked, read_public
from understudy.actors.host.vault_audit import Anchor, Book, entries, opened
from understudy.actors.host.vault_root import MIN_PASSPHRASE, VaultError, ask_on_terminal, make_root, parse_spec
from understudy.actors.runner.http_keys import check
from understudy.bus.port import BusError
from understudy.bus.subjects import evt_stream
from understudy.messages.keys import KeyChanged, KeyOrder
from understudy.messages.operate import Progressed
from understudy.messages.topology import Topology
from understudy.messages.units import Word
from understudy.messages.wire import WireError, decode
from understudy.tools.common import complain, connect, run_file, show
from understudy.tools.orders import carry_out


class Place(NamedTuple):
    """Which vault, for which topology, and whether `up` runs there."""

    path: Path
    topology: Topology | None
    running: bool


class Result(NamedTuple):
    """What a command prints: as JSON, or for people."""

    ok: bool
    facts: dict[str, Any]
    lines: list[str]


def run(args: argparse.Namespace) -> int:
    """One command. Its errors are one line and exit code 1."""
    hold_secrets()
    commands: dict[str, Callable[[argparse.Namespace, Place], Result]] = {
        "add": _add, "rotate": _rotate, "revoke": _revoke, "list": _list, "audit": _audit, "test": _test,
        "rewrap": _rewrap,
    }  # fmt: skip
    try:
        done = commands[args.keys](args, _place(args))
    except VaultError as error:
        return complain(error.code, str(error), args)
    except TopologyError as error:
        return complain("topology", str(error), args) + 1
    except BusError as error:
        return complain(error.code, f"{error}; the vault is as `keys list` shows it", args)
    if args.json:
        show({"ok": done.ok, **done.facts})
    else:
        print(*done.lines, sep="\n", file=sys.stdout if done.ok else sys.stderr)
    return 0 if done.ok else 1


def _place(args: argparse.Namespace) -> Place:
    """Of a running `up`, where one runs; else of the topology, where there is one."""
    found, state = run_file(args.state), args.state.resolve()
    # Where `up` runs, it knows the vault, and a file that is being edited must not stand in the way of `revoke`.
    topology = read(args.topology) if found is None and args.topology.exists() else None
    if args.vault is not None:
        path = args.vault.resolve()
    elif found is not None:
        path = Path(found["vault"])
    elif topology is not None:
        path = vault_path(topology, args.topology.resolve().parent, state)
    else:
        path = state / "keys.vault"
    return Place(path, topology, found is not None)


# --- what is typed -------------------------------------------------------------------------------------------------


def _passphrase(args: argparse.Namespace, path: Path, *, new: bool = False) -> str:
    if args.passphrase_fd >= 0:
        text = vault_root.read_passphrase(args.passphrase_fd)
    else:
        text = ask_on_terminal(f"{'New passphrase' if new else 'Passphrase'} of {path}: ")
        if new and text != ask_on_terminal("Once more: "):
            raise VaultError("mistyped", "the two were not the same; nothing was changed")
    if new and len(text) < MIN_PASSPHRASE:
        raise VaultError("passphrase_short", f"give at least {MIN_PASSPHRASE} characters; five words are good")
    return text


def _root(args: argparse.Namespace, path: Path) -> bytes:
    return vault_root.read_root(read_public(path).root, lambda: _passphrase(args, path))


def _key_text() -> str:
    """From a prompt without echo, or the one line of standard input."""
    if sys.stdin.isatty():
        return getpass.getpass("Key (not shown): ").strip()
    text = sys.stdin.read().strip()
    if not text or "\n" in text:
        raise VaultError("no_key", "give the key as the one line of standard input")
    return text


def _actor() -> str:
    try:
        return f"operator:{getpass.getuser()}"
    except (OSError, KeyError):  # no entry of this user in the password database
        return f"operator:{os.getuid()}"


# --- commands --------------------------------------------------------------------------------------------------------


def _add(args: argparse.Namespace, place: Place) -> Result:
    try:
        msgspec.convert(args.name, Word)
    except msgspec.ValidationError:
        raise VaultError(
            "bad_name", f"{args.name!r}: a name has letters, digits, `_`, `.` and `-`, 64 at most"
        ) from None
    root = _make_vault(args, place.path) if not place.path.exists() else _root(args, place.path)
    if root is None:
        text = f"there is no vault at {place.path} yet; say where its root key comes from with --root (see --help)"
        raise VaultError("no_vault", text)
    key = _key_text()
    with opened(place.path, root) as book:
        record = book.vault.add(args.name, key, "live", *_times(args))
        book.write(_actor(), "add", args.name, record.key_id)
    return _told(args, place, KeyOrder(do="settle", name=args.name), record, [f"{record.key_id} is {args.name}'s key"])


def _make_vault(args: argparse.Namespace, path: Path) -> bytes | None:
    if args.root is None:
        return None
    vault_id = secrets.token_hex(8)
    spec = parse_spec(args.root, vault_id)
    root = make_root(spec, lambda: _passphrase(args, path, new=True))
    path.parent.mkdir(parents=True, exist_ok=True)
    with locked(path):
        if path.exists():
            raise VaultError("exists", f"{path} was made by somebody else meanwhile; try again without --root")
        Book(Vault.create(path, vault_id, spec, root)).write(_actor(), "create", "", "")
    return root


def _times(args: argparse.Namespace) -> tuple[int, int | None]:
    now = int(time.time() * 1000)
    return now, None if args.rotate_after is None else now + args.rotate_after * 1000


def _rotate(args: argparse.Namespace, place: Place) -> Result:
    root = _root(args, place.path)
    with opened(place.path, root) as book:
        live, waiting = book.vault.find(args.name, "live"), book.vault.find(args.name, "next")
        if live is None:
            raise VaultError("no_key", f"{args.name} has no key to rotate; `understudy keys add {args.name}`")
        if waiting is not None and not args.resume:
            text = f"{waiting.key_id} of {args.name} waits from a rotation that was cut off; --resume it, or revoke it"
            raise VaultError("pending", text)
        if waiting is None and args.resume:
            raise VaultError("nothing_pending", f"no new key of {args.name} waits; rotate without --resume")
    if waiting is None:  # asked for without the lock
        key = _key_text()
        with opened(place.path, root) as book:
            waiting = book.vault.add(args.name, key, "next", *_times(args))
            book.write(_actor(), "next", args.name, waiting.key_id)
    lines, problems = _try(args, place, root, waiting)
    if problems:
        with opened(place.path, root) as book:
            book.vault.set_state(waiting, "revoked")
            book.write(_actor(), "refuse", args.name, waiting.key_id, "; ".join(problems)[:500])
        text = f"{live.key_id} stays {args.name}'s key; {waiting.key_id} was not taken and is gone"
        return Result(False, {"key_id": live.key_id, "problems": problems, "lines": lines}, [*lines, *problems, text])
    with opened(place.path, root) as book:
        book.vault.set_state(live, "revoked")
        book.vault.set_state(waiting, "live")
        book.write(_actor(), "rotate", args.name, waiting.key_id, was=live.key_id)
    lines.append(
        f"{waiting.key_id} is {args.name}'s key; {live.key_id} is gone from the vault: revoke it at the provider"
    )
    return _told(args, place, KeyOrder(do="settle", name=args.name), waiting, lines)


def _try(args: argparse.Namespace, place: Place, root: bytes, record: Record) -> tuple[list[str], list[str]]:
    """By the processes that will use it; with nothing running, from here."""
    if place.running:
        order = KeyOrder(do="rotate", name=args.name, key_id=record.key_id, wait_ms=args.wait * 1000)
        done = _order(args, order)
        return list(done.lines), list(done.problems)
    return _check_here(place, root, record)


def _check_here(place: Place, root: bytes, record: Record) -> tuple[list[str], list[str]]:
    providers = {} if place.topology is None else place.topology.providers
    users = {n: p for n, p in providers.items() if p.key is not None and p.key.vault == record.name}
    if not users:
        text = (
            f"no provider of the topology has `key: {{vault: {record.name}}}`: nobody can tell whether the key is good"
        )
        return [], [text]
    with opened(place.path, root) as book:
        key = book.vault.key(record)
        book.write(_actor(), "try", record.name, record.key_id)
    lines, problems = list[str](), list[str]()
    for name, provider in users.items():
        ok, why, _ = asyncio.run(check(provider, key))
        (lines if ok else problems).append(f"{name}: {record.key_id}: {why or 'the provider takes it'}")
    return lines, problems


def _revoke(args: argparse.Namespace, place: Place) -> Result:
    root = _root(args, place.path)
    with opened(place.path, root) as book:
        record = book.vault.by_id(args.name) or book.vault.find(args.name, "live")
        if record is None or record.state == "revoked":
            raise VaultError("no_key", f"the vault has no key {args.name}, or it is revoked already; see `keys list`")
        book.vault.set_state(record, "revoked")
        book.write(_actor(), "revoke", record.name, record.key_id)
    line = f"{record.key_id} of {record.name} is gone from the vault: revoke it at the provider too"
    done = _told(
        args, place, KeyOrder(do="settle", name=record.name), record, [line]
    )  # use another, where there is one
    if place.running:
        _order(args, KeyOrder(do="forget", name=record.name, key_id=record.key_id))
    return done


def _list(args: argparse.Namespace, place: Place) -> Result:
    body, now = read_public(place.path), time.time() * 1000
    rows = [
        {"key_id": r.key_id, "name": r.name, "version": r.version, "state": r.state, "created_ms": r.created_ms,
         "rotate_after_ms": r.rotate_after_ms, "due": r.state == "live" and (r.rotate_after_ms or now) < now}
        for r in body.records
    ]  # fmt: skip
    root = msgspec.to_builtins(body.root)["type"]
    lines = [f"{place.path}: root {root}, key-encryption key version {body.kek.version}"]
    for row in rows:
        rotate = "" if row["rotate_after_ms"] is None else f"rotate after {_day(row['rotate_after_ms'])}"
        what = f"{row['key_id']}  {row['name']:20} v{row['version']:<3} {row['state']:8} {_day(row['created_ms'])}"
        lines.append(f"{what}  {rotate}{'  DUE' if row['due'] else ''}".rstrip())
    return Result(True, {"vault": str(place.path), "root": root, "kek_version": body.kek.version, "keys": rows}, lines)


def _day(ms: Any) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d")


def _audit(args: argparse.Namespace, place: Place) -> Result:
    root = _root(args, place.path)
    anchors = asyncio.run(_anchors(args)) if place.running else []
    with opened(place.path, root) as book:
        count, findings = book.verify(anchors)
    found = [f"entry {f.n} {f.what}" for f in findings]
    log = f"{len(anchors)} entries are known to the log" if place.running else "nothing runs: the log was not asked"
    facts: dict[str, Any] = {"entries": count, "in_log": len(anchors) if place.running else None}
    facts["findings"] = [f._asdict() for f in findings]
    lines = [_shown(e) for e in entries(place.path)] if args.entries else []
    if args.entries:
        facts["audit"] = [msgspec.to_builtins(e) for e in entries(place.path)]
    return Result(not found, facts, [*lines, *found, f"{count} entries, {len(found)} findings; {log}"])


def _shown(entry: Any) -> str:
    at = datetime.fromtimestamp(entry.at_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")
    return f"{entry.n:>6}  {at}  {entry.actor:20} {entry.purpose:7} {entry.name:16} {entry.key_id:18} {entry.outcome}"


async def _anchors(args: argparse.Namespace) -> list[Anchor]:
    """What the log of the running system knows of the audit."""
    found: list[Anchor] = []
    async with await connect(args, operator=True) as client:
        for word in ("added", "rotated", "revoked"):
            seq, subject = 0, f"{client.app}.evt.key.{word}"
            while (received := await client.bus.get(evt_stream(client.app), seq + 1, subject)) is not None:
                seq = received.seq
                try:
                    event = decode(received.payload)
                except WireError:
                    continue
                if isinstance(event, KeyChanged):
                    found.append(Anchor(event.audit_n, event.audit_hash, f"the log (at {seq})"))
    return found


def _test(args: argparse.Namespace, place: Place) -> Result:
    if place.running:
        done = _order(args, KeyOrder(do="check", name=args.name))
        lines, problems = list(done.lines), list(done.problems)
    else:
        root = _root(args, place.path)
        with opened(place.path, root) as book:
            record = book.vault.find(args.name, "live")
        if record is None:
            raise VaultError("no_key", f"the vault has no key of the name {args.name}; see `understudy keys list`")
        lines, problems = _check_here(place, root, record)
    return Result(not problems, {"lines": lines, "problems": problems}, [*lines, *problems])


def _rewrap(args: argparse.Namespace, place: Place) -> Result:
    root, body = _root(args, place.path), read_public(place.path)
    spec, fresh = body.root, root
    if args.root is not None:
        spec = parse_spec(args.root, body.vault_id)
        fresh = make_root(spec, lambda: _passphrase(args, place.path, new=True))
    with opened(place.path, root) as book:
        book.vault.rewrap(spec, fresh)
        book.write(_actor(), "rewrap", "", "")
        version = book.vault.body.kek.version
    line = f"all keys are wrapped by key-encryption key version {version}"
    more = ["the root key is another one: restart `understudy up`"] if args.root is not None and place.running else []
    return Result(True, {"kek_version": version}, [line, *more])


# --- a running supervisor --------------------------------------------------------------------------------------------


def _told(args: argparse.Namespace, place: Place, order: KeyOrder, record: Record, lines: list[str]) -> Result:
    """The vault is changed; whoever runs hears of it."""
    if place.running:
        done = _order(args, order)
        lines = [*lines, *done.lines, *done.problems]
    return Result(True, {"key_id": record.key_id, "name": record.name, "told": place.running, "lines": lines}, lines)


def _order(args: argparse.Namespace, order: KeyOrder) -> Progressed:
    lines: list[str] = []

    async def give() -> Progressed:
        async with await connect(args, operator=True) as client:
            return await carry_out(client, order, lines.append)

    done = asyncio.run(give())
    return msgspec.structs.replace(done, lines=tuple(lines))
