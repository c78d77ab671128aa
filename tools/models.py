"""The catalogue as the selector sees it: status, where it runs, last error, success and speed.

understudy models
understudy models --json
"""

from __future__ import annotations

import argparse

from understudy.bus.client import Client
from understudy.tools.common import add_connection, show, with_client


def add(parser: argparse.ArgumentParser) -> None:
    """Arguments."""
    add_connection(parser)


def run(args: argparse.Namespace) -> int:
    """Ask and print a table."""

    async def job(client: Client) -> int:
        found = await client.models()
        if args.json:
            show(found)
            return 0
        width = max([5, *(len(m.id) for m in found.models)])
        print(f"{'model':{width}}  {'status':11}  {'runs':5}  {'load':>5}  {'success':>7}  {'first token':>11}  "
              f"{'continues':24}error")  # fmt: skip
        for m in found.models:
            success = "-" if m.success_ratio is None else f"{m.success_ratio:.2f}"
            first = "-" if m.first_token_ms is None else f"{m.first_token_ms:.0f} ms"
            runs = f"{m.instances}" if m.loaded else "no"
            line = f"{m.id:{width}}  {m.status:11}  {runs:5}  {m.in_flight:>5}  {success:>7}  {first:>11}"
            continues = f"{m.continues} ({m.continues_by})"
            print(f"{line}  {continues:24}{m.last_error or ''}".rstrip())
        return 0

    return with_client(args, job)
