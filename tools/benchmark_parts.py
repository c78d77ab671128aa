"""Shared by the verbs of `understudy benchmark`."""

from __future__ import annotations

import argparse
from datetime import UTC, datetime

from understudy.tools.common import duration_s


def add_window(parser: argparse.ArgumentParser, default: str) -> None:
    """`--task` and `--window`."""
    parser.add_argument("--task", help="only this task (default: all but benchmarks)")
    parser.add_argument("--window", default=default, help=f"how far back: 12h, 7d, ... (default: {default})")


def window_of(args: argparse.Namespace) -> int:
    """Milliseconds; ends the command with exit code 2 for what is no duration."""
    return duration_s(args.window, "--window") * 1000


def stamp(at_ms: int) -> str:
    """Date and time, UTC."""
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M")
