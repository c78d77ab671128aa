"""Give an order to the running supervisor and follow it to its end, across a restart of the bus too."""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Callable

from understudy.bus.client import Client
from understudy.bus.port import BusError
from understudy.messages.generate import Failed
from understudy.messages.keys import KeyOrder
from understudy.messages.operate import Progress, Progressed, Reload, Restart
from understudy.messages.wire import decode, encode
from understudy.tools.common import complain, run_file, show, with_client

ASK_S = 2.0
PATIENCE_S = 30.0
Order = Reload | Restart | KeyOrder
NAMES: dict[type[Order], str] = {Reload: "reload", Restart: "restart", KeyOrder: "keys"}
LOOK_S = 0.1


def give(order: Order, args: argparse.Namespace) -> int:
    """Order, print what happens, and return the exit code: 0 done, 1 not done, 2 refused (nothing changed)."""
    if run_file(args.state) is None:
        return complain("not_running", f"nothing runs on {args.state}; start it with `understudy up`", args)
    return with_client(args, lambda client: _follow(client, order, args), operator=True)


async def _follow(client: Client, order: Order, args: argparse.Namespace) -> int:
    lines: list[str] = []

    def tell(line: str) -> None:
        lines.append(line)
        if not args.json:
            print(line, flush=True)

    now = await carry_out(client, order, tell)
    if args.json:
        show({"ok": not now.problems, "refused": now.refused, "lines": lines, "problems": now.problems})
    elif now.problems:
        complain("refused, nothing was changed" if now.refused else "not_done", "\n".join(now.problems), args)
    return (2 if now.refused else 1) if now.problems else 0


async def carry_out(client: Client, order: Order, tell: Callable[[str], None]) -> Progressed:
    """Give an order as the operator; its lines as they come, then its end. Raises BusError."""
    now = await _ask(client, NAMES[type(order)], order)
    told, heard = 0, time.monotonic()
    while True:
        for line in now.lines:
            tell(line)
        told += len(now.lines)
        if now.done:
            return now
        await asyncio.sleep(LOOK_S)
        try:
            now = await _ask(client, "progress", Progress(operation=now.operation, after=told))
            heard = time.monotonic()
        except BusError:  # nats-server itself may be the one that is being restarted
            if time.monotonic() - heard > PATIENCE_S:
                raise
            now = Progressed(operation=now.operation)


async def _ask(client: Client, name: str, ask: Order | Progress) -> Progressed:
    answer = await client.bus.request(f"{client.app}.ask.supervisor.{name}", encode(ask), timeout_s=ASK_S)
    message = decode(answer.payload)
    if isinstance(message, Failed):
        raise BusError(f"{message.code}: {message.text}")
    assert isinstance(message, Progressed)
    return message
