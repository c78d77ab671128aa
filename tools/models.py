"""The catalogue as the selector sees it: status, where it runs, last error, success and speed, price.

understudy models                          # what may be selected
understudy models --all --free             # and what providers' lists have beside it
understudy models --capability json --max-usd-per-mtok 0.5 --context 32000
understudy models --model lab/tale:free    # everything about one, price and licence included
understudy models pull home llama3.2:1b     # have an Ollama fetch one (see its own --help)
understudy models --json
"""

from __future__ import annotations

import argparse
import typing
from typing import Any

import msgspec

from understudy.bus.client import Client
from understudy.messages.catalogue import Described, ListModels, ModelCard, Models
from understudy.messages.generate import Capability, LicenceClass
from understudy.messages.privacy import Location
from understudy.tools import pull
from understudy.tools.common import add_connection, show, with_client


def add(parser: argparse.ArgumentParser) -> None:
    """Arguments."""
    verbs = parser.add_subparsers(dest="verb", metavar="pull")
    one = verbs.add_parser(
        "pull",
        help="have a provider fetch a model",
        description=pull.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    pull.add(one)
    add_connection(parser)
    parser.add_argument("--all", action="store_true", help="also what is listed and may not be selected")
    parser.add_argument("--free", action="store_true", help="where nothing has a price")
    parser.add_argument("--max-usd-per-mtok", type=float, metavar="USD", help="per million tokens, at most")
    words = typing.get_args(Capability)
    parser.add_argument("--capability", action="append", choices=words, default=[], help="all of these")
    parser.add_argument("--context", type=int, metavar="TOKENS", help="a window of at least so many")
    parser.add_argument("--provider", help="of this provider")
    parser.add_argument("--location", choices=typing.get_args(Location), help="where content goes")
    classes = typing.get_args(LicenceClass)
    parser.add_argument("--licence", action="append", choices=classes, default=[], help="one of these classes")
    parser.add_argument("--task", help="good enough for this task of the topology")
    parser.add_argument("--model", metavar="ID", help="everything about one model")


def providers(models: tuple[ModelCard, ...]) -> dict[str, dict[str, int]]:
    """What each provider has to do: requests that run, and that wait for room."""
    found: dict[str, dict[str, int]] = {}
    for m in models:
        one = found.setdefault(m.provider, {"running": 0, "waiting": 0})
        one["running"] += m.in_flight - m.waiting
        one["waiting"] += m.waiting
    return found


def providers_table(found: dict[str, dict[str, int]]) -> list[str]:
    """For people."""
    width = max([8, *map(len, found)])
    lines = ["", f"{'provider':{width}}  {'running':>7}  {'waiting':>7}"]
    return lines + [f"{name:{width}}  {of['running']:>7}  {of['waiting']:>7}" for name, of in found.items()]


def run(args: argparse.Namespace) -> int:
    """Ask and print."""
    if args.verb == "pull":
        return pull.run(args)

    async def job(client: Client) -> int:
        if args.model is not None:
            _describe(await client.describe(args.model), args)
            return 0
        found = await client.models(_wanted(args))
        if args.json:
            show(found)
        else:
            _table(found)
            print(*providers_table(providers(found.models)), sep="\n")
        return 0

    return with_client(args, job)


def _wanted(args: argparse.Namespace) -> ListModels:
    return ListModels(
        candidates=not args.all,
        free=args.free,
        max_usd_per_mtok=args.max_usd_per_mtok,
        capabilities=tuple(args.capability),
        context_tokens=args.context,
        provider=args.provider,
        location=args.location,
        licences=tuple(args.licence),
        task=args.task,
    )


def _table(found: Models) -> None:
    width = max([5, *(len(m.id) for m in found.models)])
    print(f"{'model':{width}}  {'status':12}  {'runs':5}  {'load':>5}  {'success':>7}  {'first token':>11}  "
          f"{'$/Mtok':>8}  {'where':8}  {'continues':24}error")  # fmt: skip
    for m in found.models:
        success = "-" if m.success_ratio is None else f"{m.success_ratio:.2f}"
        first = "-" if m.first_token_ms is None else f"{m.first_token_ms:.0f} ms"
        runs = f"{m.instances}" if m.loaded else "no"
        line = f"{m.id:{width}}  {_status(m):12}  {runs:5}  {m.in_flight:>5}  {success:>7}  {first:>11}"
        continues = f"{m.continues} ({m.continues_by})"
        print(f"{line}  {_price(m):>8}  {m.location:8}  {continues:24}{m.last_error or ''}".rstrip())
    for m in [m for m in found.models if m.drifted]:
        print(
            f"DRIFTED: {m.id}: {', '.join(m.drifted)} worse than its past lets expect (`understudy benchmark trends`)"
        )
    for m in [m for m in found.models if m.problem]:
        print(f"PROBLEM: {m.id} is as it was known before: {m.problem}")
    for provider, problem in found.problems.items():
        where = f" at {problem.path}" if problem.path else ""
        print(f"PROBLEM: the list of {provider} is not used ({problem.code}{where}): {problem.text}")


def _status(card: ModelCard) -> str:
    """The word that keeps it from being selected, before all others."""
    if card.retired is not None:
        return card.retired
    if card.offline:
        return "offline"
    return card.status if card.candidate else "listed"


def _price(card: ModelCard) -> str:
    if card.free:
        return "free"
    return "?" if card.usd_per_mtok is None else f"{card.usd_per_mtok:g}"


def _describe(found: Described, args: argparse.Namespace) -> None:
    if args.json:
        show(found)
        return
    facts: dict[str, Any] = msgspec.to_builtins(found.card)
    if found.listing is not None:
        facts = {**msgspec.to_builtins(found.listing), **facts}
    if found.resident is not None:
        facts["resident"] = msgspec.to_builtins(found.resident)
    for name, value in facts.items():
        shown = ", ".join(map(str, value)) if isinstance(value, list | tuple) else value
        print(f"{name:20} {shown}")
