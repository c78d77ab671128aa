"""Who has agreed that their words go to which provider. Nothing is agreed to by default, and every text has a version.

understudy consent list                                            # the texts with their versions, and what stands
understudy consent give far --version 3f1c... --installation       # for everybody here; only the operator may
understudy consent give far --version 3f1c... --user player-7      # the version is that of the text they were shown
understudy consent withdraw far --user player-7                    # running answers end too
understudy consent list --user player-7 --json

A withdrawal counts whatever a wider scope says. A consent to an older text counts for nothing.
"""

from __future__ import annotations

import argparse
import textwrap

from understudy.bus.client import Client
from understudy.messages.consent import ConsentsListed, ConsentTaken, Scope
from understudy.tools.common import add_connection, show, with_client


def add(parser: argparse.ArgumentParser) -> None:
    """Arguments."""
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="give|withdraw|list")
    for verb, about in (("give", "record that somebody agrees"), ("withdraw", "record that somebody does not")):
        one = verbs.add_parser(verb, help=about, description=about)
        one.add_argument("provider", help="a provider of the topology that computes elsewhere")
        if verb == "give":
            one.add_argument("--version", required=True, help="of the text that they were shown (`consent list`)")
        whom = one.add_mutually_exclusive_group(required=True)
        whom.add_argument("--installation", action="store_true", help="for everybody here")
        whom.add_argument("--user", metavar="ID")
        whom.add_argument("--conversation", metavar="ID")
        add_connection(one)
    one = verbs.add_parser("list", help="texts and what stands", description="The texts, and what stands.")
    one.add_argument("--user", metavar="ID", help="only what concerns this user")
    one.add_argument("--conversation", metavar="ID", help="only what concerns this conversation")
    add_connection(one)


def run(args: argparse.Namespace) -> int:
    """Ask and report."""
    return with_client(args, lambda client: _do(client, args), operator=True)


async def _do(client: Client, args: argparse.Namespace) -> int:
    if args.verb == "list":
        _tell_list(await client.consents(user_id=args.user, conversation_id=args.conversation), args)
        return 0
    scope, who = _whom(args)
    if args.verb == "give":
        taken = await client.give_consent(args.provider, scope, args.version, who)
    else:
        taken = await client.withdraw_consent(args.provider, scope, who)
    _tell(taken, args)
    return 0


def _whom(args: argparse.Namespace) -> tuple[Scope, str | None]:
    if args.installation:
        return "installation", None
    return ("user", args.user) if args.user is not None else ("conversation", args.conversation)


def _tell(taken: ConsentTaken, args: argparse.Namespace) -> None:
    if args.json:
        show(taken)
    else:
        print(f"{'given' if taken.given else 'withdrawn'}: {taken.provider}, {taken.scope} (event {taken.seq})")


def _tell_list(found: ConsentsListed, args: argparse.Namespace) -> None:
    if args.json:
        show(found)
        return
    for one in found.texts:
        print(f"{one.provider}  version {one.version}  goes to {one.address}  models: {', '.join(one.models)}")
        print(textwrap.indent(textwrap.fill(one.text, 100), "    "))
    if not found.texts:
        print("nothing leaves this machine: every model of the topology computes here")
    for card in found.consents:
        word = "withdrawn" if not card.given else "given" if card.current else "given to an older text"
        print(f"{card.provider:20}  {card.scope:12}  {card.who or '-':32}  {word}  (event {card.seq})")
