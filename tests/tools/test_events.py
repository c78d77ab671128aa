"""What people and programs read of the log, whatever stands in it."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

from understudy.actors.host.state_folder import take
from understudy.bus.log_query import LogQuery
from understudy.bus.port import Received
from understudy.bus.server import NatsServer
from understudy.messages.events import AttemptEnded, FeedbackGiven
from understudy.messages.wire import encode
from understudy.tools.events import line
from understudy.tools.exporting import Manifest
from understudy.tools.exporting.text import csv_file
from understudy.tools.rawlog import export, exported, exported_file


@pytest.mark.parametrize("at_ms", [10**17, 2**62, -(10**17)])
def test_a_time_that_no_calendar_has_is_said_as_its_number(at_ms: int) -> None:
    assert f"at_ms={at_ms}" in line(1, FeedbackGiven(at_ms=at_ms, run_id="r", rating=1.0))


DEEP = b"[" * 100_000 + b"]" * 100_000


@pytest.mark.parametrize("payload", [DEEP, b' {"a":1}', b'{"a":1}\r', b'{"a":1}\n', b"", b'{"a": 1}', b"\xff"])
def test_json_lines_hold_the_very_bytes(payload: bytes) -> None:
    (found,) = exported(export(Received("tta.evt.odd.thing", payload, seq=1, at_ms=5)))
    assert (found.seq, found.subject, found.payload) == (1, "tta.evt.odd.thing", payload)


def test_a_line_that_is_too_deep_is_one_that_cannot_be_read() -> None:
    (found,) = exported(b'{"seq":1,"subject":"s","payload":' + DEEP + b"}")
    assert found.payload.startswith(b"unreadable line")


def test_a_folder_without_events_has_none(tmp_path: Path) -> None:
    assert list(exported_file(tmp_path)) == []


@pytest.mark.parametrize("hostile", ['=HYPERLINK("http://x")', "+1", "-1", "@SUM(A1)"])
def test_no_name_is_a_formula_in_csv(hostile: str, tmp_path: Path) -> None:
    writer, out = csv_file(tmp_path / "log.csv"), tmp_path / "log.csv"
    manifest = Manifest(format="csv", stream="S", created="", asked={}, query=LogQuery())
    event = encode(AttemptEnded(at_ms=-1, run_id="r", attempt=1, model=hostile, reason="-", total_ms=-1.5))
    payloads = [event, hostile.encode()]
    writer.handle()
    writer.open(manifest)
    writer.append([Received("tta.evt.x.y", one, seq=n, at_ms=5) for n, one in enumerate(payloads)], manifest)
    writer.close()
    named, odd = csv.DictReader(io.StringIO(out.read_text(), newline=""))
    assert (named["model"], named["reason"], named["payload"]) == (f"'{hostile}", "'-", event.decode())
    assert named["total_ms"] == "-1.5", "a number is none"
    assert odd["payload"] == "" and odd["payload_base64"]


def test_subjects_that_overlap_under_the_applications_own_name(tmp_path: Path) -> None:
    """What its name is, is known with the connection."""
    code = "import sys; from understudy.tools.cli import main; main(sys.argv[1:])"
    words = ["events", "--state", str(tmp_path), "--subject", "game.evt.model.*", "--subject", "*.loaded"]
    with NatsServer(tmp_path / "nats") as server, take(tmp_path):
        (tmp_path / "run.json").write_text(json.dumps({"url": server.url, "app": "game", "password": ""}))
        done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("invalid: --subject: game.evt.model.* and game.evt.*.loaded overlap"), done.stderr
