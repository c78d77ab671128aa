"""Every budget: spent, reserved, its limit and when its window ends (UTC).

understudy budget
understudy budget --json
"""

from __future__ import annotations

import argparse
from datetime import UTC, datetime

from understudy.bus.client import Client
from understudy.messages.cost import Budgets, BudgetState, ListBudgets
from understudy.tools.common import add_connection, show, with_client


def add(parser: argparse.ArgumentParser) -> None:
    """Arguments."""
    add_connection(parser)


def run(args: argparse.Namespace) -> int:
    """Ask the ledger and print a table."""

    async def job(client: Client) -> int:
        found = await client.ask("ledger.budgets", ListBudgets(), Budgets)
        if args.json:
            show(found)
            return 0
        if not found.budgets:
            print("No budget is declared, or none has been used yet: see `budgets` in topology.yaml.")
            return 0
        print(
            f"{'budget':20}  {'of':32}  {'window':12}  {'spent':>14}  {'reserved':>14}  {'limit USD':>12}  ends (UTC)"
        )
        for one in found.budgets:
            print(_row(one))
        if found.left_off:
            print(f"and {found.left_off} that were used less")
        return 0

    return with_client(args, job, operator=True)


def _row(one: BudgetState) -> str:
    whose = one.key or ("everything" if one.scope == "all" else f"no {one.scope} named")
    ends = "-" if one.until_ms is None else datetime.fromtimestamp(one.until_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M")
    return (
        f"{one.budget:20}  {whose:32}  {one.window:12}  {one.spent_usd:>14}  {one.reserved_usd:>14}  "
        f"{one.limit_usd:>12}  {ends}"
    )
