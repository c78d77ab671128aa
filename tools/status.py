"""What `understudy up` runs here: its processes, and whether each is ready.

understudy status
understudy status --json
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from understudy.tools.common import DEFAULT_STATE, complain, run_file, show


def add(parser: argparse.ArgumentParser) -> None:
    """Arguments."""
    parser.add_argument("--state", type=Path, default=DEFAULT_STATE, help="state folder of `up` (default: ./state)")
    parser.add_argument("--json", action="store_true", help="print JSON for machines")


def run(args: argparse.Namespace) -> int:
    """Report; exit code 1 when nothing runs, 3 when something is not ready."""
    found = run_file(args.state)
    if found is None:
        return complain("not_running", f"nothing runs on {args.state}; start it with `understudy up`", args)
    found.pop("password", None)
    if args.json:
        show(found)
    else:
        print(f"nats-server {found['url']}, supervisor pid {found['pid']}")
        print(_log_line(found["log"]), f"dead letters so far: {found['dead']}", sep="; ")
        for p in found["processes"]:
            state = "ready" if p["ready"] else (p["trouble"] or "starting")
            print(f"{p['instance']:30} pid {p['pid']:<8} restarts {p['restarts']:<3} {state}")
    return 0 if all(p["ready"] for p in found["processes"]) else 3


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
