"""`understudy keys` on real files, without a running system: what it prints, what it never prints, how it fails."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.actors.host.test_vault_audit import change_third, drop_newest, drop_third, rewrite, swap
from understudy.tools.cli import main
from understudy.tools.keys import ABOUT

CLI = "import sys; from understudy.tools.cli import main; main(sys.argv[1:])"
KEY = "sk-cli-1f77e0b2"


def run(folder: Path, *words: str, key: str | None = None) -> subprocess.CompletedProcess[str]:
    """In a folder without a topology."""
    done = subprocess.run(
        [sys.executable, "-c", CLI, "keys", *words], cwd=folder, input=key, stdin=None if key else subprocess.DEVNULL,
        capture_output=True, text=True, check=False, timeout=30, start_new_session=True,
    )  # fmt: skip
    assert KEY not in done.stdout + done.stderr and "Traceback" not in done.stderr, done.stderr
    return done


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A vault with two keys, one of them revoked, and their audit of five entries."""
    folder = tmp_path_factory.mktemp("keys")
    assert run(folder, "add", "lab", "--root", "file:root.key", "--rotate-after", "90d", key=f"{KEY}\n").returncode == 0
    assert run(folder, "add", "spare", key=f"{KEY}-2\n").returncode == 0
    assert run(folder, "revoke", "spare").returncode == 0
    assert run(folder, "rewrap").returncode == 0
    return folder


@pytest.fixture
def vault(made: Path, tmp_path: Path) -> Path:
    """A copy of it; the root key stays where it is."""
    shutil.copytree(made / "state", tmp_path / "state")
    return tmp_path


def test_list_shows_ids_and_states_and_never_a_key(vault: Path) -> None:
    rows = json.loads(run(vault, "list", "--json").stdout)["keys"]
    assert [(r["name"], r["version"], r["state"], r["due"]) for r in rows] == [
        ("lab", 1, "live", False), ("spare", 1, "revoked", False),
    ]  # fmt: skip
    assert rows[0]["rotate_after_ms"] - rows[0]["created_ms"] == 90 * 86_400_000
    shown = run(vault, "list").stdout
    assert rows[0]["key_id"] in shown and "sk-" not in shown and "version 2" in shown


def test_audit_is_whole_and_says_what_was_done(vault: Path) -> None:
    done = run(vault, "audit", "--entries", "--json")
    report = json.loads(done.stdout)
    assert (done.returncode, report["ok"], report["entries"], report["findings"]) == (0, True, 5, [])
    assert [e["purpose"] for e in report["audit"]] == ["create", "add", "add", "revoke", "rewrap"]
    assert all(e["actor"].startswith("operator:") for e in report["audit"])


@pytest.mark.parametrize(("change", "hashes", "named"), [
    (change_third, False, "entry 3 was changed"),
    (change_third, True, "entry 3 was rewritten"),
    (drop_third, False, "entry 3 is not there"),
    (drop_newest, False, "entry 5 was dropped: the vault knows of it"),
    (swap, False, "entry 3 is not there; entry 4 stands in its place"),
])  # fmt: skip
def test_audit_names_the_entry_that_was_touched(vault: Path, change: Any, hashes: bool, named: str) -> None:
    rewrite(vault / "state" / "keys.vault", change, hashes=hashes)
    done = run(vault, "audit")
    assert done.returncode == 1 and named in done.stderr.splitlines()[0]


@pytest.mark.parametrize(("words", "key", "code"), [
    (("add", "new"), f"{KEY}\n", "no_vault"),
    (("add", "new", "--root", "disk"), f"{KEY}\n", "root_unknown"),
    (("add", "new", "--root", "passphrase"), f"{KEY}\n", "no_terminal"),
    (("add", "a b", "--root", "file:r"), f"{KEY}\n", "bad_name"),
    (("add", "new", "--root", "file:r"), f"{KEY}\nmore\n", "no_key"),
    (("list",), None, "no_vault"),
    (("audit",), None, "no_vault"),
])  # fmt: skip
def test_what_cannot_be_done_is_said(tmp_path: Path, words: tuple[str, ...], key: str | None, code: str) -> None:
    done = run(tmp_path, *words, "--json", key=key)
    assert (done.returncode, json.loads(done.stdout)["error"]) == (1, code)


@pytest.mark.parametrize(("words", "key", "code"), [
    (("add", "lab"), f"{KEY}\n", "exists"),
    (("rotate", "spare"), f"{KEY}\n", "no_key"),
    (("rotate", "lab", "--resume"), None, "nothing_pending"),
    (("revoke", "spare"), None, "no_key"),
    (("test", "spare"), None, "no_key"),
])  # fmt: skip
def test_what_the_vault_does_not_allow(vault: Path, words: tuple[str, ...], key: str | None, code: str) -> None:
    done = run(vault, *words, "--json", key=key)
    assert (done.returncode, json.loads(done.stdout)["error"]) == (1, code)


def test_a_key_that_nobody_can_check_does_not_replace_one(vault: Path) -> None:
    """There is no topology here that says who would take it."""
    done = run(vault, "rotate", "lab", "--json", key=f"{KEY}-new\n")
    report = json.loads(done.stdout)
    assert done.returncode == 1 and "no provider of the topology" in report["problems"][0]
    rows = json.loads(run(vault, "list", "--json").stdout)["keys"]
    assert [r["state"] for r in rows if r["name"] == "lab"] == ["live", "revoked"]


@pytest.mark.parametrize("name", sorted(ABOUT))
def test_help_teaches_and_a_key_is_no_argument(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["keys", name, "--help"])
    said = capsys.readouterr().out
    assert ended.value.code == 0 and "--key" not in said and f"understudy keys {name}" in said
