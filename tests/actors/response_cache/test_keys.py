"""Data keys: sealed for one entry of one conversation, destroyed for good, and nobody else's to read."""

from __future__ import annotations

import sqlite3
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from understudy.actors.response_cache.keys import ROOT_KEY, DataKeys, KeysUnusable


@pytest.fixture
def keys(tmp_path: Path) -> DataKeys:
    found = DataKeys(tmp_path / "conversations")
    for conversation in ("c1", "c2"):
        found.make(conversation, f"k-{conversation}")
    return found


def wrapped(keys: DataKeys, conversation: str) -> bytes:
    with sqlite3.connect(f"file:{keys.path}?mode=ro", uri=True) as db:
        (found,) = db.execute("SELECT wrapped FROM data_key WHERE conversation = ?", (conversation,)).fetchone()
    db.close()
    return found


def files_with(folder: Path, what: bytes) -> list[str]:
    return [p.name for p in folder.rglob("*") if p.is_file() and what in p.read_bytes()]


def test_what_is_sealed_opens_for_its_entry_of_its_conversation_alone(keys: DataKeys) -> None:
    sealed = keys.seal("c1", "k-c1", "e1", b"A door.")
    assert sealed is not None and b"door" not in sealed
    assert keys.open("c1", "e1", sealed) == b"A door."
    assert [keys.open(*where, sealed) for where in (("c1", "e2"), ("c2", "e1"), ("c3", "e1"))] == [None] * 3
    assert keys.seal("c1", "k-c1", "e1", b"A door.") != sealed, "a nonce is drawn once"
    keys.close()


def test_nothing_is_sealed_under_another_key_than_the_one_named(keys: DataKeys) -> None:
    assert keys.seal("c1", "k-c2", "e1", b"x") is None and keys.seal("c3", "k-c3", "e1", b"x") is None
    keys.make("c1", "another")
    assert keys.key_id("c1") == "k-c1", "the first stays"
    keys.close()


def test_changed_bytes_do_not_open(tmp_path: Path) -> None:
    keys = DataKeys(tmp_path)
    keys.make("c", "k")
    sealed = keys.seal("c", "k", "e", b"A door.") or b""

    @given(st.integers(0, len(sealed) - 1), st.integers(1, 255))
    def changed(at: int, by: int) -> None:
        assert keys.open("c", "e", sealed[:at] + bytes([sealed[at] ^ by]) + sealed[at + 1 :]) is None

    @given(st.integers(0, len(sealed) - 1))
    def cut(at: int) -> None:
        assert keys.open("c", "e", sealed[:at]) is None

    changed()
    cut()
    keys.close()


def test_a_destroyed_key_is_in_no_file_and_opens_nothing(keys: DataKeys, tmp_path: Path) -> None:
    sealed, key = keys.seal("c1", "k-c1", "e", b"A door.") or b"", wrapped(keys, "c1")
    other = wrapped(keys, "c2")
    assert files_with(tmp_path, key) == [keys.path.name], "the search finds it while it is there"
    assert keys.destroy("c1") == 1 and keys.destroy("c1") == 0 and keys.destroy("nobody") == 0
    assert files_with(tmp_path, key) == [] and files_with(tmp_path, other) == [keys.path.name]
    assert keys.open("c1", "e", sealed) is None and keys.seal("c1", "k-c1", "e", b"x") is None
    keys.make("c1", "k-c1")  # even under the same name
    assert keys.open("c1", "e", sealed) is None and wrapped(keys, "c1") != key
    keys.close()


def _leave_a_copy(keys: DataKeys) -> None:
    with sqlite3.connect(keys.path, isolation_level=None) as careless:
        careless.execute("PRAGMA secure_delete = OFF")
        careless.execute("INSERT INTO data_key SELECT 'copy', id, wrapped, 0 FROM data_key WHERE conversation = 'c1'")
        careless.execute("DELETE FROM data_key WHERE conversation = 'copy'")
    careless.close()


def test_a_copy_that_another_writer_left_in_the_file_is_removed_too(keys: DataKeys, tmp_path: Path) -> None:
    key = wrapped(keys, "c1")
    _leave_a_copy(keys)
    assert keys.path.read_bytes().count(key) == 2, "what this is about"
    assert keys.destroy("c1") == 1
    assert files_with(tmp_path, key) == [] and keys.key_id("c2") == "k-c2"
    keys.close()


def test_an_order_that_could_not_be_carried_out_does_not_seem_done_when_it_is_given_again(
    keys: DataKeys, tmp_path: Path
) -> None:
    """The file cannot be written anew (as on a full disk), so a copy of the key would stay: the key stays too."""
    for n in range(30):
        keys.make(f"other-{n}", f"k-{n}")
    key = wrapped(keys, "c1")
    _leave_a_copy(keys)
    assert keys.path.read_bytes().count(key) == 2, "what this is about"
    keys._db.set_progress_handler(lambda: 1, 60)  # long statements are broken off: VACUUM is, DELETE is not
    for _ in range(2):
        with pytest.raises(sqlite3.Error, match="interrupted"):
            keys.destroy("c1")
        assert files_with(tmp_path, key) == [keys.path.name] and keys.key_id("c1") == "k-c1"
    keys._db.set_progress_handler(None, 0)
    assert keys.destroy("c1") == 1 and files_with(tmp_path, key) == [] and keys.key_id("other-7") == "k-7"
    keys.close()


class Clock:
    """Milliseconds that a test moves on."""

    def __init__(self) -> None:
        self.ms = 1e12

    def __call__(self) -> float:
        return self.ms


def test_a_key_goes_once_nothing_can_be_kept_under_it_any_longer(tmp_path: Path) -> None:
    clock, hour = Clock(), 3_600_000
    keys = DataKeys(tmp_path, 3_600, clock)
    for conversation in ("idle", "busy"):
        keys.make(conversation, "k")
    key = wrapped(keys, "idle")
    clock.ms += hour - 1
    sealed = keys.seal("busy", "k", "e", b"A door.") or b""
    assert keys.expire(9) == 0
    clock.ms += 0.25 * hour + 2
    assert keys.expire(9) == 1 and files_with(tmp_path, key) == [], "as thorough as an erasure"
    assert keys.key_id("idle") is None
    clock.ms += 0.75 * hour - 3
    assert keys.expire(9) == 0 and keys.open("busy", "e", sealed) == b"A door.", "as long as the entry lives"
    clock.ms += 0.6 * hour
    assert keys.expire(9) == 1 and keys.key_id("busy") is None
    keys.close()


def test_few_seals_write_to_the_disk(tmp_path: Path) -> None:
    clock = Clock()
    keys = DataKeys(tmp_path, 3_600, clock)
    keys.make("c", "k")
    before = keys._db.total_changes
    for _ in range(60):
        clock.ms += 60_000
        keys.seal("c", "k", "e", b"x")
    assert 3 <= keys._db.total_changes - before <= 5
    keys.close()


def test_so_many_at_once_go_and_the_rest_with_the_next(tmp_path: Path) -> None:
    clock = Clock()
    keys = DataKeys(tmp_path, 1, clock)
    for n in range(5):
        keys.make(f"c{n}", "k")
    clock.ms += 602_000
    assert [keys.expire(2) for _ in range(4)] == [2, 2, 1, 0]
    keys.close()


def test_keys_of_before_they_expired_have_their_time_from_now_on(keys: DataKeys, tmp_path: Path) -> None:
    sealed, folder = keys.seal("c1", "k-c1", "e", b"A door.") or b"", keys.path.parent
    keys._db.execute("DROP INDEX data_key_until")
    keys._db.execute("ALTER TABLE data_key DROP COLUMN until_ms")
    keys.close()
    clock = Clock()
    again = DataKeys(folder, 3_600, clock)
    assert again.expire(9) == 0 and again.open("c1", "e", sealed) == b"A door."
    clock.ms += 2 * 3_600_000
    assert again.expire(9) == 2 and again.key_id("c1") is None
    again.close()


def test_they_outlive_the_process_and_are_for_this_user_alone(keys: DataKeys) -> None:
    sealed = keys.seal("c1", "k-c1", "e", b"A door.") or b""
    keys.close()
    folder = keys.path.parent
    modes = {p.name: stat.S_IMODE(p.stat().st_mode) for p in (folder, *folder.iterdir())}
    assert modes == {"conversations": 0o700, ROOT_KEY: 0o600, "conversations.db": 0o600}
    again = DataKeys(folder)
    assert again.open("c1", "e", sealed) == b"A door."
    again.close()


def test_a_root_key_that_is_gone_or_another_ones_is_no_reason_to_begin_anew(keys: DataKeys, tmp_path: Path) -> None:
    keys.close()
    root = keys.path.parent / ROOT_KEY
    right = root.read_text()
    other = DataKeys(tmp_path / "other")
    other.close()
    for wrong in ((tmp_path / "other" / ROOT_KEY).read_text(), "short", None):
        root.unlink()
        if wrong is not None:
            root.write_text(wrong)
        with pytest.raises(KeysUnusable, match=r"bring .*back"):
            DataKeys(keys.path.parent)
        root.touch()
    root.write_text(right)
    found = DataKeys(keys.path.parent)
    assert found.key_id("c2") == "k-c2"
    found.close()
