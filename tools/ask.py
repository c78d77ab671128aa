"""One request from the command line, streamed with the name of the model that speaks.

understudy ask "Look around."
understudy ask "Look around." --task narrative --model demo/story-lead --max-tokens 60
understudy ask "Look around." --no-stream --json
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

from understudy.bus.client import Client
from understudy.messages.generate import Delta, Finished, Seam, Started
from understudy.tools.common import add_connection, show, with_client


def add(parser: argparse.ArgumentParser) -> None:
    """Arguments."""
    parser.add_argument("prompt", help="what to say, or - for standard input")
    parser.add_argument("--task", help="a task of the topology")
    parser.add_argument("--model", help="a model id or alias")
    parser.add_argument("--max-tokens", type=int)
    parser.add_argument("--temperature", type=float)
    parser.add_argument("--deadline-ms", type=int)
    parser.add_argument("--privacy", choices=("local_only", "external_allowed"), help="default: the topology's policy")
    parser.add_argument("--user-id")
    parser.add_argument("--conversation-id")
    parser.add_argument("--stream", action=argparse.BooleanOptionalAction, default=True, help="show text as it comes")
    add_connection(parser)


def run(args: argparse.Namespace) -> int:
    """Ask and show."""
    prompt = sys.stdin.read() if args.prompt == "-" else args.prompt
    names = ("task", "model", "max_tokens", "temperature", "deadline_ms", "privacy", "user_id", "conversation_id")
    fields: dict[str, Any] = {n: getattr(args, n) for n in names if getattr(args, n) is not None}

    async def job(client: Client) -> int:
        answer = client.generate(prompt, **fields)
        async for piece in answer:
            if args.json and (args.stream or isinstance(piece, Finished)):
                show(piece)
            elif not args.json and args.stream:
                _show(piece)
        if not args.json and not args.stream and answer.finished is not None:
            print(answer.finished.text)
        return 0

    return with_client(args, job)


def _show(piece: Any) -> None:
    match piece:
        case Started():
            print(f"[{piece.model}] ", end="", flush=True)
        case Delta():
            print(piece.text, end="", flush=True)
        case Seam(mode="continue"):
            print(f" ...[{piece.from_model}: {piece.reason}; {piece.to_model} goes on]... ", end="", flush=True)
        case Seam():
            print(f"\n[{piece.from_model}: {piece.reason}; {piece.to_model} begins anew]\n", end="", flush=True)
        case Finished():
            u = piece.usage
            where = "" if piece.location is None else f" ({piece.location})"
            print(
                f"\n-- {piece.model}{where}, {u.completion_tokens} tokens, {piece.total_ms:.0f} ms, run {piece.run_id}"
            )
        case _:
            pass
