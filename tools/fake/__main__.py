"""Start the fake provider by hand: `python -m understudy.tools.fake --port 9900 --faults my.json`."""

import argparse
import asyncio
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from understudy.tools.fake.script import BadFaultsError, Fault, built_in_faults, parse_faults
from understudy.tools.fake.server import FakeProvider

INTRO = """A fake model provider on 127.0.0.1 that speaks OpenAI chat completions and fails on demand.

The model name in a request chooses what happens; NAME and NAME@anything behave alike, so that several
model ids can share one behaviour. Every healthy model answers the same user message with the same text.
"""
EXAMPLES = """
try it:
  python -m understudy.tools.fake --port 9900 &
  curl -N http://127.0.0.1:9900/v1/chat/completions -H 'Content-Type: application/json' \\
    -d '{"model": "cut@a", "stream": true, "messages": [{"role": "user", "content": "Hello"}]}'
  curl http://127.0.0.1:9900/control/log        # every request, and how it ended

a faults file adds names or replaces built-in ones (fields: class Fault in tools/fake/script.py):
  {"slow-cut": {"docs": "slow, then cut", "gap_ms": 50, "cut_after": 5}}

"Repeat exactly: TEXT" as the user message makes the script TEXT, for probes of continuation.
exit status: 0 stopped by a signal, 1 cannot listen on the port, 2 bad arguments or faults file
"""


def _parser() -> argparse.ArgumentParser:
    names = "\n".join(f"  {name:17} {fault.docs}" for name, fault in built_in_faults().items())
    parser = argparse.ArgumentParser(
        prog="python -m understudy.tools.fake",
        description=INTRO,
        epilog=f"built-in model names:\n{names}\n{EXAMPLES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--port", type=int, default=9900, help="TCP port on 127.0.0.1; 0 takes a free one (9900)")
    parser.add_argument("--faults", type=Path, metavar="FILE", help="JSON {name: record}, merged over the built-ins")
    parser.add_argument("--require-key", metavar="KEY", help="answer 401 to any other Authorization: Bearer key")
    return parser


def _read_faults(path: Path | None) -> dict[str, Fault]:
    if path is None:
        return {}
    try:
        return parse_faults(path.read_bytes(), str(path))
    except OSError as error:
        raise BadFaultsError([f"{path}: {error.strerror}"]) from None


async def _serve(provider: FakeProvider) -> None:
    """Serve until SIGINT or SIGTERM."""
    stop = asyncio.Event()
    async with provider:
        for signum in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(signum, stop.set)
        print(f"fake provider: base URL {provider.url} ({len(provider.faults)} model names)", flush=True)
        await stop.wait()


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop where there is one: in a bench the double must not be what is measured."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    parser = _parser()
    args = parser.parse_args(argv)
    if not 0 <= args.port <= 65535:
        parser.error(f"--port {args.port} is not between 0 and 65535")
    try:
        faults = _read_faults(args.faults)
    except BadFaultsError as error:
        print(error, file=sys.stderr)
        return 2
    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(_serve(FakeProvider(faults, require_key=args.require_key, port=args.port)))
    except OSError as error:
        print(f"cannot listen on 127.0.0.1:{args.port}: {error.strerror or error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
