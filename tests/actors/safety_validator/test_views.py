"""Views of a text: what each undoes, and the way back to the raw offsets."""

from __future__ import annotations

import base64
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from understudy.actors.safety_validator import views
from understudy.actors.safety_validator.views import View

MANY = settings(max_examples=100, deadline=None)
PIECES = st.sampled_from([
    "a", "-", " ", "\n", "\u200b", "\ufb01", "\uff4b", "\u00e9", "\U0001f0a1", "\U000e0041", "%41", "%zz", "\\u0041",
    "&#65;", "&#999;", "4c6f6f6b2061726f756e642c20616e64", "0x4c,0x6f " * 13,
    base64.b64encode(b"Look around, and then once more.").decode(),
])  # fmt: skip
TEXTS = st.one_of(st.lists(PIECES, max_size=30).map("".join), st.text(max_size=80))


def nothing(start: int, end: int) -> bool:
    return False


def all_of(text: str) -> Iterator[View]:
    first = views.raw(text)
    clean = views.clean(text, first)
    left = [one for one in (first, clean) if one is not None]
    while left:
        view = left.pop()
        yield view
        if view.kind != "joined":
            left += [one for one in (views.joined(view), *views.decoded(view, nothing)) if one is not None]


def found(text: str, kind: str) -> list[View]:
    return [one for one in all_of(text) if one.kind == kind]


@pytest.mark.parametrize(
    ("text", "kind", "says"),
    [
        ("ｋey\u200b=\u202eab\u00adcd", "clean", b"key=abcd"),
        ("".join(chr(0xE0000 + ord(one)) for one in "hidden"), "clean", b"hidden"),
        ("o\ufb03ce", "clean", b"office"),
        ("a b\n\tc", "joined", b"abc"),
        ("a%2Db\\u002dc\\x2dd&#45;e&#x2D;f", "escapes", b"a-b-c-d-e-f"),
        ("100% of %zz &#999; stay %41", "escapes", b"100% of %zz &#999; stay A"),
        ("see " + base64.b64encode(b"Look around, you.").decode() + " ok", "base64", b"Look around, you."),
        ("ab" + base64.b64encode(b"Look around, you.").decode(), "base64", b"Look around, you."),
        (base64.encodebytes(b"Look around, and then look again at everything here. " * 3).decode(), "base64", b"again"),
        (base64.urlsafe_b64encode(b"\xfb\xff\xbeLook around, you").decode(), "base64", b"\xfb\xff\xbeLook"),
        (b"Look around, you.".hex(), "hex", b"Look around, you."),
        (b"Look around, you.".hex(":"), "hex", b"Look around, you."),
        (", ".join(f"0x{one:02x}" for one in b"Look around, you."), "hex", b"Look around, you."),
    ],
)
def test_a_view_says_what_was_hidden(text: str, kind: str, says: bytes):
    assert any(says in one.data for one in found(text, kind))


def test_views_of_views_go_three_deep_and_no_deeper():
    text = "Look around, you: there is a lamp."
    for depth in range(1, 5):
        text = base64.b64encode(text.encode()).decode()
        seen = any(b"there is a lamp" in one.data for one in all_of(text))
        assert seen == (depth <= views.MAX_DEPTH)


def test_a_plain_text_has_no_views():
    assert [one.kind for one in all_of("Look")] == ["raw"]


@MANY
@given(TEXTS)
def test_each_byte_came_from_within_the_text_and_in_order(text: str):
    for view in all_of(text):
        spans = [view.raw_span(at, at + 1) for at in range(len(view.data))]
        assert all(0 <= start < end <= len(text) for start, end in spans), view.kind
        assert spans == sorted(spans), view.kind
        if view.data:
            assert view.raw_span(0, len(view.data)) == (spans[0][0], spans[-1][1])


@MANY
@given(TEXTS)
def test_bytes_that_stand_for_themselves_map_to_themselves(text: str):
    for view in all_of(text):
        if view.kind == "raw" or (view.kind == "joined" and view.depth == 1 and view.parent and not view.parent.depth):
            for at, byte in enumerate(view.data):
                start, end = view.raw_span(at, at + 1)
                if ord(text[start]) == byte:
                    assert end == start + 1
                else:
                    assert not text[start].isascii()


@MANY
@given(st.binary(min_size=16, max_size=60), st.integers(0, 20))
def test_a_byte_of_base64_maps_to_the_digits_that_hold_it(data: bytes, before: int):
    digits = base64.b64encode(data).decode().rstrip("=")
    text = "." * before + digits
    for view in found(text, "base64"):
        if view.data[: len(data)] != data:
            continue
        for at in range(len(data)):
            start, end = view.raw_span(at, at + 1)
            cut = base64.b64decode(digits[(start - before) // 4 * 4 :][:4] + "===")
            assert data[at] in cut and end - start == 2


@MANY
@given(TEXTS)
def test_all_views_together_are_linear_in_the_text(text: str):
    sizes = [len(data) for data in views.everything(text)]
    assert len(sizes) <= 2 * sum(6**depth for depth in range(views.MAX_DEPTH + 1)) * 2
    assert sum(sizes) <= 160 * (len(text) + 16)


@pytest.mark.parametrize(
    "piece", ["Z2hw", "VVVV", "4141", "%2541", "a\u200b", "%41", "&#38;", "aaaa ", "Z2hwX2FCY0RlRmdI\n"]
)
def test_a_text_four_times_as_long_has_four_times_the_views(piece: str):
    def cost(times: int) -> int:
        return sum(len(data) for data in views.everything(piece * times))

    assert cost(4000) <= 4.1 * cost(1000)
