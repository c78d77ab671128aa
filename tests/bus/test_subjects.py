"""Subjects: spelling and reading are inverse, wildcards mean what the server means by them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from understudy.bus import subjects

TOKEN = st.text("abzAZ019_-", min_size=1, max_size=6)
PATTERN = st.lists(st.sampled_from(["a", "b", "*", ">"]), min_size=1, max_size=5)
PLAIN = st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, max_size=5)


@given(TOKEN, st.sampled_from(subjects.KINDS), TOKEN, TOKEN, st.one_of(st.just(""), TOKEN))
def test_parse_is_the_inverse_of_build(app: str, kind: str, family: str, name: str, key: str) -> None:
    spelled = subjects.build(app, kind, family, name, key)
    assert subjects.parse(spelled) == subjects.Subject(app, kind, family, name, key)
    assert str(subjects.parse(spelled)) == spelled


@given(st.text(max_size=30))
def test_whatever_parses_is_spelled_the_same_again(text: str) -> None:
    try:
        parts = subjects.parse(text)
    except ValueError:
        return
    assert str(parts) == text


@pytest.mark.parametrize(
    "bad",
    ["", "tta.ask.a", "tta.nope.a.b", "tta.ask.a.b.c.d", "tta.ask..b", "tta.ask.a.b.", "tta.ask.*.b", "t.ask.>"],
)
def test_parse_refuses(bad: str) -> None:
    with pytest.raises(ValueError, match=r"token|kind|not <app>"):
        subjects.parse(bad)


def _server_rule(pattern: list[str], subject: list[str]) -> bool:
    """The rule once more, spelled differently: by recursion."""
    if pattern == [">"]:
        return bool(subject)
    if not pattern or not subject:
        return not pattern and not subject
    return pattern[0] in ("*", subject[0]) and _server_rule(pattern[1:], subject[1:])


@given(PATTERN, PLAIN)
def test_matches_is_the_servers_rule(pattern: list[str], subject: list[str]) -> None:
    if ">" in pattern[:-1]:
        return  # the server refuses such a pattern
    assert subjects.matches(".".join(pattern), ".".join(subject)) == _server_rule(pattern, subject)


@given(st.text(min_size=1, max_size=40))
def test_a_slug_is_one_token(model_id: str) -> None:
    try:
        slug = subjects.slug(model_id)
    except ValueError:
        assert not model_id.isprintable() or any(c.isspace() for c in model_id)
        return
    assert len(slug) == len(model_id)
    assert subjects.parse(subjects.build("tta", "ask", "runner", "run", slug)).key == slug


def test_slugs_are_readable() -> None:
    assert subjects.slug("org/model:free") == "org_model_free"
    assert subjects.slug("gpt-4.1") == "gpt-4_1"


@pytest.mark.parametrize("bad", ["", " ", "a b", "a\nb", "a\x00", "\u200b"])
def test_slug_refuses(bad: str) -> None:
    with pytest.raises(ValueError, match="printable"):
        subjects.slug(bad)


def test_names_of_streams() -> None:
    assert subjects.evt_stream("tta") == "TTA_EVT"
    assert subjects.trace_stream("tta") == "TTA_TRACE"
    assert subjects.dead_stream("tta") == "TTA_DEAD"
    assert subjects.claims_bucket("tta") == "TTA_CLAIMS"
    with pytest.raises(ValueError, match="app"):
        subjects.evt_stream("a.b")
