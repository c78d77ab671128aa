"""A story on two tiny local models: the narrator is killed in mid-sentence, and the understudy ends the sentence.

    understudy demo                 # about 15 s
    understudy demo --json          # one JSON report of what came over the bus and from the log
    understudy demo --seed 7        # choose where the cut falls

Starts nats-server and the actors in a temporary folder and leaves nothing running.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import random
import signal
import tempfile
import time
from pathlib import Path
from typing import Any

import msgspec

from understudy.actors.host.bus_side import CannotStart
from understudy.actors.host.supervisor import Supervisor
from understudy.actors.host.topology import TopologyError, read
from understudy.bus.client import AnswerFailed, Client
from understudy.messages.events import RequestEnded
from understudy.messages.generate import Delta, Finished, Seam, Started
from understudy.messages.slugs import slug
from understudy.messages.topology import GraphPlan
from understudy.tools.common import show
from understudy.tools.events import line

PROMPT = "Look around."
CUT_FROM, CUT_TO = 10, 30  # after this many deltas the narrator is killed
READY_S = 90.0


def add(parser: argparse.ArgumentParser) -> None:
    """Arguments."""
    parser.add_argument("--topology", type=Path, default=Path("topology.yaml"), help="default: ./topology.yaml")
    parser.add_argument("--seed", type=int, help="draws the cut point and the story (default: random, printed)")
    parser.add_argument("--json", action="store_true", help="one JSON report")


def run(args: argparse.Namespace) -> int:
    """Play the demo; 0 when everything that it shows held."""
    seed = args.seed if args.seed is not None else random.SystemRandom().randrange(1_000_000)
    try:
        topology = read(args.topology)
    except TopologyError as error:
        print(error)
        return 2
    topology = msgspec.structs.replace(
        topology, bus=msgspec.structs.replace(topology.bus, port=0), graph=GraphPlan(uri="off")
    )
    with tempfile.TemporaryDirectory(prefix="understudy-demo-") as folder:
        try:
            report = asyncio.run(Demo(topology, args.topology.resolve().parent, Path(folder), seed, args.json).play())
        except (CannotStart, AnswerFailed, TimeoutError) as error:
            log = Path(folder) / "actors.log"
            print(f"the demo failed: {error}\n{log.read_text()[-2000:] if log.exists() else ''}")
            return 1
    report["processes_left"] = sum(_alive(pid) for pid in report.pop("pids"))
    ok = _holds(report)
    if args.json:
        show({**report, "ok": ok})
    else:
        print(f"\n{'Everything held' if ok else 'SOMETHING DID NOT HOLD'}: {report['attempts']} attempts, "
              f"{report['seams']} seam, {report['outcomes_stored']} outcome stored, "
              f"{report['processes_left']} processes left, {report['total_s']} s (seed {seed})")  # fmt: skip
    return 0 if ok else 1


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _holds(report: dict[str, Any]) -> bool:
    """What the demo claims."""
    return (
        report["attempts"] == 2
        and report["seams"] == 1
        and report["text_equal"]
        and report["seq_without_gap"]
        and len(set(report["models"])) == 2
        and min(report["tokens"].values()) >= 8
        and report["outcomes_stored"] == 1
        and report["processes_left"] == 0
    )


class Demo:
    """One performance."""

    def __init__(self, topology: Any, folder: Path, state: Path, seed: int, quiet: bool) -> None:
        self.seed, self.quiet = seed, quiet
        self.begun = time.monotonic()
        self.pids: set[int] = set()
        self.supervisor = Supervisor(topology, folder, state, self.say)

    def say(self, word: str, **facts: Any) -> None:
        """Progress."""
        if "pid" in facts:
            self.pids.add(facts["pid"])
        if not self.quiet and word in ("server", "actor_ready", "actor_failed"):
            took, who = time.monotonic() - self.begun, facts.get("instance", "nats-server")
            print(f"  {took:5.1f} s  {who} {facts.get('why', 'ready')}")

    def tell(self, text: str, end: str = "\n") -> None:
        """Words for a person."""
        if not self.quiet:
            print(text, end=end, flush=True)

    async def play(self) -> dict[str, Any]:
        """Start, ask, kill, listen, read the log, stop."""
        running = asyncio.create_task(self.supervisor.run())
        ready = asyncio.create_task(self.supervisor.ready.wait())
        try:
            self.tell("Starting nats-server and the actors:")
            async with asyncio.timeout(READY_S):
                await asyncio.wait([running, ready], return_when=asyncio.FIRST_COMPLETED)
            if running.done():
                running.result()
            ready_s = time.monotonic() - self.begun
            report = await self._ask()
            return {**report, "seed": self.seed, "ready_s": round(ready_s, 2), "pids": sorted(self.pids)}
        finally:
            ready.cancel()
            self.supervisor.stop.set()
            with contextlib.suppress(CannotStart):
                await running

    async def _ask(self) -> dict[str, Any]:
        cut = random.Random(self.seed).randrange(CUT_FROM, CUT_TO)
        pieces: list[Any] = []
        killed = 0
        async with await Client.connect(self.supervisor.url, name="demo") as client:
            self.tell(f"\nYou: {PROMPT}")
            answer = client.generate(PROMPT, task="narrative", seed=self.seed, max_tokens=120, deadline_ms=30_000)
            async for piece in answer:
                pieces.append(piece)
                self._show(piece)
                if isinstance(piece, Delta) and piece.seq == cut:
                    killed = self._kill(answer.model)
        assert answer.finished is not None
        user, password = "operator", self.supervisor.operator_password
        async with await Client.connect(self.supervisor.url, name="demo", user=user, password=password) as client:
            events = [c async for c in client.events() if getattr(c.event, "run_id", None) == answer.run_id]
        self.tell("\n\nThe request's events in the log:")
        for change in events:
            assert change.event is not None
            self.tell(line(change.seq, change.event))
        outcomes = [c.event for c in events if isinstance(c.event, RequestEnded)]
        return self._report(answer.finished, answer.text, pieces, outcomes, cut, killed)

    def _kill(self, model: str) -> int:
        """SIGKILL to the process that is speaking."""
        for process in self.supervisor.processes:
            if slug(model) in process.seat.slugs and process.pid:
                os.kill(process.pid, signal.SIGKILL)
                return process.pid
        return 0

    def _show(self, piece: Any) -> None:
        match piece:
            case Started():
                self.tell(f"\n[{piece.model}] ", end="")
            case Delta():
                self.tell(piece.text, end="")
            case Seam():
                self.tell(
                    f"\n   --- {piece.from_model} is {piece.reason}; {piece.to_model}: {piece.mode} ---\n", end=""
                )
            case _:
                pass

    def _report(
        self, finished: Finished, text: str, pieces: list[Any], outcomes: list[RequestEnded], cut: int, killed: int
    ) -> dict[str, Any]:
        seqs = [p.seq for p in pieces if isinstance(p, Delta)]
        return {
            "attempts": len(finished.attempts),
            "seams": sum(isinstance(p, Seam) for p in pieces),
            "text": finished.text,
            "text_equal": text == finished.text,
            "seq_without_gap": seqs == list(range(len(seqs))),
            "models": [a.model for a in finished.attempts],
            "tokens": {a.model: a.tokens for a in finished.attempts},
            "reasons": [a.outcome for a in finished.attempts],
            "outcomes_stored": len(outcomes),
            "recorded": finished.recorded,
            "cut_after": cut,
            "killed_pid": killed,
            "run_id": finished.run_id,
            "total_s": round(time.monotonic() - self.begun, 2),
        }
