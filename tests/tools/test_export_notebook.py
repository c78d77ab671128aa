"""The README's notebook, run on exports whose figures are known."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from understudy.bus.log_query import LogQuery
from understudy.bus.port import Received
from understudy.messages.events import RequestEnded
from understudy.messages.generate import Attempt
from understudy.messages.wire import encode
from understudy.tools.exporting import Manifest
from understudy.tools.exporting.parquet import ParquetWriter

for module in ("pyarrow", "pandas", "matplotlib"):
    pytest.importorskip(module, reason="needs the extra `analysis`")

TRIED = (
    Attempt(model="a", outcome="server_error", total_ms=4.0),
    Attempt(model="b", outcome="ok", first_token_ms=3.0, total_ms=9.0),
)


def ended(n: int, attempts: tuple[Attempt, ...]) -> Received:
    event = RequestEnded(
        at_ms=n, run_id=f"r{n}", instance="s", outcome="finished", task="t", as_of_seq=1, topology="h", digest="d",
        model="b", attempts=attempts,
    )  # fmt: skip
    return Received("tta.evt.request.ended", encode(event), seq=n, at_ms=1_800_000_000_000 + n)


def notebook(root: Path, folder: Path, rows: list[Received]) -> str:
    """What the notebook prints of a file with these rows."""
    writer = ParquetWriter(folder / "events.parquet")
    manifest = Manifest(format="parquet", stream="S", created="", asked={}, query=LogQuery())
    writer.handle()
    writer.append(rows, manifest)
    writer.close()
    snippets = re.findall(r"```python\n(.*?)```", (root / "README.md").read_text(), re.S)
    (code,) = [one for one in snippets if "read_parquet" in one]
    env = {**os.environ, "MPLBACKEND": "Agg"}
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=folder, env=env
    ).stdout


def test_every_attempt_counts_once(root: Path, tmp_path: Path) -> None:
    out = notebook(root, tmp_path, [ended(1, TRIED), ended(2, TRIED[1:]), ended(3, ())])
    assert re.findall(r"^(\w+) +(server_error|ok) +(\d+)$", out, re.M) == [("a", "server_error", "1"), ("b", "ok", "2")]


def test_a_log_in_which_nothing_was_tried(root: Path, tmp_path: Path) -> None:
    assert notebook(root, tmp_path, [ended(1, ())])
