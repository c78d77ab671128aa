"""The audit's chain: every way to touch it is found, on real files, and the entry is named."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from understudy.actors.host.vault import Mark, Vault, locked
from understudy.actors.host.vault_audit import Anchor, Book, Entry, Finding, audit_path, entries, hash_of, opened
from understudy.actors.host.vault_root import RootFile

ROOT = b"r" * 32
COUNT = 6


def made(folder: Path) -> Path:
    """A vault with some entries."""
    path = folder / "v"
    Vault.create(path, "v1", RootFile(path="/nowhere"), ROOT).save(Mark())
    for n in range(COUNT):
        with opened(path, ROOT) as book:
            book.write("operator:me", "use", "lab", f"k{n}")
    return path


def findings(path: Path, *anchors: Anchor) -> list[Finding]:
    with opened(path, ROOT) as book:
        return book.verify(anchors)[1]


def rewrite(path: Path, change: Callable[[list[dict[str, Any]]], None], *, hashes: bool = False) -> None:
    """Touch the file as somebody without the root key can; `hashes`: make the chain of hashes fit again."""
    rows = [json.loads(line) for line in audit_path(path).read_text().splitlines()]
    change(rows)
    prev = "0" * 64
    for row in rows if hashes else []:
        row["prev"] = prev
        entry = msgspec.convert(row, Entry)
        row["hash"] = prev = hash_of(entry)
    audit_path(path).write_text("".join(json.dumps(row, separators=(",", ":")) + "\n" for row in rows))


def change_third(rows: list[dict[str, Any]]) -> None:
    rows[2]["key_id"] = "k-other"


def drop_third(rows: list[dict[str, Any]]) -> None:
    del rows[2]


def drop_newest(rows: list[dict[str, Any]]) -> None:
    del rows[-1]


def swap(rows: list[dict[str, Any]]) -> None:
    rows[2], rows[3] = rows[3], rows[2]


def swap_numbered(rows: list[dict[str, Any]]) -> None:
    swap(rows)
    rows[2]["n"], rows[3]["n"] = 3, 4


def drop_third_renumbered(rows: list[dict[str, Any]]) -> None:
    del rows[2]
    for n, row in enumerate(rows):
        row["n"] = n + 1


def drop_all(rows: list[dict[str, Any]]) -> None:
    rows.clear()


def forge_one_more(rows: list[dict[str, Any]]) -> None:
    rows.append({**rows[-1], "n": COUNT + 1, "key_id": "k-forged"})


CASES = [
    (change_third, False, 3, "was changed"),
    (change_third, True, 3, "was rewritten"),
    (drop_third, False, 3, "is not there"),
    (drop_third_renumbered, True, 3, "was rewritten"),
    (drop_newest, False, COUNT, "was dropped"),
    (drop_newest, True, COUNT, "was dropped"),
    (drop_all, False, COUNT, "was dropped"),
    (swap, False, 3, "is not there"),
    (swap_numbered, True, 3, "was rewritten"),
    (forge_one_more, True, COUNT + 1, "was rewritten"),
]
IDS = [f"{c[0].__name__}{'-hashes' if c[1] else ''}" for c in CASES]


@pytest.mark.parametrize(("change", "hashes", "n", "what"), CASES, ids=IDS)
def test_what_was_touched_is_named(
    tmp_path: Path, change: Callable[[list[dict[str, Any]]], None], hashes: bool, n: int, what: str
) -> None:
    path = made(tmp_path)
    assert findings(path) == []
    rewrite(path, lambda rows: None, hashes=True)
    assert findings(path) == [], "the same entries again are no change"
    rewrite(path, change, hashes=hashes)
    first = findings(path)[0]
    assert first.n == n and what in first.what


@pytest.mark.parametrize(("change", "hashes", "n", "what"), CASES, ids=IDS)
def test_what_is_written_later_hides_nothing(
    tmp_path: Path, change: Callable[[list[dict[str, Any]]], None], hashes: bool, n: int, what: str
) -> None:
    path = made(tmp_path)
    rewrite(path, change, hashes=hashes)
    for _ in range(2):
        with opened(path, ROOT) as book:
            book.write("runner-lab", "use", "lab", "k-later")
    assert findings(path)[0].n in (n, 1), "1: with all dropped, everything is missed"


def test_taking_back_audit_and_vault_together_is_known_to_the_log(tmp_path: Path) -> None:
    path, old = made(tmp_path), tmp_path / "old"
    old.mkdir()
    for one in (path, audit_path(path)):
        shutil.copy(one, old / one.name)
    with opened(path, ROOT) as book:
        entry = book.write("operator:me", "revoke", "lab", "k1")
    anchor = Anchor(entry.n, entry.hash, "the log")
    assert findings(path, anchor) == []
    for one in (path, audit_path(path)):
        shutil.copy(old / one.name, one)
    assert findings(path) == [], "the two fit each other"
    assert findings(path, anchor) == [Finding(COUNT + 1, "was dropped: the log knows of it")]
    with opened(path, ROOT) as book:
        book.write("operator:me", "use", "lab", "k1")
    assert findings(path, anchor) == [Finding(COUNT + 1, "is not the one that the log knows")]


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_no_changed_byte_goes_unnoticed(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    path = made(tmp_path_factory.mktemp("v"))
    content = bytearray(audit_path(path).read_bytes())
    at = data.draw(st.integers(0, len(content) - 1))
    content[at] = data.draw(st.integers(0, 255).filter(lambda b: b != content[at]))
    audit_path(path).write_bytes(bytes(content))
    # A line that is split or joined differs in bytes alone where the entries are the same: none such is possible here.
    assert findings(path) or [e.key_id for e in entries(path)] == [f"k{n}" for n in range(COUNT)]


# --- once a day ------------------------------------------------------------------------------------------------------


DAY_S = 86_400.0


def used(path: Path, day: float, actor: str = "runner-lab", purpose: str = "use", key_id: str = "k1") -> int:
    """Hand a key out; how many entries there are then."""
    with locked(path):
        Book(Vault.open(path, ROOT), lambda: day * DAY_S).use(actor, purpose, "lab", key_id)
    return len(entries(path))


def test_a_key_is_handed_out_many_times_and_written_down_once_a_day(tmp_path: Path) -> None:
    path = made(tmp_path)
    assert [used(path, 20_000 + hour / 24) - COUNT for hour in range(24)] == [1] * 24
    assert used(path, 20_001) - COUNT == 2
    more = [{"actor": "operator:me"}, {"purpose": "try"}, {"key_id": "k2"}]
    assert [used(path, 20_001, **one) - COUNT for one in more * 2] == [3, 4, 5, 5, 5, 5]
    assert used(path, 20_002) - COUNT == 6 and findings(path) == []


def test_an_old_audit_of_another_day_is_not_read_for_it(tmp_path: Path) -> None:
    path = made(tmp_path)
    used(path, 20_000)
    used(path, 20_001)
    assert used(path, 20_000) - COUNT == 3, "a clock that went back costs an entry, and nothing is missed"


def test_what_was_written_and_not_done_does_not_count(tmp_path: Path) -> None:
    path = made(tmp_path)
    with locked(path):
        book = Book(Vault.open(path, ROOT), lambda: 20_000 * DAY_S)
        book.vault.save = lambda mark: None  # type: ignore[method-assign]
        book.use("runner-lab", "use", "lab", "k1")  # and here it was killed
    assert used(path, 20_000, actor="runner-other") - COUNT == 3, "said to be not done, then its own"
    assert used(path, 20_000) - COUNT == 4
    assert used(path, 20_000) - COUNT == 4 and findings(path) == []


@pytest.mark.parametrize("touch", [drop_newest, forge_one_more])
def test_where_somebody_touched_the_end_it_is_always_written(tmp_path: Path, touch: Any) -> None:
    path = made(tmp_path)
    used(path, 20_000)
    before = used(path, 20_000, actor="runner-other")
    rewrite(path, touch, hashes=True)
    changed = len(entries(path))
    assert changed != before and used(path, 20_000) == changed + 1
    assert findings(path)


# --- crashes ---------------------------------------------------------------------------------------------------------

DIES = """
import os, sys
from pathlib import Path
from understudy.actors.host import vault_audit

with vault_audit.opened(Path(sys.argv[1]), b"r" * 32) as book:
    book.vault.save = lambda mark: os._exit(9)
    book.write("operator:me", "revoke", "lab", "k-crash")
"""


def test_stopped_between_entry_and_vault_the_chain_goes_on(tmp_path: Path) -> None:
    path = made(tmp_path)
    for _ in range(2):
        assert subprocess.run([sys.executable, "-c", DIES, str(path)], check=False, timeout=30).returncode == 9
        assert findings(path) == [], "more entries than the vault knows, and sealed"
        with opened(path, ROOT) as book:
            assert [e.key_id for e in book.proven()] == [f"k{n}" for n in range(COUNT)], "it was not done"
    with opened(path, ROOT) as book:
        entry = book.write("runner-lab", "use", "lab", "k-after")
    assert findings(path) == []
    said = [(e.purpose, e.key_id, e.outcome) for e in entries(path)[COUNT:]]
    first = str(COUNT + 1)
    assert said == [
        ("revoke", "k-crash", "ok"), ("not_done", "", first), ("revoke", "k-crash", "ok"), ("not_done", "", first),
        ("use", "k-after", "ok"),
    ]  # fmt: skip
    with opened(path, ROOT) as book:
        assert [e.key_id for e in book.proven() if e.purpose == "use"] == [*(f"k{n}" for n in range(COUNT)), "k-after"]
        assert [e.n for e in book.proven() if e.purpose == "revoke"] == []
    assert entry.n == COUNT + 5


def test_a_vault_that_was_taken_back_is_known_to_the_log(tmp_path: Path) -> None:
    """The vault alone: its audit goes on. At once, and when somebody has written since."""
    path = made(tmp_path)
    before = path.read_bytes()
    with opened(path, ROOT) as book:
        entry = book.write("operator:me", "revoke", "lab", "k1")
    path.write_bytes(before)
    anchor, back = Anchor(entry.n, entry.hash, "the log"), "was taken back: the log knows that it was done"
    assert findings(path) == [] and back in findings(path, anchor)[0].what
    with opened(path, ROOT) as book:
        book.write("runner-lab", "use", "lab", "k1")
    assert [(f.n, back in f.what) for f in findings(path, anchor)] == [(entry.n, True)]


LIMITED = """
import resource, signal, sys
from pathlib import Path
from understudy.actors.host import vault_audit

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
limit = vault_audit.audit_path(Path(sys.argv[1])).stat().st_size + 50
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
with vault_audit.opened(Path(sys.argv[1]), b"r" * 32) as book:
    try:
        book.write("runner-lab", "use", "lab", "k-after")
    except vault_audit.VaultError as error:
        print(error.code)
"""


def test_an_entry_that_has_no_room_is_no_entry(tmp_path: Path) -> None:
    """The first write of it takes a part and says no error."""
    path = made(tmp_path)
    for n in range(20):  # longer than the vault, which is under the same limit
        with opened(path, ROOT) as book:
            book.write("operator:me", "use", "lab", f"k{n}")
    whole = audit_path(path).read_bytes()
    done = subprocess.run([sys.executable, "-c", LIMITED, str(path)], check=False, timeout=30, capture_output=True)
    assert done.stdout == b"unwritable\n", done.stderr
    assert audit_path(path).read_bytes() == whole and findings(path) == []


def test_a_seal_of_any_characters_is_no_seal(tmp_path: Path) -> None:
    path = made(tmp_path)
    rewrite(path, lambda rows: rows[-1].update(seal="ü" * 64))
    assert "was rewritten" in findings(path)[0].what


def test_half_an_entry_is_set_aside_and_kept(tmp_path: Path) -> None:
    path = made(tmp_path)
    with audit_path(path).open("ab") as file:
        file.write(b'{"n":7,"at_ms":1')
    assert findings(path)[0].n == COUNT + 1
    with opened(path, ROOT) as book:
        book.write("runner-lab", "use", "lab", "k-after")
    assert findings(path) == [] and len(entries(path)) == COUNT + 1
    assert (tmp_path / "v.audit.torn").read_bytes() == b'{"n":7,"at_ms":1\n'


def test_a_hash_covers_every_field(tmp_path: Path) -> None:
    entry = entries(made(tmp_path))[1]
    assert hash_of(entry) == entry.hash != hashlib.sha256(b"").hexdigest()
    for field in entry.__struct_fields__:
        if field not in ("hash", "seal"):
            old = getattr(entry, field)
            changed = msgspec.structs.replace(entry, **{field: old + 1 if isinstance(old, int) else f"{old}x"})
            assert hash_of(changed) != entry.hash, field
