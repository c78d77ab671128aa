"""Start nats-server and the actors of a topology, and keep them going until Ctrl-C.

understudy up                          # topology.yaml in this folder
understudy up --topology my.yaml --state /var/lib/understudy
understudy up --nats nats://127.0.0.1:4222    # join a server that is already there
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import sys
from pathlib import Path
from typing import Any

from understudy.actors.host.bus_side import CannotStart
from understudy.actors.host.key_desk import vault_path
from understudy.actors.host.key_keeper import VARIABLE, Keeper, KeeperFailed, task_for
from understudy.actors.host.linux import no_core_dumps
from understudy.actors.host.supervisor import Supervisor
from understudy.actors.host.topology import TopologyError, read
from understudy.actors.host.vault_root import VaultError
from understudy.messages.topology import Topology
from understudy.tools.common import DEFAULT_STATE, show


def add(parser: argparse.ArgumentParser) -> None:
    """Arguments."""
    parser.add_argument("--topology", type=Path, default=Path("topology.yaml"), help="default: ./topology.yaml")
    parser.add_argument("--state", type=Path, default=DEFAULT_STATE, help="log, store, locks (default: ./state)")
    parser.add_argument("--nats", metavar="URL", help="join this server instead of starting one")
    parser.add_argument("--passphrase-fd", type=int, default=-1, metavar="N",
                        help="read the vault's passphrase from descriptor N, not from the terminal")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="progress as JSON lines")


def run(args: argparse.Namespace) -> int:
    """Run until a signal comes."""
    no_core_dumps()
    try:
        topology = read(args.topology)
    except TopologyError as error:
        for problem in error.problems:
            print(problem, file=sys.stderr)
        print(f"{len(error.problems)} problem(s) in {args.topology}; see `understudy check`", file=sys.stderr)
        return 2
    try:
        keeper = Keeper.inherited() or _keeper(args, topology)
    except (KeeperFailed, VaultError) as error:
        print(error, file=sys.stderr)
        return 1
    tell = _json_line if args.json else _line

    async def go() -> None:
        file = args.topology.resolve()
        supervisor = Supervisor(
            topology, file.parent, args.state.resolve(), tell, url=args.nats, file=file, keeper=keeper
        )
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, supervisor.stop.set)
        await supervisor.run()

    try:
        asyncio.run(go())
    except CannotStart as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _keeper(args: argparse.Namespace, topology: Topology) -> Keeper | None:
    """Starts who keeps what can be had only once. With keys in variables this program is then replaced by itself,
    without them: what a process was started with cannot be taken out of its memory otherwise."""
    vault = vault_path(topology, args.topology.resolve().parent, args.state.resolve())
    task = task_for(topology, vault, args.passphrase_fd)
    if task is None:
        return None
    keeper = Keeper.start(task)
    if task.variables:
        rest = {name: value for name, value in os.environ.items() if name not in task.variables}
        sys.stdout.flush()
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**rest, VARIABLE: keeper.bequeath()})
    return keeper


def _json_line(word: str, **facts: Any) -> None:
    with contextlib.suppress(BrokenPipeError):
        show({"event": word, **facts})


def _line(word: str, **facts: Any) -> None:
    """One line per actor and per change."""
    match word:
        case "server":
            text = f"nats-server    {facts['url']}, log {facts['log_bytes'] / 1e6:.1f} MB"
        case "actor_ready":
            text = f"ready          {facts['instance']}  ({facts['s']} s{_facts(facts['facts'])})"
        case "actor_failed":
            text = f"FAILED         {facts['instance']}: {facts['why']}"
        case "actor_ended":
            how = facts["why"] if facts["code"] is None else f"with {facts['code']}"
            text = f"ended          {facts['instance']} {how}; again in {facts['again_in_s']} s"
        case "run_file_failed":
            text = f"run.json       cannot be written, `understudy status` shows what was before: {facts['why']}"
        case "log_level":
            text = f"event log      {facts['level'].upper()}: {facts['bytes']} of {facts['max_bytes']} bytes"
            if facts["level"] != "ok":
                text += "; raise log.max_bytes and `understudy reload`, or shorten log.max_age_days"
        case "dead_letters":
            text = f"dead letters   {facts['count']} so far: messages nobody could read, see actors.log"
        case "provisioned":
            text = f"provisioned    {', '.join(facts['done'])}"
        case "key_not_announced":
            text = f"keys           the log was not told: {facts['why']}"
        case "key_audit":
            text = f"KEYS           the audit: {facts['found']}; see `understudy keys audit`"
        case "graph_ready":
            text = f"graph          {facts['uri']} ({facts['s']} s)"
        case "graph_ended":
            text = f"graph          its server ended with {facts['code']}; again in {facts['again_in_s']} s"
        case "keeper_gone":
            text = f"KEYS           {facts['why']}"
        case "order_done":
            text = f"order done     {'; '.join(facts['problems']) or 'ok'}"
        case "ready":
            text = 'up             all actors are ready; try: understudy ask "Look around."  (Ctrl-C stops)'
        case _:
            text = word
    print(text, flush=True)


def _facts(facts: dict[str, Any] | None) -> str:
    for value in (facts or {}).values():
        if isinstance(value, dict) and "parameters" in value:
            return f", {value['arch']}, {value['parameters'] / 1e6:.2f} M parameters, {value['dtype']}, {value['path']}"
    return ""
