"""What the engine is asked for: a prefill natively, or a last turn that asks to go on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from understudy.actors.runner.local import Text
from understudy.actors.runner.local_edge import LocalEdge
from understudy.messages.generate import Parameters, Turn
from understudy.messages.run import RunModel
from understudy.messages.step import CallText, Input
from understudy.messages.topology import Model


@pytest.mark.parametrize(
    ("form", "turns", "prefill"),
    [("native", ["Tell."], "Once {upon}"), ("instructed", ["Tell.", "<<<Once {upon}>>>"], ""), ("none", ["Tell."], "")],
)
def test_the_two_forms_of_continuing(form: Any, turns: list[str], prefill: str) -> None:
    edge = LocalEdge("m", Model(provider="local"), Path(), lambda: 0.0)
    run = RunModel(
        run_id="r",
        attempt=1,
        model="m",
        messages=(Turn(role="user", content="Tell."),),
        parameters=Parameters(max_tokens=5, temperature=0.0, top_p=1.0, seed=1),
        remaining_ms=1_000.0,
        prefill="" if form == "none" else "Once {upon}",
        continuation=form,
    )
    spec = edge._spec("r.1", run)
    assert spec.prefill == prefill
    assert [text[-len(end) :] for (_, text), end in zip(spec.messages, turns, strict=True)] == turns
    assert {role for role, _ in spec.messages} == {"user"}


def test_the_engine_s_counts_are_exact() -> None:
    edge, fed = LocalEdge("m", Model(provider="local"), Path(), lambda: 0.0), list[Input]()
    edge._feed = fed.append
    edge._take([Text("c", "One", 2)])
    assert fed == [CallText(0.0, "c", "One", 2, exact=True)]
