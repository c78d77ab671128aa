"""What the commands of `understudy keys` share: what is typed, which vault, orders to a running supervisor."""

from __future__ import annotations

import argparse
import asyncio
import getpass
import os
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from understudy.actors.host import vault_root
from understudy.actors.host.state_folder import taken
from understudy.actors.host.vault import Record, read_public
from understudy.actors.host.vault_root import MIN_PASSPHRASE, VaultError, ask_on_terminal
from understudy.bus.port import NoResponders
from understudy.messages.keys import KeyOrder
from understudy.messages.operate import Progressed
from understudy.messages.topology import Topology
from understudy.tools.common import connect, run_file
from understudy.tools.orders import carry_out

START_S, AGAIN_S = 20.0, 0.05
"""So long may an `up` that has just been started take until it hears orders."""
AGAIN = "`understudy keys revoke KEY_ID` tells them again, `understudy restart runner` makes them read the vault anew"


class Place(NamedTuple):
    """Which vault, for which topology (where `up` runs, it knows that)."""

    path: Path
    topology: Topology | None


class Result(NamedTuple):
    """What a command prints: as JSON, or for people."""

    ok: bool
    facts: dict[str, Any]
    lines: list[str]


def is_up(args: argparse.Namespace) -> bool:
    """Whether `up` runs now: asked after the vault was written, as it may have been started at the prompt. Raises
    VaultError where it does not get as far as to hear orders."""
    until = time.monotonic() + START_S
    while run_file(args.state) is None:
        if not taken(args.state):
            return False
        if time.monotonic() > until:
            text = f"an `up` is being started on {args.state} and does not say where it can be reached"
            raise VaultError("starting", f"{text}; the vault is as `keys list` shows it: {AGAIN}")
        time.sleep(AGAIN_S)
    return True


def typed_passphrase(args: argparse.Namespace, path: Path, *, new: bool = False) -> str:
    """Raises VaultError."""
    if args.passphrase_fd >= 0:
        text = vault_root.read_passphrase(args.passphrase_fd)
    else:
        text = ask_on_terminal(f"{'New passphrase' if new else 'Passphrase'} of {path}: ")
        if new and text != ask_on_terminal("Once more: "):
            raise VaultError("mistyped", "the two were not the same; nothing was changed")
    if new and len(text) < MIN_PASSPHRASE:
        raise VaultError("passphrase_short", f"give at least {MIN_PASSPHRASE} characters; five words are good")
    return text


def root_key(args: argparse.Namespace, path: Path) -> bytes:
    """Of a vault that is there. Raises VaultError."""
    return vault_root.read_root(read_public(path).root, lambda: typed_passphrase(args, path))


def key_text() -> str:
    """From a prompt without echo, or the one line of standard input."""
    if sys.stdin.isatty():
        return getpass.getpass("Key (not shown): ").strip()
    text = sys.stdin.read().strip()
    if not text or "\n" in text:
        raise VaultError("no_key", "give the key as the one line of standard input")
    return text


def actor_name() -> str:
    """Who gives this command, for the audit."""
    try:
        return f"operator:{getpass.getuser()}"
    except (OSError, KeyError):  # no entry of this user in the password database
        return f"operator:{os.getuid()}"


def times(args: argparse.Namespace) -> tuple[int, int | None]:
    """Now and when to rotate, in Unix milliseconds."""
    now = int(time.time() * 1000)
    return now, None if args.rotate_after is None else now + args.rotate_after * 1000


def settled(args: argparse.Namespace, record: Record, lines: list[str], wait_ms: int = 0) -> Result:
    """The vault is changed; whoever runs hears of it, or the command fails."""
    running, problems = is_up(args), list[str]()
    if running:
        done = give_order(args, KeyOrder(do="settle", name=record.name, wait_ms=wait_ms))
        lines, problems = [*lines, *done.lines], list(done.problems)
    if problems:
        problems.append(f"the vault is changed, and not all who run have followed: {AGAIN}")
    facts = {"key_id": record.key_id, "name": record.name, "told": running, "lines": lines, "problems": problems}
    return Result(not problems, facts, [*lines, *problems])


def give_order(args: argparse.Namespace, order: KeyOrder) -> Progressed:
    """Raises BusError."""
    lines: list[str] = []

    async def give() -> Progressed:
        until = time.monotonic() + START_S
        while True:
            try:
                async with await connect(args, operator=True) as client:
                    return await carry_out(client, order, lines.append)
            except NoResponders:  # it has its file written and does not hear orders yet
                if time.monotonic() > until:
                    raise
            await asyncio.sleep(AGAIN_S)

    done = asyncio.run(give())
    return msgspec.structs.replace(done, lines=tuple(lines))
