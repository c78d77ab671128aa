"""`understudy evaluate` on small made files: the figures, the controls, the bars, and what it refuses."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from understudy.actors.safety_validator.examples import example
from understudy.tools import evaluate

CODE = "import sys; from understudy.tools.cli import main; main(sys.argv[1:])"


def understudy(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", CODE, "evaluate", *args], capture_output=True, text=True, check=False, timeout=50
    )


def b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def secret(kind: str, template: str, source: str = "generated", hide: str = "") -> dict[str, Any]:
    key = example(template)
    text = f"key {b64(key) if hide else key} there"
    return {"source": source, "type": hide + kind, "label": 1, "text_b64": b64(text), "secret_b64": b64(key)}


def harmless(text: str, source: str = "generated", **more: Any) -> dict[str, Any]:
    return {"source": source, "type": "plain", "text_b64": b64(text), **more}


ROWS = [
    secret("github", "ghp_{alnum:36}"),
    secret("groq", "gsk_{alnum:52}"),
    secret("base64", "hf_{alpha:34}", hide="obf_"),
    secret("jwt", "eyJ{alnum:30}.eyJ{alnum:40}.{url:43}", "gitleaks"),
    {"source": "gitleaks", "type": "none", "label": 1, "text_b64": b64("nothing that a rule could find")},
    harmless("Look around.", label=0),
    harmless("Walk north.", label=0),
]


def written(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_secrets_are_counted_and_a_bar_that_does_not_hold_ends_with_1(tmp_path: Path):
    done = understudy("secrets", "--data", str(written(tmp_path / "rows.jsonl", ROWS)), "--json")
    report = json.loads(done.stdout)
    assert report["rows"] == 7
    assert report["recall"] == {"generated": 1.0, "gitleaks": 0.5}
    assert report["general"] == {"generated": [0, 3], "gitleaks": [1, 2]}, (
        "the JWT is nobody's, the others are vendors'"
    )
    assert (report["recall_generated"], report["recall_obf"], report["recall_gitleaks"]) == (1.0, 1.0, 0.5)
    assert report["false_alarm"] == {"generated": 0.0}
    assert report["counts"]["recall_gitleaks"] == [1, 2]
    assert (report["named"], report["unnamed"], report["survived_redaction"]) == (4, 1, 0)
    assert report["survivors_before"] == 4, "the search for survivors does not see them where they are"
    assert report["planted_found"] == report["planted"] > 300
    assert report["us_p50"] > 0
    assert [one["id"] for one in report["bars"] if not one["holds"] and one["id"] != "us_p50"] == ["recall_gitleaks"]
    assert done.returncode == 1


def test_rows_without_a_label_are_all_negatives(tmp_path: Path):
    rows = [
        {"id": 1, "source": "chat", "crisis": 0, "text": text} for text in ("Look.", example("my key: ghp_{alnum:36}"))
    ]
    report = evaluate.evaluate("secrets", evaluate.read(written(tmp_path / "chat.jsonl", rows)))
    assert report.counts["false_alarm_unlabelled"] == (1, 2)
    assert report.false_alarm == {"chat": 0.5}
    assert report.recall_generated is None
    assert [one.id for one in report.bars if not one.holds and one.id != "us_p50"] == ["false_alarm_unlabelled"]


def test_pii_is_counted_by_type_and_names_apart(tmp_path: Path):
    rows = [
        {"type": "email", "label": 1, "value": "ana@example.org", "text": "write to ana@example.org"},
        {"type": "name_other", "label": 1, "value": "Zed", "text": "Zed was there"},
        {"type": "none", "label": 0, "value": None, "text": "room 101"},
    ]
    path = written(tmp_path / "pii.jsonl", rows)
    report = evaluate.evaluate("pii", evaluate.read(path))
    assert report.recall == {"email": 1.0, "name_other": 0.0}
    assert (report.recall_format, report.named, report.survived_redaction) == (1.0, 1, 0)
    done = understudy("pii", "--data", str(path))
    assert done.returncode == 0, done.stdout
    assert "recall_format" in done.stdout and "ana@" not in done.stdout


def test_a_redaction_that_leaves_the_secret_in_a_view_is_seen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """The planted control: with a redaction that only hides, the count is not zero."""
    monkeypatch.setattr(evaluate, "redact", lambda text, findings, scan: b64(text))
    report = evaluate.evaluate("secrets", evaluate.read(written(tmp_path / "rows.jsonl", ROWS)))
    assert report.survived_redaction == report.named == 4
    assert "survived_redaction" in [one.id for one in report.bars if not one.holds]


@pytest.mark.parametrize(
    ("lines", "fault"),
    [
        ('{"text": "a"}\n{"text": 3}\n', ":2: Expected `str | null`, got `int` - at `$.text`"),
        ('{"label": 1}\n', ":1: neither `text` nor `text_b64`"),
        ('{"text_b64": "%%%"}\n', ":1: Error"),
        ("no json\n", ":1: JSON is malformed"),
        ("\n", ": no rows"),
    ],
)
def test_bad_rows_are_refused_with_their_line(lines: str, fault: str, tmp_path: Path):
    path = tmp_path / "bad.jsonl"
    path.write_text(lines)
    done = understudy("secrets", "--data", str(path))
    assert done.returncode == 2
    assert fault in done.stderr and done.stderr.startswith("bad_rows: ") and done.stderr.count("\n") == 1


def test_a_file_that_is_not_there_is_refused(tmp_path: Path):
    done = understudy("pii", "--data", str(tmp_path / "none.jsonl"))
    assert done.returncode == 2 and done.stderr.startswith("bad_rows: ")
