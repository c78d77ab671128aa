"""`understudy keys rotate` and `test`: is a key good, and one put into the place of another."""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path
from typing import NamedTuple

from understudy.actors.host.topology import read
from understudy.actors.host.vault import Record
from understudy.actors.host.vault_audit import opened
from understudy.actors.host.vault_root import VaultError
from understudy.actors.runner.http_keys import check
from understudy.messages.keys import KeyOrder
from understudy.tools.key_parts import Place, Result, actor_name, give_order, is_up, key_text, root_key, settled, times


def rotate(args: argparse.Namespace, place: Place) -> Result:
    """Put a new key in, have it tried, make it live. Where others change the vault meanwhile, what they did stands."""
    root = root_key(args, place.path)
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
        key = key_text()
        with opened(place.path, root) as book:
            waiting = book.vault.add(args.name, key, "next", *times(args))
            book.write(actor_name(), "next", args.name, waiting.key_id)
    tried = _try(args, place, root, waiting)
    if tried.problems:
        text = f"{live.key_id} stays {args.name}'s key; {waiting.key_id} "
        if tried.refused:
            with opened(place.path, root) as book:
                book.vault.set_state(waiting.key_id, "next", "revoked")
                book.write(actor_name(), "refuse", args.name, waiting.key_id, "; ".join(tried.problems)[:500])
            text += "was not taken and is gone"
        else:
            text += f"waits: `understudy keys rotate {args.name} --resume`, or revoke it"
        facts = {"key_id": live.key_id, "problems": tried.problems, "lines": tried.lines}
        return Result(False, facts, [*tried.lines, *tried.problems, text])
    if problem := _make_live(root, place.path, live, waiting):
        done = settled(args, live, [*tried.lines, problem])
        return done._replace(ok=False, facts={**done.facts, "problems": [problem, *done.facts["problems"]]})
    line = f"{waiting.key_id} is {args.name}'s key; {live.key_id} is gone from the vault: revoke it at the provider"
    return settled(args, waiting, [*tried.lines, line], args.wait * 1000)


def _make_live(root: bytes, path: Path, live: Record, waiting: Record) -> str:
    """Put `waiting` into the place of `live`; or why not, as others may have changed the vault meanwhile."""
    with opened(path, root) as book:
        vault = book.vault
        now, new = vault.find(live.name, "live"), vault.by_id(waiting.key_id)
        if new is None or new.state != "next":
            return f"{waiting.key_id} is {'gone' if new is None else new.state} by now: somebody else changed it"
        if now is not None and now.key_id != live.key_id:
            vault.set_state(new.key_id, "next", "revoked")
            book.write(actor_name(), "refuse", live.name, new.key_id, f"{now.key_id} is live by now")
            return f"{now.key_id} is {live.name}'s key by now, by somebody else; {new.key_id} is gone"
        if now is not None:
            vault.set_state(now.key_id, "live", "revoked")
        vault.set_state(new.key_id, "next", "live")
        book.write(actor_name(), "rotate", live.name, new.key_id, was=live.key_id)
    return ""


class Tried(NamedTuple):
    """What became of a key. `refused`: by the provider; other problems may pass."""

    lines: list[str]
    problems: list[str]
    refused: bool = False


def _try(args: argparse.Namespace, place: Place, root: bytes, record: Record) -> Tried:
    """By the processes that will use it; with nothing running, from here."""
    if is_up(args):
        wait_ms = args.wait * 1000
        order = KeyOrder(do="rotate", name=args.name, key_id=record.key_id, wait_ms=wait_ms, unchecked=args.unchecked)
        done = give_order(args, order)
        return Tried(list(done.lines), list(done.problems), refused=done.key_refused)
    return _check_here(args, place, root, record, unchecked=args.unchecked)


def _check_here(
    args: argparse.Namespace, place: Place, root: bytes, record: Record, *, unchecked: bool = False
) -> Tried:
    topology = place.topology
    if topology is None and args.topology.exists():  # an `up` ran when this began
        topology = read(args.topology)
    providers = {} if topology is None else topology.providers
    users = {n: p for n, p in providers.items() if p.key is not None and p.key.vault == record.name}
    if not users:
        text = (
            f"no provider of the topology has `key: {{vault: {record.name}}}`: nobody can tell whether the key is good"
        )
        return Tried([text], []) if unchecked else Tried([], [text])
    with opened(place.path, root) as book:
        key = book.vault.key(record)
        book.write(actor_name(), "try", record.name, record.key_id)
    lines, problems, refused = list[str](), list[str](), False
    for name, provider in users.items():
        said = asyncio.run(check(provider, key))
        good = said.ok or (unchecked and not said.known)
        refused = refused or not (said.ok or not said.known)
        (lines if good else problems).append(f"{name}: {record.key_id}: {said.why or 'the provider takes it'}")
    return Tried(lines, problems, refused)


def check_live(args: argparse.Namespace, place: Place) -> Result:
    """Ask the provider about the key in use."""
    if is_up(args):
        done = give_order(args, KeyOrder(do="check", name=args.name))
        lines, problems = list(done.lines), list(done.problems)
    else:
        root = root_key(args, place.path)
        with opened(place.path, root) as book:
            record = book.vault.find(args.name, "live")
        if record is None:
            raise VaultError("no_key", f"the vault has no key of the name {args.name}; see `understudy keys list`")
        lines, problems, _ = _check_here(args, place, root, record)
    return Result(not problems, {"lines": lines, "problems": problems}, [*lines, *problems])
