"""Kept answers as `bench fairness` counts them, and the search of `bench erasure`; `bench rotation` runs the rest."""

from __future__ import annotations

from pathlib import Path

import pytest

from understudy.tools.bench import erasure, kept

pytestmark = pytest.mark.timeout(90)


async def test_repeats_cost_no_call_and_nobody_hears_anothers_answer() -> None:
    found = await kept.crossing()
    assert (found.cache_crossed, found.planted_found, found.missed, found.asked) == (0, 1, 0, 3 * len(kept.PAIRS))


def test_the_search_names_each_file_that_holds_a_string(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "a").write_bytes(b"\0\0key\0")
    (tmp_path / "b").write_bytes(b"k ey")
    assert erasure.search(tmp_path, {"k": b"key", "space": b"k "}) == ["space in b", "k in deep/a"]
    spelt = erasure.spellings("key", b"\xab\xcd\xef")
    assert [what in b"... abcdef ..." for what in spelt.values()].count(True) == 1


@pytest.mark.parametrize(
    ("row", "crossed", "missed"),
    [
        (kept.Asked(True, False, 1), 0, 0),
        (kept.Asked(True, True, 0), 1, 0),
        (kept.Asked(True, True, 1), 1, 0),
        (kept.Asked(True, False, 0), 1, 0),
        (kept.Asked(False, True, 0), 0, 0),
        (kept.Asked(False, False, 1), 0, 1),
        (kept.Asked(False, True, 1), 0, 1),
    ],
)
def test_what_counts_as_crossed_and_as_missed(row: kept.Asked, crossed: int, missed: int) -> None:
    assert (kept.crossed([row]), kept.missed([row])) == (crossed, missed)
