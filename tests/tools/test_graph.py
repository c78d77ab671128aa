"""What `understudy graph` says to what it cannot do: one line with what would be right."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from understudy.actors.projector.questions import QUESTIONS
from understudy.tools.cli import main

pytest.importorskip("neo4j")
NOBODY = ("--uri", "bolt://127.0.0.1:1")


def said(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[object, str]:
    with pytest.raises(SystemExit) as ended:
        main(["graph", *words])
    return ended.value.code, capsys.readouterr().err.strip()


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (("worse", "--window", "7x", *NOBODY), 2, "--window 7x: write a number and one of s, m, h, d"),
        (("qualify", "--set", "max_usd=nan", *NOBODY), 2, "--set max_usd=nan: max_usd is a number from 0 to 1e+15"),
        (("chains", "--set", "limit=-1", *NOBODY), 2, "--set limit=-1: limit is a number from 0 to 1e+15"),
        (("worse", "--plot", "worse.jpg", *NOBODY), 1, "unknown_format: --plot worse.jpg: end its name with .png"),
        (("worse", "--password-file", "no-such", *NOBODY), 1, "unreadable: --password-file no-such: No such file"),
        (("worse", *NOBODY), 1, "graph_down: ServiceUnavailable: "),
        (("cypher", "worse", *NOBODY), 1, "graph_down: ServiceUnavailable: "),
    ],
)
def test_what_cannot_be_done_is_said_in_a_line(
    words: tuple[str, ...], code: int, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    ended, line = said(capsys, *words)
    assert ended == code and line.startswith(text), line
    assert "Traceback" not in line


def test_a_window_longer_than_time_begins_with_it(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["graph", "cypher", "worse", "--window", "9" * 17 + "d", "--state", str(tmp_path), "--json"])
    assert ended.value.code in (0, None)
    assert json.loads(capsys.readouterr().out)["parameters"]["from"] == 0


@pytest.mark.parametrize("question", QUESTIONS)
@pytest.mark.filterwarnings("error")
def test_a_question_without_an_answer_can_be_drawn(question: str, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from understudy.tools.graph_plot import draw

    for suffix in ("png", "svg"):
        draw(question, QUESTIONS[question].about, [], tmp_path / f"p.{suffix}")
        assert (tmp_path / f"p.{suffix}").stat().st_size > 1_000
