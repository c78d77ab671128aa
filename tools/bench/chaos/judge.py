"""The verdict of a round: what every caller got, what the log holds (read as raw JSON), what a replay says."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import nats
from nats.errors import TimeoutError as NatsTimeout

from understudy.tools.bench.chaos.load import Asked, Body, Ends, Load
from understudy.tools.bench.chaos.stage import Up

SETTLE_S = 20.0
"""After the last caller has left, every outcome is in the log within this time."""
SHOWN = 20


class Verdict(msgspec.Struct, kw_only=True):
    """One round's figures; `problems` tells the requests and runs behind them."""

    requests: int
    finished_exact: int
    unended: int
    wrong_text: int
    ended_twice: int
    said_again: int  # finished runs whose single reply also heard `text_lost` from a survivor
    outcomes_lost: int
    outcomes_doubled: int
    runs: int
    observed_messages: int
    decisions_compared: int
    decisions_never_recorded: int
    decisions_differ: int
    flip_found: bool
    ends: dict[str, dict[str, int]]  # per arm, how often each outcome
    plain: dict[str, dict[str, int]]  # what callers with plain nats-py lost
    problems: dict[str, Any]


async def read_outcomes(url: str, operator: dict[str, str], app: str = "tta") -> dict[str, list[Body]]:
    """Per run its `request.ended`, read with nats-py and json alone."""
    found: dict[str, list[Body]] = {}
    nc = await nats.connect(url, **operator)
    try:
        js = nc.jetstream()
        head = (await js.stream_info(f"{app.upper()}_EVT")).state.last_seq
        sub = await js.subscribe(f"{app}.evt.>", ordered_consumer=True, pending_msgs_limit=1 << 20)
        seen = 0
        while seen < head:
            try:
                msg = await sub.next_msg(timeout=5)
            except NatsTimeout:
                break
            seen = msg.metadata.sequence.stream
            body = json.loads(msg.data)
            if body["type"] == "request.ended.v1":
                found.setdefault(body["run_id"], []).append(body | {"log_seq": seen})
    finally:
        await nc.close()
    return found


async def settled(up: Up, direct_url: str, ends: Ends) -> dict[str, list[Body]]:
    """The log's outcomes, once every run that was seen has one (bounded)."""
    until = time.monotonic() + SETTLE_S
    while True:
        found = await read_outcomes(direct_url, up.operator)
        if ends.runs <= set(found) or time.monotonic() > until:
            return found
        await asyncio.sleep(0.5)


async def judge(load: Load, up: Up, direct_url: str, seed: int) -> Verdict:
    """All checks of one round; the system is still up."""
    log = await settled(up, direct_url, load.ends)
    compared, flip = await _replayed(up, direct_url, seed)
    ours = [one for one in load.asked if one.arm == "ours"]
    lost = sorted(load.ends.runs - set(log))
    doubled = sorted(run for run, outcomes in log.items() if len(outcomes) > 1)
    twice = load.ends.twice()
    return Verdict(
        requests=len(ours),
        finished_exact=sum(one.exact for one in ours),
        unended=sum(not one.from_bus for one in ours),
        wrong_text=sum(one.wrong for one in load.asked),
        ended_twice=len(twice),
        said_again=load.ends.said_again(),
        outcomes_lost=len(lost),
        outcomes_doubled=len(doubled),
        runs=len(log),
        observed_messages=load.ends.observed,
        decisions_compared=compared["compared"],
        decisions_never_recorded=compared["never_recorded"],
        decisions_differ=len(compared["differ"]),
        flip_found=flip,
        ends={
            arm: dict(Counter(o.outcome for o in load.asked if o.arm == arm)) for arm in ("ours", "stream", "single")
        },
        plain={arm: _losses([o for o in load.asked if o.arm == arm]) for arm in ("stream", "single")},
        problems={
            "requests": [_told(one, log) for one in ours if not one.exact][:SHOWN],
            "lost": lost[:SHOWN],
            "doubled": doubled[:SHOWN],
            "twice": dict(list(twice.items())[:SHOWN]),
            "differ": compared["differ"][:SHOWN],
        },
    )


def _losses(asked: list[Asked]) -> dict[str, int]:
    return {
        "asked": len(asked),
        "exact": sum(one.exact for one in asked),
        "failed": sum(one.from_bus and one.outcome != "finished" for one in asked),
        "holes": sum(one.holes for one in asked),
        "no_end": sum(not one.from_bus for one in asked),
        "wrong_text": sum(one.wrong for one in asked),
    }


def _told(one: Asked, log: dict[str, list[Body]]) -> dict[str, Any]:
    """A request that did not go as it should, with everything that was heard about it but the words."""
    heard = [(round(at, 2), _brief(body)) for at, body in one.heard if body.get("type") != "model.delta.v1"]
    runs = list(dict.fromkeys(b["run_id"] for _, b in one.heard if b.get("run_id")))
    return {
        "n": one.n,
        "from_s": round(one.begun, 2),
        "to_s": round(one.ended, 2),
        "outcome": one.outcome,
        "deltas": one.deltas,
        "chars": [len(one.text), len(one.whole or ""), len(one.expected)],
        "heard": heard,
        "log": {run: [_brief(body) for body in log.get(run, [])] for run in runs},
    }


def _brief(body: Body) -> dict[str, Any]:
    names = ("type", "code", "outcome", "run_id", "instance", "model", "mode", "reason", "keep_seq", "last_seq")
    found = {name: body[name] for name in (*names, "recorded", "log_seq", "finish_reason") if name in body}
    tried = [f"{a['model']}:{a['outcome']}" for a in body.get("attempts", ())]
    return found | ({"attempts": tried} if tried else {})


# --- replay, each time in a fresh process --------------------------------------------------------------------------


async def _understudy(*args: str) -> bytes:
    code = "from understudy.tools.cli import main; main()"
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, *args, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL
    )
    out, _ = await child.communicate()
    return out


async def _replayed(up: Up, direct_url: str, seed: int) -> tuple[dict[str, Any], bool]:
    """What `understudy replay` says of the live log, and whether it finds one flipped byte in an export of it."""
    where = ["--nats", direct_url] if up.external else ["--state", str(up.state)]
    said = json.loads(await _understudy("replay", "--json", *where))
    export = await _understudy("events", "--json", *where)
    path = up.folder / "flipped.jsonl"
    path.write_bytes(flip(export, random.Random(seed)))
    found = json.loads(await _understudy("replay", "--json", "--file", str(path)))
    return said, len(found["differ"]) > len(said["differ"])


def flip(export: bytes, rng: random.Random) -> bytes:
    """One bit of one byte of one decision of an exported log, drawn."""
    spans: list[tuple[int, int]] = []
    at = 0
    for line in export.split(b"\n"):
        begin = line.find(b'"decision":{')
        if begin >= 0:
            begin += len(b'"decision":')
            _, size = json.JSONDecoder().raw_decode(line[begin:].decode())
            spans.append((at + begin, at + begin + len(line[begin:].decode()[:size].encode())))
        at += len(line) + 1
    begin, end = rng.choice(spans)
    i = rng.randrange(begin, end)
    return export[:i] + bytes([export[i] ^ (1 << rng.randrange(8))]) + export[i + 1 :]


def keep(load: Load, folder: Path) -> None:
    """Everything that was heard, for whoever looks into a problem."""
    with contextlib.suppress(OSError), (folder / "asked.jsonl").open("wb") as file:
        for one in load.asked:
            file.write(msgspec.json.encode(one) + b"\n")
