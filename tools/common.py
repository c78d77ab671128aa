"""Shared by the commands: where the state is, how to connect, how errors are shown."""

from __future__ import annotations

import argparse
import asyncio
import importlib
import json
import re
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec

from understudy.actors.host.state_folder import taken
from understudy.bus.client import AnswerFailed, Client
from understudy.bus.port import BusError, NotAllowed


class Refused(Exception):
    """What a command will not do: a stable code, and what would be right."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code, self.text = code, text


def needs(module: str, extra: str) -> Any:
    """A module that comes with an extra. Raises Refused, with the command that installs it."""
    try:
        return importlib.import_module(module)
    except ImportError:
        raise Refused("missing_extra", f"{module} is not installed: pip install 'understudy[{extra}]'") from None


DEFAULT_STATE = Path("state")


def add_connection(parser: argparse.ArgumentParser, *, again: bool = False) -> None:
    """`--nats`, `--state` and `--json`. `again`: of a verb whose command takes them too; what stands before the verb
    holds then, where argparse would put the verb's defaults over it."""
    keep: dict[str, Any] = {"default": argparse.SUPPRESS} if again else {}
    parser.add_argument(
        "--nats", metavar="URL", help="nats-server to talk to (default: the one `up` started here)", **keep
    )
    state: dict[str, Any] = {"default": DEFAULT_STATE, **keep}
    parser.add_argument("--state", type=Path, help="state folder of `up` (default: ./state)", **state)
    parser.add_argument("--json", action="store_true", help="print JSON for machines", **keep)


UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def since_s(text: str) -> int:
    """See `duration_s`."""
    return duration_s(text, "--since")


def duration_s(text: str, option: str) -> int:
    """Seconds of `10m`, `2h`, `7d`; ends the command with exit code 2 for anything else."""
    found = re.fullmatch(r"(\d+)([smhd])", text)
    if found is None:
        print(f"{option} {text}: write a number and one of s, m, h, d, for example 10m", file=sys.stderr)
        sys.exit(2)
    return int(found[1]) * UNITS_S[found[2]]


def run_file(state: Path) -> dict[str, Any] | None:
    """What `up` wrote about itself; None when it is not running here: killed, it leaves its file behind."""
    if not taken(state):
        return None
    try:
        return json.loads((state / "run.json").read_text())
    except (OSError, ValueError):
        return None


async def connect(args: argparse.Namespace, *, operator: bool = False) -> Client:
    """Connect as a component, or as the operator where the log is to be read."""
    found = run_file(args.state)
    url = args.nats or (found["url"] if found else "nats://127.0.0.1:4222")
    as_operator = operator and found is not None and bool(found["password"]) and not args.nats
    user, password = ("operator", found["password"]) if as_operator and found else ("", "")
    app = found["app"] if found else "tta"
    return await Client.connect(url, app=app, name="understudy-cli", user=user, password=password, timeout_s=3)


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop where it is installed: a log is read with it half again as fast."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


def with_client(args: argparse.Namespace, job: Callable[[Client], Awaitable[int]], *, operator: bool = False) -> int:
    """Run a job with a connection; failures become one clear line and exit code 1."""

    async def go() -> int:
        async with await connect(args, operator=operator) as client:
            return await job(client)

    try:
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            return runner.run(go())
    except NotAllowed as error:
        return complain(error.code, str(error), args)
    except AnswerFailed as failure:
        return complain(failure.failed.code, failure.failed.text, args)
    except BusError as error:
        return complain(error.code, f"{error}. Start it with `understudy up`, or name a server with --nats URL.", args)


def complain(code: str, text: str, args: argparse.Namespace) -> int:
    """One line on standard error (or a JSON object), exit code 1."""
    if getattr(args, "json", False):
        print(json.dumps({"error": code, "text": text}))
    else:
        print(f"{code}: {text}", file=sys.stderr)
    return 1


def show(value: Any) -> None:
    """One line of JSON."""
    print(msgspec.json.encode(value).decode(), flush=True)
