"""The reader's rule with loss, repetition and runs that break off: the application sees one answer."""

from __future__ import annotations

import random
from typing import Any

import pytest

from understudy.bus.reading import Reading
from understudy.messages.generate import Delta, Failed, Finished, Parameters, Resent, Seam, Started, Usage
from understudy.messages.tools import ToolCall, ToolPart


def started(run: str = "r", instance: str = "s1", model: str = "a") -> Started:
    return Started(run_id=run, instance=instance, model=model, deadline_ms=1000)


def delta(seq: int, text: str, run: str = "r", seams: int = 0) -> Delta:
    return Delta(run_id=run, seq=seq, text=text, seams=seams)


def seam(mode: Any, keep: int, following: int, run: str = "r", to: str = "b") -> Seam:
    return Seam(run_id=run, mode=mode, keep_seq=keep, next_seq=following, from_model="a", to_model=to, reason="gone")


def finished(text: str | None, last: int, run: str = "r") -> Finished:
    parameters = Parameters(max_tokens=9, temperature=0.0, top_p=1.0, seed=1)
    return Finished(
        run_id=run,
        text=text,
        model="b",
        finish_reason="stop",
        usage=Usage(),
        parameters=parameters,
        attempts=(),
        last_seq=last,
    )


def read(*messages: Any) -> tuple[Reading, list[Any], list[str]]:
    reading, seen, needs = Reading(), list[Any](), list[str]()
    for message in messages:
        pieces, need = reading.take(message)
        seen += pieces
        needs += [need] if need else []
    return reading, seen, needs


def as_application(pieces: list[Any]) -> str:
    """Another reader, by the rule alone: it gets exactly what the answer yields."""
    held: list[tuple[int, str]] = []
    for one in pieces:
        if isinstance(one, Seam):
            held = [h for h in held if h[0] <= one.keep_seq]
        elif isinstance(one, Delta):
            held.append((one.seq, one.text))
    return "".join(text for _, text in held)


def test_a_plain_answer() -> None:
    reading, seen, needs = read(started(), delta(0, "Once"), delta(1, " upon"), finished("Once upon", 1))
    assert (reading.text, needs, [type(p) for p in seen]) == ("Once upon", [], [Started, Delta, Delta, Finished])


def test_what_comes_twice_is_dropped_and_a_gap_is_asked_for() -> None:
    story = [started(), delta(0, "a"), delta(0, "a"), delta(2, "c"), delta(3, "d")]
    reading, _, needs = read(*story)
    assert (reading.text, reading.next_seq, needs) == ("a", 1, ["resend", "resend"])
    for again in (Resent(run_id="r", known=True, next_seq=4), delta(1, "b"), delta(2, "c"), delta(3, "d")):
        reading.take(again)
    assert reading.text == "abcd"


@pytest.mark.parametrize(("mode", "keep", "text"), [("continue", 1, "abx"), ("restart", -1, "x"), ("replace", 0, "ax")])
def test_seams(mode: str, keep: int, text: str) -> None:
    cut = seam(mode, keep, 2)
    reading, seen, _ = read(started(), delta(0, "a"), delta(1, "b"), cut, cut, delta(2, "x"), cut)
    assert reading.text == as_application(seen) == text
    assert len([p for p in seen if isinstance(p, Seam)]) == 1 and reading.model == "b"


def test_a_seam_that_was_lost_with_what_followed_comes_back() -> None:
    reading, _, needs = read(started(), delta(0, "a"), seam("restart", -1, 3))
    assert needs == ["resend"] and reading.text == "a"
    for again in (delta(1, "b"), delta(2, "c"), seam("restart", -1, 3), delta(3, "x")):
        reading.take(again)
    assert reading.text == "x"


@pytest.mark.parametrize("code", ["interrupted", "text_lost"])
def test_a_run_that_broke_off_goes_on_as_another(code: Any) -> None:
    reading, seen, needs = read(started(), delta(0, "a"), delta(1, "b"), Failed(code=code, text="", run_id="r"))
    assert needs == ["resume"]
    reading.leave_run()
    later = [
        delta(2, "LATE"),
        Failed(code=code, text="", run_id="r"),
        started("q", "s2", "c"),
        delta(0, "x", "q"),
        delta(1, "y", "q"),
        finished("abxy", 1, "q"),
    ]
    for message in later:
        pieces, need = reading.take(message)
        seen += pieces
        assert need == ""
    assert reading.text == as_application(seen) == "abxy"
    assert [p.seq for p in seen if isinstance(p, Delta)] == [0, 1, 2, 3]
    (joint,) = [p for p in seen if isinstance(p, Seam)]
    assert (joint.mode, joint.keep_seq, joint.next_seq, joint.from_model, joint.to_model) == (
        "continue",
        1,
        2,
        "a",
        "c",
    )
    assert reading.finished is not None and (reading.finished.last_seq, reading.finished.run_id) == (3, "q")


def test_a_run_that_broke_off_before_it_had_begun_silences_nothing_but_itself() -> None:
    gone, refused = Failed(code="interrupted", text="", run_id="r"), Failed(code="no_allowed_model", text="")
    reading, _, needs = read(gone)
    assert needs == ["resume"]
    reading.leave_run()
    assert reading.take(gone) == ([], ""), "its end came twice"
    assert reading.take(refused) == ([], "fail") and reading.failed == refused


def test_a_run_that_goes_on_but_begins_anew() -> None:
    reading, seen, _ = read(started(), delta(0, "a"), Failed(code="interrupted", text="", run_id="r"))
    reading.leave_run()
    for message in (started("q"), seam("restart", -1, 0, "q"), delta(0, "x", "q"), finished("x", 0, "q")):
        seen += reading.take(message)[0]
    assert reading.text == as_application(seen) == "x"


def test_a_seam_within_a_resumed_run_keeps_what_came_before() -> None:
    reading, seen, _ = read(started(), delta(0, "a"), Failed(code="interrupted", text="", run_id="r"))
    reading.leave_run()
    for message in (started("q"), seam("continue", -1, 0, "q"), delta(0, "x", "q")):
        seen += reading.take(message)[0]
    assert reading.text == as_application(seen) == "ax"


@pytest.mark.parametrize(("last", "need"), [(1, ""), (2, "resume")])
def test_a_recorded_end_has_no_text(last: int, need: str) -> None:
    reading, _, needs = read(started(), delta(0, "a"), delta(1, "b"), finished(None, last))
    assert needs == ([need] if need else [])
    if not need:
        assert reading.finished is not None and reading.finished.text == "ab"


@pytest.mark.parametrize(
    ("code", "resumable", "need"),
    [
        ("cancelled", True, "resume"),
        ("cancelled", False, "fail"),
        ("bus_down", False, "repeat"),
        ("all_failed", True, "fail"),
        ("invalid", False, "fail"),
    ],
)
def test_other_ends(code: Any, resumable: bool, need: str) -> None:
    _, _, needs = read(started(), Failed(code=code, text="", run_id="r", resumable=resumable))
    assert needs == [need]


def part(seq: int, text: str, index: int = 0, name: str = "", run: str = "r") -> Delta:
    call = ToolPart(index=index, id=f"c{index}" if name else "", name=name)
    return Delta(run_id=run, seq=seq, text=text, kind="tool_call", call=call)


def test_tool_calls_and_reasoning_are_no_text() -> None:
    thought = Delta(run_id="r", seq=0, text="hm", kind="reasoning")
    pieces = [
        thought,
        delta(1, "Let me see. "),
        part(2, "", name="look"),
        part(3, '{"far": '),
        part(5, "{}", 1, "take"),
    ]
    reading, _, _ = read(started(), *pieces[:4], part(4, "true}"), pieces[4])
    calls = (ToolCall(id="c0", name="look", arguments='{"far": true}'), ToolCall(id="c1", name="take"))
    assert (reading.text, reading.tool_calls) == ("Let me see. ", calls)
    reading.take(finished(None, 5))
    assert reading.finished is not None and reading.finished.tool_calls == calls, "the log holds none"
    assert reading.finished.reasoning == "hm"
    reading, _, _ = read(started(), *pieces[:4], seam("restart", -1, 4))
    assert reading.tool_calls == ()


def test_half_a_tool_call_of_a_dead_run_is_dropped() -> None:
    reading, _, _ = read(
        started(),
        part(0, "", name="look"),
        part(1, '{"far"'),
        Failed(code="interrupted", text="", run_id="r", resumable=True),
    )
    reading.leave_run()
    pieces, _ = reading.take(started("r2"))
    assert [(p.mode, p.keep_seq) for p in pieces if isinstance(p, Seam)] == [("restart", -1)]
    reading.take(part(0, "{}", name="take", run="r2"))
    assert reading.tool_calls == (ToolCall(id="c0", name="take"),)


def test_a_run_that_is_not_there_any_more_is_asked_for_again() -> None:
    assert read(started(), Resent(run_id="r", known=False))[2] == ["repeat"]


@pytest.mark.parametrize("seed", range(200))
def test_whatever_is_lost_or_doubled_the_text_is_exact(seed: int) -> None:
    """A selector that says again what is asked for, over a bus that loses and doubles."""
    luck = random.Random(seed)
    journal: list[Any] = []
    seq, text, seams = 0, "", 0
    for _ in range(luck.randint(1, 12)):
        if luck.random() < 0.2:
            mode = luck.choice(["continue", "restart"])
            journal.append(seam(mode, seq - 1 if mode == "continue" else -1, seq, to=f"m{seq}"))
            text = text if mode == "continue" else ""
            seams += 1
        word = luck.choice("abcdef")
        journal.append(delta(seq, word, seams=seams))
        seq, text = seq + 1, text + word
    reading, seen = Reading(), list[Any]()
    wire: list[Any] = [started(), *journal]
    for _ in range(1000):
        if not wire:
            if reading.next_seq == seq:
                break
            wire = [m for m in journal if (m.next_seq if isinstance(m, Seam) else m.seq) >= reading.next_seq]
        message = wire.pop(0)
        if isinstance(message, Started) or luck.random() > 0.2:
            for _ in range(luck.choice([1, 1, 1, 2])):
                seen += reading.take(message)[0]
    assert reading.text == as_application(seen) == text
