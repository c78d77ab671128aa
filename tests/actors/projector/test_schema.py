"""The graph's schema has a version: who changes what is written has to change that too, or old graphs stay wrong."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import msgspec

from tests.actors.projector.test_rows import AT, applied, ended
from understudy.actors.projector import cypher
from understudy.actors.projector.place import Retention
from understudy.actors.projector.questions import QUESTIONS
from understudy.actors.projector.rows import Folding
from understudy.messages.benchmarks import BenchmarkMeasured, ModelDrifted, TaskScore
from understudy.messages.buckets import DAY_MS
from understudy.messages.cost import ProviderExhausted
from understudy.messages.events import Event, FeedbackGiven, ModelSwitched, ModelUnavailable
from understudy.tools.graph import documented

KNOWN = (7, "26482712bc7cbe13")
"""Version, and what it comes to."""

FACTS: tuple[Event, ...] = (
    applied(AT, a=1.5, b=0.0),
    ended(AT + 1, ("a", "stall_timeout"), ("x", "busy"), ("b", "ok")),
    ModelSwitched(at_ms=AT + 2, model="b", from_model="a", run_id="r", mode="continue", reason="gone", task="t"),
    FeedbackGiven(at_ms=AT + 3, run_id="r", rating=0.25, model="b", task="t"),
    BenchmarkMeasured(at_ms=AT + 4, bench_id="b", model="a", suite="s", suite_hash="h", seed=1,
                      tasks=(TaskScore(task="t", items=2, scored=2, score_u=1_500_000),)),
    ModelUnavailable(at_ms=AT + 5, model="a", reason="gone", was="healthy", retry_at_ms=0),
    ModelDrifted(at_ms=AT + 6, model="b", figure="latency_ms", direction="worse", since_ms=AT, until_ms=AT + 1,
                 before=1.0, after=2.0),
    ProviderExhausted(at_ms=AT + 7, provider="p", quota="free", until_ms=AT + 9),
    ended(AT + DAY_MS, ("a", "ok")),
)  # fmt: skip


def digest() -> str:
    """Of all that is written for these facts, and of what sweeps and sums it."""
    fold = Folding()
    for seq, fact in enumerate(FACTS, 1):
        fold.take(seq, fact)
    rows = fold.cut()
    limits = [Retention().limits(day) for day in (20_012, 20_013)]
    written = [rows.sweep, rows.new_week, limits, *cypher.batch(rows, 0), cypher.schema(), cypher.SWEEPS, cypher.OLDEST]
    written.append(cypher.SUMMED)
    return hashlib.sha256(msgspec.json.encode(written)).hexdigest()[:16]


def test_what_is_written_is_that_of_its_version() -> None:
    now = (cypher.VERSION, digest())
    assert now == KNOWN, f"the graph is another one: raise cypher.VERSION and put {now} here"


def test_statements_name_labels_of_the_first_half_alone() -> None:
    texts = [*(text for text, _ in cypher.batch(_some(), 0)), *cypher.SWEEPS, cypher.OLDEST, *cypher.SUMMED.values()]
    texts += [one.cypher for one in QUESTIONS.values()]
    for text in texts:
        labels = set(re.findall(r"\(\w*:(\w+)", text))
        assert labels and all(one.removeprefix("Pm") in cypher.LABELS for one in labels), labels
        assert ":Pm2" not in text and cypher.of(text, "Pm") == text
        other = cypher.of(text, "Pm2")
        assert not re.search(r":Pm(?!2)", other) and other.replace(":Pm2", ":Pm") == text


def test_there_is_no_index_over_times() -> None:
    """That of the embedded server names nodes that are long deleted."""
    made = [one for one in cypher.schema() if not one.startswith("DROP ")]
    assert all(one.startswith("CREATE CONSTRAINT ") and one.endswith(" IS UNIQUE") for one in made)


def test_what_others_hang_on_is_emptied_last() -> None:
    """Its deletion would be one transaction over all of them."""
    assert cypher.EMPTIED[:5] == ["Bucket", "Day", "Chain", "Change", "Incident"] and set(cypher.EMPTIED) == set(
        cypher.LABELS
    )


def _some():  # type: ignore[no-untyped-def]
    fold = Folding()
    for seq, fact in enumerate(FACTS, 1):
        fold.take(seq, fact)
    return fold.cut()


def test_questions_name_their_columns_and_parameters() -> None:
    for name, one in QUESTIONS.items():
        last = one.cypher[one.cypher.rindex("RETURN") :]
        returned = last.removeprefix("RETURN").split("ORDER BY")[0]
        for column in one.columns:
            assert re.search(rf"\b{column}\b", returned), (name, column)
        used = set(re.findall(r"\$(\w+)", one.cypher)) - {"from", "to"}
        assert used == set(one.parameters), name


def test_the_documented_cypher_is_that_of_the_questions() -> None:
    text = Path("deploy/graph/questions.cypher").read_text(encoding="utf-8")
    assert text == f"{documented()}\n", "understudy graph cypher > deploy/graph/questions.cypher"
