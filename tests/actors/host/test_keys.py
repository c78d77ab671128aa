"""The key of stored hashes: made once, whole or not at all, and never an empty one."""

from __future__ import annotations

import stat
import subprocess
import sys
from pathlib import Path

import pytest

from understudy.actors.host.keys import KeyMissing, hash_key

DIES = """
import os, sys
from pathlib import Path
from understudy.actors.host.keys import hash_key

seen = 0

def count(event, args):
    global seen
    seen += event in ("open", "os.rename", "os.remove")
    if seen == int(sys.argv[2]):
        os._exit(9)  # as killed: nothing is flushed or put in order

sys.addaudithook(count)
hash_key(Path(sys.argv[1]))
"""


def test_it_is_made_once_for_this_user_alone(tmp_path: Path) -> None:
    key = hash_key(tmp_path)
    assert len(key) == 64 and hash_key(tmp_path) == key
    assert stat.S_IMODE((tmp_path / "hash.key").stat().st_mode) == 0o600
    assert [p.name for p in tmp_path.iterdir()] == ["hash.key"]


@pytest.mark.parametrize("at", range(1, 6))
def test_killed_anywhere_the_key_is_whole_or_not_there(tmp_path: Path, at: int) -> None:
    """At the n-th file operation; some n lie behind the end."""
    ended = subprocess.run([sys.executable, "-c", DIES, str(tmp_path), str(at)], check=False, timeout=30)
    assert ended.returncode in (0, 9) and (at > 2 or ended.returncode == 9)
    there = (tmp_path / "hash.key").exists() and (tmp_path / "hash.key").read_text()
    assert there is False or len(there) == 64
    assert len(hash_key(tmp_path)) == 64 and there in (False, hash_key(tmp_path))


@pytest.mark.parametrize("text", ["", "\n", "short", "x" * 64])
def test_a_file_without_a_key_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "hash.key").write_text(text)
    with pytest.raises(KeyMissing, match="holds no key"):
        hash_key(tmp_path)
