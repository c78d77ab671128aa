"""The vault's file: what opens it, what does not, and what a crash, a thief or a second writer can do to it."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from understudy.actors.host import vault_root
from understudy.actors.host.vault import Mark, Record, Vault, locked, read_public
from understudy.actors.host.vault_audit import opened
from understudy.actors.host.vault_root import (
    Credential,
    Keyring,
    Passphrase,
    RootFile,
    VaultError,
    make_root,
    parse_spec,
    read_root,
)

ROOT = b"r" * 32
KEY = "sk-test-6a1f0c"
SPEC = RootFile(path="/nowhere")


def made(path: Path, *names: str) -> Vault:
    vault = Vault.create(path, "v1", SPEC, ROOT)
    for name in names:
        vault.add(name, f"{KEY}-{name}", "live", 1, None)
    vault.save(Mark())
    return vault


def code_of(act: Any) -> str:
    with pytest.raises(VaultError) as caught:
        act()
    assert KEY not in str(caught.value)
    return caught.value.code


def test_keys_come_back_and_the_file_shows_none(tmp_path: Path) -> None:
    path = tmp_path / "v"
    made(path, "a", "b")
    content = path.read_text()
    assert KEY not in content and stat.S_IMODE(path.stat().st_mode) == 0o600
    vault = Vault.open(path, ROOT)
    assert [vault.key(r) for r in vault.body.records] == [f"{KEY}-a", f"{KEY}-b"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["v"], "no draft is left"
    assert KEY not in repr(vault.body)


def test_a_revoked_key_is_gone_and_its_id_stays(tmp_path: Path) -> None:
    path = tmp_path / "v"
    vault = made(path, "a")
    (record,) = vault.body.records
    vault.set_state(record.key_id, "live", "revoked")
    vault.save(Mark())
    again = Vault.open(path, ROOT)
    (left,) = again.body.records
    assert (left.key_id, left.wrapped, left.ciphertext) == (record.key_id, b"", b"")
    assert code_of(lambda: again.key(left)) == "revoked"
    assert again.add("a", KEY, "live", 1, None).version == 2


@pytest.mark.parametrize("key", ["", "two words", "line\nbreak", "ü", "x" * 2001])
def test_what_can_be_no_key_is_refused(tmp_path: Path, key: str) -> None:
    assert code_of(lambda: made(tmp_path / "v").add("a", key, "live", 1, None)) == "no_key"


def test_a_state_is_changed_only_from_the_one_that_was_seen(tmp_path: Path) -> None:
    """What the caller holds may be old: the vault was wrapped anew since, and the key revoked by somebody else."""
    vault = made(tmp_path / "v", "a")
    (seen,) = vault.body.records
    vault.rewrap(SPEC, ROOT)
    vault.set_state(seen.key_id, "live", "next")
    assert vault.key(vault.body.records[0]) == f"{KEY}-a", "the record as it is now, not as it was seen"
    vault.set_state(seen.key_id, "next", "revoked")
    before = vault.body
    assert code_of(lambda: vault.set_state(seen.key_id, "next", "live")) == "changed_meanwhile"
    assert code_of(lambda: vault.set_state("k-none", "live", "revoked")) == "changed_meanwhile"
    assert vault.body == before


@pytest.mark.skipif(os.geteuid() != 0, reason="only the superuser makes files for others")
def test_what_the_superuser_makes_belongs_to_the_folders_owner(tmp_path: Path) -> None:
    os.chown(tmp_path, 12_345, 12_346)
    vault = made(tmp_path / "v", "a")
    with opened(tmp_path / "v", ROOT) as book:
        book.write("operator:root", "use", "a", vault.body.records[0].key_id)
    owners = {p.name: (p.stat().st_uid, p.stat().st_gid) for p in tmp_path.iterdir()}
    assert owners == dict.fromkeys(["v", "v.audit", "v.lock"], (12_345, 12_346))
    (tmp_path / "w.lock").symlink_to(tmp_path / "v")
    with pytest.raises(VaultError, match="cannot be written"), locked(tmp_path / "w"):
        pass


def test_one_live_and_one_next_key_per_name(tmp_path: Path) -> None:
    vault = made(tmp_path / "v", "a")
    vault.add("a", KEY, "next", 1, None)
    assert [code_of(lambda s=s: vault.add("a", KEY, s, 1, None)) for s in ("live", "next")] == ["exists", "exists"]


def test_another_root_key_and_no_vault(tmp_path: Path) -> None:
    made(tmp_path / "v")
    assert code_of(lambda: Vault.open(tmp_path / "v", b"x" * 32)) == "wrong_root"
    assert code_of(lambda: read_public(tmp_path / "none")) == "no_vault"


def test_a_newer_format_is_named(tmp_path: Path) -> None:
    made(tmp_path / "v")
    body = json.loads((tmp_path / "v").read_text())
    body["body"] |= {"version": 2, "novel": 1}
    (tmp_path / "v").write_text(json.dumps(body))
    assert code_of(lambda: Vault.open(tmp_path / "v", ROOT)) == "newer_format"


def test_a_file_cut_anywhere_is_torn(tmp_path: Path) -> None:
    made(tmp_path / "v", "a")
    whole = (tmp_path / "v").read_bytes()
    for length in range(0, len(whole) - 2, 7):
        (tmp_path / "v").write_bytes(whole[:length])
        assert code_of(lambda: Vault.open(tmp_path / "v", ROOT)) == "torn"


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_no_changed_byte_goes_unnoticed(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    path = tmp_path_factory.mktemp("v") / "v"
    made(path, "a", "b")
    before = Vault.open(path, ROOT).body
    content = bytearray(path.read_bytes())
    at = data.draw(st.integers(0, len(content) - 1))
    content[at] = data.draw(st.integers(0, 255).filter(lambda b: b != content[at]))
    path.write_bytes(bytes(content))
    try:
        body = Vault.open(path, ROOT).body
    except VaultError as error:
        assert error.code in {"torn", "changed", "wrong_root", "newer_format"}
    else:
        assert body == before, "white space, or a base64 digit whose bits mean nothing"


@pytest.mark.parametrize("change", [
    {"state": "revoked"}, {"name": "b"}, {"key_id": "k0"}, {"version": 7}, {"rotate_after_ms": 5}, {"created_ms": 9},
])  # fmt: skip
def test_a_changed_record_is_found(tmp_path: Path, change: dict[str, Any]) -> None:
    made(tmp_path / "v", "a")
    body = json.loads((tmp_path / "v").read_text())
    body["body"]["records"][0] |= change
    (tmp_path / "v").write_text(json.dumps(body))
    assert code_of(lambda: Vault.open(tmp_path / "v", ROOT)) == "changed"


@pytest.mark.parametrize("fields", [("wrapped", "ciphertext"), ("ciphertext",), ("wrapped",)])
@pytest.mark.parametrize("to", ["another name", "another version of it"])
def test_a_ciphertext_opens_in_its_own_record_alone(tmp_path: Path, fields: tuple[str, ...], to: str) -> None:
    """Moved by one who could seal the file again: the associated data stand against it."""
    vault = made(tmp_path / "v", "a", "b")
    if to != "another name":
        vault.add("a", f"{KEY}-next", "next", 1, None)
    first, other = vault.body.records[0], vault.body.records[1 if to == "another name" else 2]
    moved: Record = msgspec.structs.replace(other, **{f: getattr(first, f) for f in fields})
    vault._set(tuple(moved if r is other else r for r in vault.body.records))
    vault.save(Mark())
    again = Vault.open(tmp_path / "v", ROOT)
    assert code_of(lambda: again.key(moved)) == "moved"
    assert again.key(first) == f"{KEY}-a"


def test_a_record_of_another_vault_does_not_open(tmp_path: Path) -> None:
    vault = made(tmp_path / "v", "a")
    vault.body = msgspec.structs.replace(vault.body, vault_id="v2")
    assert code_of(lambda: vault.key(vault.body.records[0])) == "moved"


def test_rewrap_makes_a_new_kek_and_the_old_root_can_be_left(tmp_path: Path) -> None:
    vault = made(tmp_path / "v", "a")
    audit_key, old = vault.audit_key(), vault.body
    vault.rewrap(Credential(name="c"), b"n" * 32)
    vault.save(Mark())
    again = Vault.open(tmp_path / "v", b"n" * 32)
    assert again.key(again.body.records[0]) == f"{KEY}-a" and again.audit_key() == audit_key
    assert again.body.kek.version == old.kek.version + 1 and again.body.records[0].wrapped != old.records[0].wrapped
    assert code_of(lambda: Vault.open(tmp_path / "v", ROOT)) == "wrong_root"


# --- crashes and two writers -----------------------------------------------------------------------------------------

DIES = """
import os, sys
from pathlib import Path
from understudy.actors.host.vault import Mark, Vault

seen = 0

def count(event, args):
    global seen
    seen += event in ("open", "os.rename", "os.remove")
    if seen == int(sys.argv[2]):
        os._exit(9)

vault = Vault.open(Path(sys.argv[1]), b"r" * 32)
vault.add("b", "new", "live", 1, None)
sys.addaudithook(count)
vault.save(Mark())
"""


@pytest.mark.parametrize("at", range(1, 6))
def test_killed_anywhere_the_vault_is_the_old_or_the_new_one(tmp_path: Path, at: int) -> None:
    made(tmp_path / "v", "a")
    ended = subprocess.run([sys.executable, "-c", DIES, str(tmp_path / "v"), str(at)], check=False, timeout=30)
    assert ended.returncode in (0, 9) and (at > 1 or ended.returncode == 9)
    vault = Vault.open(tmp_path / "v", ROOT)
    assert [r.name for r in vault.body.records] in (["a"], ["a", "b"])
    vault.save(Mark())
    assert Vault.open(tmp_path / "v", ROOT).body.vault_id == "v1"


ADDS = """
import sys
from pathlib import Path
from understudy.actors.host.vault_audit import opened

for n in range(5):
    with opened(Path(sys.argv[1]), b"r" * 32) as book:
        record = book.vault.add(f"{sys.argv[2]}-{n}", "key", "live", 1, None)
        book.write(sys.argv[2], "add", record.name, record.key_id)
"""


def test_writers_wait_for_each_other(tmp_path: Path) -> None:
    from understudy.actors.host.vault_audit import opened

    made(tmp_path / "v")
    writers = [subprocess.Popen([sys.executable, "-c", ADDS, str(tmp_path / "v"), name]) for name in "abc"]
    assert [w.wait(30) for w in writers] == [0, 0, 0]
    with opened(tmp_path / "v", ROOT) as book:
        assert len(book.vault.body.records) == 15
        assert book.verify() == (15, [])


def test_who_waits_too_long_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from understudy.actors.host import vault

    monkeypatch.setattr(vault, "LOCK_S", 0.05)

    def again() -> None:
        with locked(tmp_path / "v"):
            pass

    with locked(tmp_path / "v"):
        assert code_of(again) == "busy"
    again()


# --- roots -----------------------------------------------------------------------------------------------------------


def never() -> str:
    raise AssertionError("no passphrase is needed")


def test_a_root_key_file_is_made_for_its_owner_alone(tmp_path: Path) -> None:
    spec = parse_spec(f"file:{tmp_path}/root", "v1")
    root = make_root(spec, never)
    assert stat.S_IMODE((tmp_path / "root").stat().st_mode) == 0o600 and read_root(spec, never) == root
    assert make_root(spec, never) == root, "one that is there is used"
    (tmp_path / "root").chmod(0o640)
    assert code_of(lambda: read_root(spec, never)) == "root_open"
    (tmp_path / "root").chmod(0o600)
    (tmp_path / "root").write_text("short")
    assert code_of(lambda: read_root(spec, never)) == "root_short"
    (tmp_path / "root").unlink()
    assert code_of(lambda: read_root(spec, never)) == "root_missing"


def test_a_passphrase(tmp_path: Path) -> None:
    spec = Passphrase(salt=b"s" * 16, n=2**10)
    root = read_root(spec, lambda: "correct horse")
    assert read_root(spec, lambda: "correct horse") == root != read_root(spec, lambda: "wrong horse")
    for wrong in (Passphrase(salt=b"s" * 16, n=2**24), Passphrase(salt=b"s", n=2**10)):
        assert code_of(lambda w=wrong: read_root(w, lambda: "x")) == "torn", "a file must not cost us all memory"


def test_a_systemd_credential(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    assert code_of(lambda: read_root(Credential(name="root"), never)) == "root_missing"
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert code_of(lambda: read_root(Credential(name="root"), never)) == "root_missing"
    (tmp_path / "root").write_text("0123456789abcdef" * 4)
    assert len(read_root(Credential(name="root"), never)) == 32


def test_no_keyring_package_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "keyring", None)
    assert code_of(lambda: read_root(Keyring(user="v1"), never)) == "keyring_absent"


def test_the_keyring(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a backend of ours, as the package allows: there is no desktop here."""
    keyring: Any = pytest.importorskip("keyring")
    held: dict[tuple[str, str], str] = {}

    class Backend(keyring.backend.KeyringBackend):
        priority = 1

        def get_password(self, service: str, username: str) -> str | None:
            return held.get((service, username))

        def set_password(self, service: str, username: str, password: str) -> None:
            held[service, username] = password

    before = keyring.get_keyring()
    keyring.set_keyring(Backend())
    try:
        assert code_of(lambda: read_root(Keyring(user="v1"), never)) == "root_missing"
        root = make_root(Keyring(user="v1"), never)
        assert read_root(Keyring(user="v1"), never) == root and list(held) == [("understudy", "v1")]
    finally:
        keyring.set_keyring(before)


@pytest.mark.parametrize("text", ["", "file", "file:", "credential:a/b", "passphrase:x", "keyring:x", "disk"])
def test_an_unknown_root_is_refused(text: str) -> None:
    assert code_of(lambda: parse_spec(text, "v1")) == "root_unknown"


def test_a_passphrase_from_a_descriptor() -> None:
    reader, writer = os.pipe()
    os.write(writer, b"five words are quite good\nrest")
    os.close(writer)
    assert vault_root.read_passphrase(reader) == "five words are quite good"
    assert code_of(lambda: vault_root.read_passphrase(reader)) == "no_passphrase", "it was closed"
