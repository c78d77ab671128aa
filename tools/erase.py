"""Erase a conversation: its data key is destroyed, the answers kept under it are purged, its pin is cleared.

    understudy erase --conversation 7c1f
    understudy erase --conversation 7c1f --json

The log keeps a tombstone with counts; it never held a word of any conversation. Erasing again changes nothing, and is
what to do when this command fails. Exit code 1: it is not known to be erased.
"""

from __future__ import annotations

import argparse

from understudy.bus.client import Client
from understudy.messages.cache import EraseConversation, ErasureDone
from understudy.messages.generate import Failed
from understudy.messages.wire import WireError, decode, encode, made_of
from understudy.tools.common import add_connection, complain, show, with_client

ERASE_S = 10.0


def add(parser: argparse.ArgumentParser) -> None:
    """Arguments."""
    text = "its id, as requests give it in `conversation_id`"
    parser.add_argument("--conversation", required=True, metavar="ID", help=text)
    add_connection(parser)


def run(args: argparse.Namespace) -> int:
    """Order and report."""
    try:
        order = encode(made_of(EraseConversation, {"conversation_id": args.conversation}))
    except WireError as error:
        return complain("invalid", f"--conversation: {error.text}", args)
    except UnicodeEncodeError:
        return complain("invalid", "--conversation: not UTF-8, as which requests give it", args)

    async def job(client: Client) -> int:
        said = await client.bus.request(f"{client.app}.ask.conversation.erase", order, timeout_s=ERASE_S)
        answer = decode(said.payload)
        if isinstance(answer, ErasureDone):
            _tell(answer, args)
            return 0
        code, text = (answer.code, answer.text) if isinstance(answer, Failed) else ("internal", "an unknown answer")
        return complain(code, text, args)

    return with_client(args, job, operator=True)


def _tell(done: ErasureDone, args: argparse.Namespace) -> None:
    if args.json:
        show(done)
        return
    print(f"erased: {done.keys} data key, {done.entries} kept answers; recorded at {done.seq}")
