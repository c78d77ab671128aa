"""What `understudy up` runs here: its processes, and whether each is ready; log and cache; what providers have to do.

understudy status
understudy status --json
"""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path
from typing import Any

import msgspec

from understudy.actors.host.watch import KEEPER_GONE
from understudy.bus.client import AnswerFailed, Client
from understudy.bus.port import BusError
from understudy.messages.graph import AskGraphStatus, GraphStatus
from understudy.messages.wire import WireError, decode, encode
from understudy.tools.common import DEFAULT_STATE, complain, run_file, show
from understudy.tools.graph import behind
from understudy.tools.models import providers, providers_table

ANSWER_S = 2.0


def add(parser: argparse.ArgumentParser) -> None:
    """Arguments."""
    parser.add_argument("--state", type=Path, default=DEFAULT_STATE, help="state folder of `up` (default: ./state)")
    parser.add_argument("--json", action="store_true", help="print JSON for machines")


def run(args: argparse.Namespace) -> int:
    """Report; exit code 1 when nothing runs, 3 when something is not ready."""
    found = run_file(args.state)
    if found is None:
        return complain("not_running", f"nothing runs on {args.state}; start it with `understudy up`", args)
    password = found.pop("password", "")
    found.get("graph", {}).pop("password", None)
    found["providers"] = asyncio.run(_load(found["url"], found["app"]))
    found["graph"]["status"] = asyncio.run(_graph(found, password))
    if args.json:
        show(found)
    else:
        _print(found)
    return 0 if all(p["ready"] for p in found["processes"]) else 3


async def _load(url: str, app: str) -> dict[str, dict[str, int]] | None:
    """What each provider has to do, as a selector says; None where none answers."""
    try:
        async with asyncio.timeout(ANSWER_S), await Client.connect(url, app=app, timeout_s=ANSWER_S) as client:
            return providers((await client.models()).models)
    except (AnswerFailed, BusError, TimeoutError):
        return None


async def _graph(found: dict[str, Any], password: str) -> Any:
    """What the projector says; None where none answers."""
    try:
        user = "operator" if password else ""
        connecting = Client.connect(found["url"], app=found["app"], timeout_s=ANSWER_S, user=user, password=password)
        async with asyncio.timeout(ANSWER_S), await connecting as client:
            asked = client.bus.request(f"{client.app}.ask.graph.status", encode(AskGraphStatus()), timeout_s=ANSWER_S)
            answer = decode((await asked).payload)
            return msgspec.to_builtins(answer) if isinstance(answer, GraphStatus) else None
    except (AnswerFailed, BusError, TimeoutError, WireError):
        return None


def _graph_line(graph: dict[str, Any]) -> str:
    if graph["status"] is None:
        return f"graph: {graph['missing'] or 'no projector answers'}"
    status = msgspec.convert(graph["status"], GraphStatus)
    return f"graph: {status.state}, {behind(status) if status.state == 'projecting' else status.trouble}"


def _print(found: dict[str, Any]) -> None:
    print(f"nats-server {found['url']}, supervisor pid {found['pid']}")
    print(_log_line(found["log"]), _cache_line(found["cache"]), f"dead letters so far: {found['dead']}", sep="; ")
    if not found["keeper"]:
        print(KEEPER_GONE)
    print(_graph_line(found["graph"]))
    for p in found["processes"]:
        state = "ready" if p["ready"] else (p["trouble"] or "starting")
        print(f"{p['instance']:30} pid {p['pid']:<8} restarts {p['restarts']:<3} {state}")
    load = found["providers"]
    print(*(["", "no selector answers"] if load is None else providers_table(load)), sep="\n")


ADVICE = {
    "ok": "",
    "filling": " - FILLING: raise log.max_bytes (then `understudy reload`) or shorten log.max_age_days",
    "full": " - FULL (log_full): new outcomes are refused; raise log.max_bytes, then `understudy reload`",
}


def _log_line(log: dict[str, Any]) -> str:
    share = 100 * log["bytes"] / log["max_bytes"] if log["max_bytes"] > 0 else 0.0
    return (
        f"event log {log['bytes'] / 1e6:.1f} of {log['max_bytes'] / 1e6:.0f} MB ({share:.0f} %){ADVICE[log['level']]}"
    )


def _cache_line(cache: dict[str, Any]) -> str:
    return f"kept answers {cache['bytes'] / 1e6:.1f} of {cache['max_bytes'] / 1e6:.0f} MB"
