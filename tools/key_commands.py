"""What `understudy keys` does: changes to the vault here, and orders by key id to a running supervisor."""

from __future__ import annotations

import argparse
import asyncio
import secrets
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from understudy.actors.host.key_desk import vault_path
from understudy.actors.host.linux import hold_secrets
from understudy.actors.host.topology import TopologyError, read
from understudy.actors.host.vault import Vault, locked, read_public
from understudy.actors.host.vault_audit import Anchor, Book, entries, opened, set_aside
from understudy.actors.host.vault_root import (
    VaultError,
    drop_root,
    make_root,
    parse_spec,
)
from understudy.bus.port import BusError
from understudy.bus.subjects import evt_stream
from understudy.messages.keys import KeyChanged
from understudy.messages.units import Word
from understudy.messages.wire import WireError, decode
from understudy.tools.common import complain, connect, run_file, show
from understudy.tools.key_parts import (
    AGAIN,
    Place,
    Result,
    actor_name,
    is_up,
    key_text,
    root_key,
    settled,
    times,
    typed_passphrase,
)
from understudy.tools.key_rotation import check_live, rotate


def run(args: argparse.Namespace) -> int:
    """One command. Its errors are one line and exit code 1."""
    hold_secrets()
    commands: dict[str, Callable[[argparse.Namespace, Place], Result]] = {
        "add": _add, "rotate": rotate, "revoke": _revoke, "list": _list, "audit": _audit, "test": check_live,
        "rewrap": _rewrap,
    }  # fmt: skip
    try:
        done = commands[args.keys](args, _place(args))
    except VaultError as error:
        return complain(error.code, str(error), args)
    except TopologyError as error:
        return complain("topology", str(error), args) + 1
    except BusError as error:
        text = f"{error}; the vault is as `keys list` shows it, and who runs may not know: {AGAIN}"
        return complain(error.code, text, args)
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
    return Place(path, topology)


# --- commands --------------------------------------------------------------------------------------------------------


def _add(args: argparse.Namespace, place: Place) -> Result:
    try:
        msgspec.convert(args.name, Word)
    except msgspec.ValidationError:
        raise VaultError(
            "bad_name", f"{args.name!r}: a name has letters, digits, `_`, `.` and `-`, 64 at most"
        ) from None
    notes = list[str]()
    root = _make_vault(args, place.path, notes) if not place.path.exists() else root_key(args, place.path)
    if root is None:
        text = f"there is no vault at {place.path} yet; say where its root key comes from with --root (see --help)"
        raise VaultError("no_vault", text)
    key = key_text()
    with opened(place.path, root) as book:
        record = book.vault.add(args.name, key, "live", *times(args))
        book.write(actor_name(), "add", args.name, record.key_id)
    return settled(args, record, [*notes, f"{record.key_id} is {args.name}'s key"])


def _make_vault(args: argparse.Namespace, path: Path, notes: list[str]) -> bytes | None:
    if args.root is None:
        return None
    vault_id = secrets.token_hex(8)
    spec = parse_spec(args.root, vault_id)
    root = make_root(spec, lambda: typed_passphrase(args, path, new=True))
    path.parent.mkdir(parents=True, exist_ok=True)
    with locked(path):
        if path.exists():
            raise VaultError("exists", f"{path} was made by somebody else meanwhile; try again without --root")
        notes += set_aside(path)
        Book(Vault.create(path, vault_id, spec, root)).write(actor_name(), "create", "", "")
    return root


def _revoke(args: argparse.Namespace, place: Place) -> Result:
    root = root_key(args, place.path)
    with opened(place.path, root) as book:
        vault = book.vault
        named = [r for r in vault.body.records if r.name == args.name and r.state == "revoked"]
        record = vault.by_id(args.name) or vault.find(args.name, "live") or (named[-1] if named else None)
        if record is None:
            raise VaultError("no_key", f"the vault has no key {args.name}; see `keys list`")
        if record.state == "revoked":  # who runs is told again: the first time they may not have heard
            line = f"{record.key_id} of {record.name} was revoked before"
        else:
            vault.set_state(record.key_id, record.state, "revoked")
            book.write(actor_name(), "revoke", record.name, record.key_id)
            line = f"{record.key_id} of {record.name} is gone from the vault: revoke it at the provider too"
    return settled(args, record, [line])


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
    root, running = root_key(args, place.path), is_up(args)
    anchors = asyncio.run(_anchors(args)) if running else []
    with opened(place.path, root) as book:
        count, findings = book.verify(anchors)
    found = [f"entry {f.n} {f.what}" for f in findings]
    log = f"{len(anchors)} entries are known to the log" if running else "nothing runs: the log was not asked"
    facts: dict[str, Any] = {"entries": count, "in_log": len(anchors) if running else None}
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


def _rewrap(args: argparse.Namespace, place: Place) -> Result:
    root, body = root_key(args, place.path), read_public(place.path)
    spec, fresh = body.root, root
    if args.root is not None:
        spec = parse_spec(args.root, body.vault_id)
        fresh = make_root(spec, lambda: typed_passphrase(args, place.path, new=True))
    with opened(place.path, root) as book:
        book.vault.rewrap(spec, fresh)
        book.write(actor_name(), "rewrap", "", "")
        version = book.vault.body.kek.version
    lines = [f"all keys are wrapped by key-encryption key version {version}"]
    if spec != body.root:  # not before: until the vault is written, the old one is the only one that opens it
        try:
            drop_root(body.root)
        except VaultError as error:
            lines.append(f"the old root key is of no use any longer and could not be removed: {error}")
        if is_up(args):
            lines.append("the root key is another one: restart `understudy up`")
    return Result(True, {"kek_version": version, "lines": lines}, lines)


# --- a running supervisor --------------------------------------------------------------------------------------------
