"""`understudy bench coldstart` in small: it fills, starts, measures; and the copies it fills with are events."""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from understudy.bus.port import Received
from understudy.messages.events import AttemptEnded, ModelRecovered
from understudy.messages.wire import decode, encode
from understudy.tools.bench.filling import Measured, Template

RUN = "01M7ZDZXVMCSQKDRJEWRB3HH0W"


def test_a_copy_has_the_form_of_its_template_and_ids_of_its_own() -> None:
    event = AttemptEnded(
        at_ms=1_795_277_453_193, id=f"attempt.{RUN}.1", run_id=RUN, attempt=1, model="a/b:1", reason="server_error",
        total_ms=20.042,
    )  # fmt: skip
    template = Template("tta.evt.attempt.ended.a", encode(event))
    copies = [template.copy(1_800_000_000_000 + n, random.Random(n)) for n in range(50)]
    assert len({c.msg_id for c in copies}) == 50
    for n, copy in enumerate(copies):
        found = decode(copy.payload)
        assert isinstance(found, AttemptEnded)
        assert found.id == copy.msg_id == f"attempt.{found.run_id}.1"
        assert found.at_ms == 1_800_000_000_000 + n
        assert (found.model, found.reason, found.attempt) == (event.model, event.reason, event.attempt)
        assert len(copy.payload) == template.size


def test_copies_of_a_numbered_change_are_not_taken_for_one() -> None:
    event = ModelRecovered(at_ms=1_795_277_453_193, id="health.a_b_1.3", model="a/b:1", was="degraded", by="probe")
    template = Template("tta.evt.model.recovered.a", encode(event))
    assert len({template.copy(1_800_000_000_000, random.Random(n)).msg_id for n in range(50)}) == 50


def test_facts_of_a_start_are_not_copied() -> None:
    names = ["topology.applied", "model.loaded", "request.ended", "request.ended", "attempt.ended", "model.switched"]
    measured = Measured([Received(f"tta.evt.{name}.k", b"{}") for name in names])
    assert measured.shares == Counter({"request.ended": 2, "attempt.ended": 1, "model.switched": 1})
    assert measured.requests_ratio == 0.5


@pytest.mark.slow
@pytest.mark.timeout(120)
async def test_a_small_cold_start_is_measured(root: Path) -> None:
    command = [sys.executable, "-c", "import sys; from understudy.tools.cli import main; main(sys.argv[1:])"]
    process = await asyncio.create_subprocess_exec(
        *command, "bench", "coldstart", "--events", "3000", "--json",
        cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    out, err = await process.communicate()
    assert out, err.decode()
    result = json.loads(out)
    bars = {one["id"]: one for one in result["bars"]}
    assert set(bars) == {"ready_snapshot_s", "ready_full_s", "bytes_per_request", "cards_differ"}
    assert bars["cards_differ"]["value"] == 0
    assert 800 < bars["bytes_per_request"]["value"] < 3000
    assert result["detail"]["full"]["as_of_seq"] >= 2_990
    assert "filling" in err.decode()
