"""What readers hold, what is held back, what is trimmed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from understudy.actors.selector.text import MAX_OVERLAP, Script
from understudy.messages.run import MIN_OVERLAP_CHARS

PIECES = st.lists(st.text(alphabet="abc \n", max_size=8), max_size=12)


def test_trailing_white_space_waits_for_the_next_word() -> None:
    script = Script()
    assert [script.add(t) for t in ("One ", "\n", "two")] == ["One", "", " \ntwo"]
    assert (script.text(), script.seq, script.finish()) == ("One \ntwo", 2, "")


def test_a_good_end_shows_what_was_held() -> None:
    script = Script()
    script.add("One \n")
    assert script.finish() == " \n" and script.text() == "One \n" and script.seq == 2


def test_a_seam_drops_what_was_held() -> None:
    script = Script()
    script.add("One ")
    assert script.continue_from_here(False) == 0
    script.add(" two")
    assert script.text() == "One two"


def test_a_restart_drops_everything_but_counts_on() -> None:
    script = Script()
    script.add("One ")
    assert script.restart() == -1
    assert (script.text(), script.held, script.seq) == ("", "", 1)


@pytest.mark.parametrize(
    ("pieces", "shown"),
    [
        (["a b"], ["a b"]),
        (["go EN"], ["go"]),
        (["go E", "ND"], ["go", " END"]),  # a whole stop string is the engine's to cut, not ours
        (["go E", "at"], ["go", " Eat"]),
        (["go ENE"], ["go"]),
        (["go \n", "\nx"], ["go", " \n\nx"]),
    ],
)
def test_the_beginning_of_a_stop_string_is_held_back(pieces: list[str], shown: list[str]) -> None:
    script = Script(stops=("END", "\n\n\n"))
    assert [script.add(p) for p in pieces] == shown
    script.finish()
    assert script.text() == "".join(pieces)


@given(PIECES, st.text(alphabet="abc", min_size=2, max_size=4))
def test_readers_never_hold_the_beginning_of_a_stop_string(pieces: list[str], stop: str) -> None:
    script = Script(stops=(stop,))
    for piece in pieces:
        script.add(piece)
        assert stop in script.text() + script.held or not any(
            script.text().endswith(stop[:n]) for n in range(1, len(stop))
        )
    script.finish()
    assert script.text() == "".join(pieces)


def test_what_was_repeated_is_counted_and_adds_nothing() -> None:
    script = Script()
    script.add(SHOWN)
    script.continue_from_here(True)
    script.add("  fox began to sing")
    assert not script.added()
    script.add(" home")
    assert script.added() and script.trimmed_chars == len("  fox began to sing")
    script.continue_from_here(False)
    assert (script.added(), script.trimmed_chars) == (False, 0)


SHOWN = "Deep in the forest the fox began to sing"


@pytest.mark.parametrize(
    ("pieces", "joined"),
    [
        ([" to sing of home"], SHOWN + " to sing of home"),  # 7 equal characters are chance
        (["fox began to sing of home"], SHOWN + " of home"),
        (["  fox be", "gan to s", "ing", " of home"], SHOWN + " of home"),
        ([SHOWN, " of home"], SHOWN + " of home"),
        (["fox began to si", "p tea"], SHOWN + "fox began to sip tea"),
        (["the fox began"], SHOWN + "the fox began"),  # inside, not at the end
        (["fox began to sing"], SHOWN),
        ([" of home"], SHOWN + " of home"),
    ],
)
def test_an_instructed_continuation_is_trimmed_by_its_overlap(pieces: list[str], joined: str) -> None:
    script = Script()
    script.add(SHOWN)
    script.continue_from_here(True)
    shown = [script.add(p) for p in pieces]
    rest = script.finish()
    assert script.text() == joined == SHOWN + "".join(shown) + rest


def test_a_long_overlap_does_not_hold_text_back_for_ever() -> None:
    script = Script()
    script.add("ab" * 1000)
    script.continue_from_here(True)
    shown = [script.add("ab") for _ in range(MAX_OVERLAP)]
    assert any(shown)


@given(PIECES)
def test_shown_pieces_are_the_text_and_never_end_in_white_space(pieces: list[str]) -> None:
    script = Script()
    shown = [t for t in (script.add(p) for p in pieces) if t]
    assert all(t == t.rstrip() for t in shown) and script.seq == len(shown)
    assert "".join(shown) + script.held == "".join(pieces)
    script.finish()
    assert script.text() == "".join(pieces)


@given(PIECES, PIECES, st.booleans())
def test_a_continuation_loses_at_most_an_overlap(before: list[str], after: list[str], instructed: bool) -> None:
    script = Script()
    for piece in before:
        script.add(piece)
    kept = script.text()
    script.continue_from_here(instructed)
    for piece in after:
        script.add(piece)
    script.finish()
    new, whole = script.text()[len(kept) :], "".join(after)
    assert script.text().startswith(kept) and whole.endswith(new)
    cut = whole[: len(whole) - len(new)].lstrip()
    assert not cut or (instructed and len(cut) >= MIN_OVERLAP_CHARS and kept.endswith(cut))


@given(st.text(alphabet="abcdefgh ", min_size=MIN_OVERLAP_CHARS, max_size=60), st.integers(0, 60), st.text(max_size=9))
def test_a_repeated_end_is_always_found(words: str, size: int, more: str) -> None:
    script = Script()
    script.add(words)
    kept = script.text()
    overlap = kept[-max(size, MIN_OVERLAP_CHARS) :]
    if len(overlap.lstrip()) < MIN_OVERLAP_CHARS:
        return
    script.continue_from_here(True)
    for char in overlap + "|" + more:
        script.add(char)
    script.finish()
    assert script.text() == kept + "|" + more
