"""Every dialect by every fault, streamed and not: what the runner says, what the selector does, what the caller sees.

The expected cells stand in `provider_cells.json`; it says what they are older than. Behind each faulty model stands a
sound one of another dialect. Afterwards all that was written (log, trace, log lines) and every error is searched for
the key, the prompts and the models' words.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from understudy.bus.client import Client
from understudy.messages.generate import Usage
from understudy.tools.bench.providers_asks import Seen, ask, truncated, wrong, zeroed
from understudy.tools.bench.providers_cases import CANARY, DIALECTS, KEY, SPOKEN, Case, cases, topology
from understudy.tools.bench.report import Result, bar, median
from understudy.tools.bench.stage import fake_provider, running

TOGETHER = 12
LOG = "actors.log"
NEEDLES = (KEY.encode(), CANARY.encode(), *SPOKEN)

Found = list[tuple[Case, Seen]]


async def measure(quick: bool = False) -> Result:
    """All cells. `quick`: every ninth, for tests."""
    asked, found = cases(quick), Found()
    with tempfile.TemporaryDirectory(prefix="understudy-bench-") as folder:
        state, key_file = _prepare(Path(folder))
        async with fake_provider(key=KEY) as (url, _):
            plan = topology(url.removesuffix("/v1"), asked, str(key_file))
            async with running(plan, state) as supervisor, await Client.connect(supervisor.url) as client:
                await _ask_all(client, asked, found)
        leaks = _hits(state) + [f"error of {case.model}" for case, seen in found if _tells(seen.said)]
        planted = _planted(Path(folder, "planted"), state)
    return _result(found, leaks, planted)


def _prepare(folder: Path) -> tuple[Path, Path]:
    """A state folder, and a key beside it."""
    state, key_file = folder / "state", folder / "key"
    state.mkdir()
    key_file.touch(0o600)
    key_file.write_text(KEY)
    return state, key_file


async def _ask_all(client: Client, asked: Iterable[Case], found: Found) -> None:
    gate = asyncio.Semaphore(TOGETHER)

    async def one(case: Case) -> None:
        async with gate:
            found.append((case, await ask(client, case)))

    async with asyncio.TaskGroup() as group:
        for case in asked:
            group.create_task(one(case))


# --- what must not be written --------------------------------------------------------------------------------------


def _hits(folder: Path) -> list[str]:
    """Files that hold the key, a prompt or an answer."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return [path.name for path in files if _tells(path.read_bytes())]


def _tells(written: str | bytes) -> bool:
    data = written.encode() if isinstance(written, str) else written
    return any(needle in data for needle in NEEDLES)


def _planted(folder: Path, state: Path) -> int:
    """The same search must find what is there: one file per needle, and one in a copy of the log that was written."""
    folder.mkdir()
    for n, needle in enumerate(NEEDLES):
        Path(folder, f"{n}.blk").write_bytes(b"\x00" * 100 + needle + b"\xff")
    Path(folder, LOG).write_bytes((state / LOG).read_bytes() + CANARY.encode())
    return len(_hits(folder))


def controls(found: Found) -> int:
    """Wrong answers that the same judgement must find: of every kind, one made from a right one.

    The right one is a whole answer in words: only those can be truncated, and cases end in any order.
    """
    healthy = next(((case, seen) for case, seen in found if case.whole and seen.end == "stop"), None)
    if healthy is None:
        return 0
    case, seen = healthy
    cut = replace(seen, text=seen.text[: len(seen.text) // 2], held=None)
    free = replace(seen, usage=Usage())
    moved = replace(case, cell=replace(case.cell, first="server_error", then="continued", end="length"))
    return truncated(case, cut) + zeroed(free) + (set(wrong(moved, seen)) >= {"first", "then", "seam", "end"})


CONTROLS = 3


def _result(found: Found, leaks: list[str], planted: int) -> Result:
    faults = {case.model: wrong(case, seen) for case, seen in found}
    bars = (
        bar("cells", len(found), "asks"),
        bar("cells_wrong", sum(map(bool, faults.values())), "asks", 0),
        bar("truncated_finished", sum(truncated(case, seen) for case, seen in found), "answers", 0),
        bar("usage_zeroed", sum(zeroed(seen) for _, seen in found), "answers", 0),
        bar("leaks", len(leaks), "places", 0),
        bar("planted_found", planted + controls(found), "faults", len(NEEDLES) + 1 + CONTROLS, None, "higher"),
    )
    return Result(bench="providers", bars=bars, detail={"rows": _rows(found, faults), "leaks": leaks})


def _rows(found: Found, faults: dict[str, list[str]]) -> list[dict[str, Any]]:
    """One row per fault, with what each dialect did."""
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for case, seen in found:
        row = rows.setdefault((case.cell.ask, case.cell.row), {"ask": case.cell.ask, "row": case.cell.row})
        cell = row.setdefault(case.dialect, {"attempts": [], "ends": [], "ms": [], "wrong": []})
        cell["attempts"].append(" > ".join(seen.attempts))
        cell["ends"].append(seen.end)
        cell["ms"].append(seen.ms)
        cell["wrong"] += [f"{case.mode}: {word}" for word in faults[case.model]]
    return list(rows.values())


def explain(result: Result) -> str:
    """The table, for people: per dialect the first attempt's word, the end and the median time."""
    lines = [f"{'ask':6} {'fault':19}" + "".join(f" {name:31}" for name in DIALECTS)]
    for row in result.detail["rows"]:
        line = f"{row['ask']:6} {row['row']:19}"
        for dialect in DIALECTS:
            line += f" {_shown(row.get(dialect)):31}"
        lines.append(line.rstrip())
    return "\n".join(lines)


def _shown(cell: dict[str, Any] | None) -> str:
    if cell is None:
        return "-"
    first, *more = cell["attempts"][0].split(" > ")
    words = f"{first}{' >' if more else ''} {cell['ends'][0]} {median(cell['ms']):.0f}ms"
    return f"WRONG {', '.join(cell['wrong'])}" if cell["wrong"] else words
