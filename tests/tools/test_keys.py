"""`understudy keys` on real files, without a running system: what it prints, what it never prints, how it fails."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
import threading
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from tests.actors.host.test_vault_audit import change_third, drop_newest, drop_third, rewrite, swap
from understudy.actors.host.state_folder import take
from understudy.actors.host.vault import Mark, Record, Vault, locked, read_public
from understudy.actors.host.vault_audit import opened
from understudy.actors.host.vault_root import RootFile, VaultError
from understudy.tools import key_commands, key_parts, key_rotation
from understudy.tools.cli import main
from understudy.tools.keys import ABOUT

CLI = "import sys; from understudy.tools.cli import main; main(sys.argv[1:])"
KEY = "sk-cli-1f77e0b2"
Ended = subprocess.CompletedProcess[str]


def run(folder: Path, *words: str, key: str | None = None) -> Ended:
    """In a folder without a topology."""
    done = subprocess.run(
        [sys.executable, "-c", CLI, "keys", *words], cwd=folder, input=key, stdin=None if key else subprocess.DEVNULL,
        capture_output=True, text=True, check=False, timeout=30, start_new_session=True,
    )  # fmt: skip
    assert KEY not in done.stdout + done.stderr and "Traceback" not in done.stderr, done.stderr
    return done


Here = Callable[..., Ended]


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Here:
    """The same in this process, for tables: a start takes half a second."""
    monkeypatch.setattr(key_commands, "hold_secrets", lambda: None)  # this process goes on to other tests

    def run_here(folder: Path, *words: str, key: str | None = None) -> Ended:
        monkeypatch.chdir(folder)
        monkeypatch.setattr(sys, "stdin", io.StringIO(key or ""))
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(["keys", *words])
        out, err = capsys.readouterr()
        assert KEY not in out + err
        return subprocess.CompletedProcess(words, cast(int, ended.value.code), out, err)

    return run_here


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


def test_list_shows_ids_and_states_and_never_a_key(vault: Path, here: Here) -> None:
    rows = json.loads(here(vault, "list", "--json").stdout)["keys"]
    assert [(r["name"], r["version"], r["state"], r["due"]) for r in rows] == [
        ("lab", 1, "live", False), ("spare", 1, "revoked", False),
    ]  # fmt: skip
    assert rows[0]["rotate_after_ms"] - rows[0]["created_ms"] == 90 * 86_400_000
    shown = here(vault, "list").stdout
    assert rows[0]["key_id"] in shown and "sk-" not in shown and "version 2" in shown


def test_audit_is_whole_and_says_what_was_done(vault: Path, here: Here) -> None:
    done = here(vault, "audit", "--entries", "--json")
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
def test_audit_names_the_entry_that_was_touched(vault: Path, here: Here, change: Any, hashes: bool, named: str) -> None:
    rewrite(vault / "state" / "keys.vault", change, hashes=hashes)
    done = here(vault, "audit")
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
def test_what_cannot_be_done_is_said(
    tmp_path: Path, here: Here, words: tuple[str, ...], key: str | None, code: str
) -> None:
    """Without a terminal, as an own process can be."""
    done = (run if code == "no_terminal" else here)(tmp_path, *words, "--json", key=key)
    assert (done.returncode, json.loads(done.stdout)["error"]) == (1, code)


@pytest.mark.parametrize(("words", "key", "code"), [
    (("add", "lab"), f"{KEY}\n", "exists"),
    (("rotate", "spare"), f"{KEY}\n", "no_key"),
    (("rotate", "lab", "--resume"), None, "nothing_pending"),
    (("revoke", "nobody"), None, "no_key"),
    (("test", "spare"), None, "no_key"),
])  # fmt: skip
def test_what_the_vault_does_not_allow(
    vault: Path, here: Here, words: tuple[str, ...], key: str | None, code: str
) -> None:
    done = here(vault, *words, "--json", key=key)
    assert (done.returncode, json.loads(done.stdout)["error"]) == (1, code)


def test_a_key_that_nobody_can_check_does_not_replace_one(vault: Path, here: Here) -> None:
    """There is no topology here that says who would take it."""
    done = here(vault, "rotate", "lab", "--json", key=f"{KEY}-new\n")
    report = json.loads(done.stdout)
    assert done.returncode == 1 and "no provider of the topology" in report["problems"][0]
    rows = json.loads(here(vault, "list", "--json").stdout)["keys"]
    assert [r["state"] for r in rows if r["name"] == "lab"] == ["live", "next"], "it may still be good"
    done = here(vault, "rotate", "lab", "--resume", "--unchecked", "--json")
    rows = json.loads(here(vault, "list", "--json").stdout)["keys"]
    assert [r["state"] for r in rows if r["name"] == "lab"] == ["revoked", "live"] and done.returncode == 0


def test_to_revoke_again_is_no_error_and_no_entry(vault: Path, here: Here) -> None:
    """Whoever runs may not have heard the first time."""
    done = here(vault, "revoke", "spare")
    assert done.returncode == 0 and "was revoked before" in done.stdout
    assert json.loads(here(vault, "audit", "--json").stdout)["entries"] == 5


# --- what others do meanwhile ----------------------------------------------------------------------------------------

ROOT = b"r" * 32


def vault_of(path: Path) -> tuple[Record, Record]:
    """A vault where a key waits to become live."""
    Vault.create(path, "v1", RootFile(path="/nowhere"), ROOT).save(Mark())
    with opened(path, ROOT) as book:
        records = book.vault.add("lab", KEY, "live", 1, None), book.vault.add("lab", f"{KEY}-2", "next", 1, None)
        book.write("operator:me", "add", "lab", records[0].key_id)
    return records


def rewraps(vault: Vault, live: Record, waiting: Record) -> None:
    vault.rewrap(vault.body.root, ROOT)


def revokes_new(vault: Vault, live: Record, waiting: Record) -> None:
    vault.set_state(waiting.key_id, "next", "revoked")


def revokes_old(vault: Vault, live: Record, waiting: Record) -> None:
    vault.set_state(live.key_id, "live", "revoked")


def replaces_old(vault: Vault, live: Record, waiting: Record) -> None:
    vault.set_state(live.key_id, "live", "revoked")
    vault.add("lab", f"{KEY}-3", "live", 1, None)


def makes_new_live(vault: Vault, live: Record, waiting: Record) -> None:
    vault.set_state(live.key_id, "live", "revoked")
    vault.set_state(waiting.key_id, "next", "live")


@pytest.mark.parametrize(("other", "states", "problem"), [
    (rewraps, ["revoked", "live"], ""),
    (revokes_new, ["live", "revoked"], "is revoked by now"),
    (revokes_old, ["revoked", "live"], ""),
    (replaces_old, ["revoked", "revoked", "live"], "by somebody else"),
    (makes_new_live, ["revoked", "live"], "is live by now"),
])  # fmt: skip
def test_what_others_do_during_a_rotation_stands(tmp_path: Path, other: Any, states: list[str], problem: str) -> None:
    live, waiting = vault_of(tmp_path / "v")
    with opened(tmp_path / "v", ROOT) as book:
        other(book.vault, live, waiting)
        book.write("operator:other", "other", "lab", "")
    said = key_rotation._make_live(ROOT, tmp_path / "v", live, waiting)
    assert problem in said and bool(said) == bool(problem)
    with opened(tmp_path / "v", ROOT) as book:
        assert [r.state for r in book.vault.body.records] == states and book.verify()[1] == []
        for record in book.vault.body.records:
            assert record.state == "revoked" or book.vault.key(record).startswith(KEY), "it can still be opened"


def test_an_up_that_is_being_started_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was not there when the command began; it holds the folder before it says where it is."""
    args = Namespace(state=tmp_path)
    assert not key_parts.is_up(args)
    lock = take(tmp_path)
    try:
        timer = threading.Timer(0.2, (tmp_path / "run.json").write_text, ["{}"])
        timer.start()
        assert key_parts.is_up(args)
        timer.join()
        (tmp_path / "run.json").unlink()
        monkeypatch.setattr(key_parts, "START_S", 0.1)
        with pytest.raises(VaultError, match="being started"):
            key_parts.is_up(args)
    finally:
        lock.close()


def test_an_audit_without_its_vault_is_set_aside(tmp_path: Path, here: Here) -> None:
    """As a kill leaves it while the vault is being made."""
    for n in (1, 2):
        (tmp_path / "state").mkdir(exist_ok=True)
        (tmp_path / "state" / "keys.vault").unlink(missing_ok=True)
        (tmp_path / "state" / "keys.vault.audit").write_text(f"of another vault {n}\n")
        done = here(tmp_path, "add", "lab", "--root", "file:root.key", key=f"{KEY}\n")
        assert done.returncode == 0 and f"keys.vault.audit.before-{n}" in done.stdout
        assert (tmp_path / "state" / f"keys.vault.audit.before-{n}").read_text() == f"of another vault {n}\n"
    assert here(tmp_path, "audit").returncode == 0


def test_a_root_in_the_keyring_is_replaced_only_when_the_vault_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keyring: Any = pytest.importorskip("keyring")
    held: dict[str, str] = {}

    class Backend(keyring.backend.KeyringBackend):
        """There is no desktop here."""

        priority = 1

        def get_password(self, service: str, username: str) -> str | None:
            return held.get(username)

        def set_password(self, service: str, username: str, password: str) -> None:
            held[username] = password

        def delete_password(self, service: str, username: str) -> None:
            del held[username]

    path, before = tmp_path / "v", keyring.get_keyring()
    args, place = Namespace(root="keyring", state=tmp_path), key_parts.Place(path, None)
    keyring.set_keyring(Backend())
    try:
        assert key_commands._make_vault(args, path, []) is not None
        monkeypatch.setattr("understudy.actors.host.vault.LOCK_S", 0.1)
        with locked(path), pytest.raises(VaultError, match="another process"):
            key_commands._rewrap(args, place)
        Vault.open(path, key_parts.root_key(args, path))
        assert key_commands._rewrap(args, place).ok
        assert read_public(path).root.user in held  # type: ignore[union-attr]
        assert len(held) == 2, "the first one is gone, the one of the failed try opens nothing"
        assert Vault.open(path, key_parts.root_key(args, path)).body.kek.version == 2
    finally:
        keyring.set_keyring(before)


@pytest.mark.parametrize("name", sorted(ABOUT))
def test_help_teaches_and_a_key_is_no_argument(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["keys", name, "--help"])
    said = capsys.readouterr().out
    assert ended.value.code == 0 and "--key" not in said and f"understudy keys {name}" in said
