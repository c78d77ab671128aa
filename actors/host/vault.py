"""The vault: one file that holds providers' keys encrypted, and what may be known of them without its root key.

An envelope: the root key (`vault_root.py`) wraps the key-encryption key (KEK, versioned), the KEK wraps one data key
per record, the data key encrypts the provider's key; AES-256-GCM throughout (NIST SP 800-38D), fresh 96-bit nonces. The
associated data of a record are the vault's id, the record's own id, name and version, so that no ciphertext can be
moved to another record or vault; of a wrapping also the KEK's version. An HMAC-SHA256 over the whole body, keyed from
the KEK, makes every change to states, times and the audit's anchor found. A revoked record keeps no ciphertext.

The file is JSON, mode 0600, replaced as a whole (written beside, synced, renamed) under a lock.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import hmac
import os
import secrets
import time
from collections.abc import Generator
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from understudy.actors.host.key_pipe import MOST_KEY_CHARS
from understudy.actors.host.log_sync import sync_folder
from understudy.actors.host.vault_root import RootSpec, VaultError

FORMAT, VERSION = "understudy-vault", 1
KEY_BYTES, NONCE_BYTES = 32, 12
LOCK_S, LOCK_AGAIN_S = 10.0, 0.02
GENESIS = "0" * 64

State = Literal["live", "next", "revoked"]


class Mark(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the audit stood when the vault was written: number and hash of its newest entry."""

    n: int = 0
    hash: str = GENESIS


class Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A key. `name` is what providers of the topology refer to; `version` counts the keys of a name."""

    key_id: str
    name: str
    version: int
    created_ms: int
    state: State
    rotate_after_ms: int | None = None  # Unix milliseconds; a wish of the operator
    wrapped: bytes = b""  # the data key, under the KEK
    ciphertext: bytes = b""  # the provider's key, under the data key


class Kek(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The key-encryption key, under the root key."""

    version: int
    wrapped: bytes


class Body(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything but the seal."""

    format: Literal["understudy-vault"]
    version: Literal[1]
    vault_id: str
    root: RootSpec
    kek: Kek
    audit_key: bytes  # what seals entries of the audit, under the KEK
    mark: Mark = Mark()
    records: tuple[Record, ...] = ()


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    body: Body
    seal: Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]


class _AnyBody(msgspec.Struct):
    format: str = ""
    version: int = 0


class _AnyFile(msgspec.Struct):
    body: _AnyBody


def read_public(path: Path) -> Body:
    """What stands in the file in clear, unproven: nobody knows yet whether it was changed. Raises VaultError."""
    return _read(path).body


def _read(path: Path) -> _File:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise VaultError("no_vault", f"no vault at {path}; `understudy keys add NAME --root ...` makes one") from None
    except OSError as error:
        raise VaultError("unreadable", f"the vault {path} cannot be read: {error.strerror}") from None
    torn = VaultError("torn", f"the vault {path} is torn or was edited by hand; bring it back from a copy")
    try:
        head = msgspec.json.decode(content, type=_AnyFile).body
        if head.format == FORMAT and head.version > VERSION:
            raise VaultError(
                "newer_format",
                f"the vault {path} has format {head.version}, known here is {VERSION}: update Understudy",
            )
        return msgspec.json.decode(content, type=_File)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        raise torn from None


def make_own(path: Path, flags: int = os.O_WRONLY) -> int:
    """A new file for its owner alone. The superuser (`sudo understudy keys ...`) makes it for the folder's owner, who
    runs `up` and could not read it otherwise. Raises OSError, also where there is one, or a link."""
    fd = os.open(path, flags | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        if os.geteuid() == 0:
            folder = path.parent.stat()
            os.fchown(fd, folder.st_uid, folder.st_gid)
    except OSError:
        os.close(fd)
        raise
    return fd


def open_own(path: Path, flags: int) -> int:
    """The file that is there, or a new one. Raises OSError."""
    try:
        return make_own(path, flags)
    except FileExistsError:
        return os.open(path, flags | os.O_NOFOLLOW)


@contextlib.contextmanager
def locked(path: Path) -> Generator[None]:
    """One writer at a time, also across processes; the lock ends with its holder. Raises VaultError."""
    until = time.monotonic() + LOCK_S
    try:
        fd = open_own(path.with_name(path.name + ".lock"), os.O_RDWR)
    except OSError as error:
        raise VaultError("unwritable", f"the folder of {path} cannot be written: {error.strerror}") from None
    with os.fdopen(fd, "r+b") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > until:
                    text = f"another process has been writing {path} for {LOCK_S:g} s; wait for it, or see what hangs"
                    raise VaultError("busy", text) from None
                time.sleep(LOCK_AGAIN_S)
        yield


class Vault:
    """An open vault. Changes are made to the copy in memory; `save` writes it. Whoever writes holds `locked`."""

    def __init__(self, path: Path, body: Body, kek: bytes) -> None:
        self.path, self.body, self._kek = path, body, kek

    @classmethod
    def create(cls, path: Path, vault_id: str, spec: RootSpec, root: bytes) -> Vault:
        """A new, empty one, not written yet."""
        kek = secrets.token_bytes(KEY_BYTES)
        wrapped = Kek(version=1, wrapped=_encrypt(root, kek, "kek", vault_id, 1))
        audit_key = _encrypt(kek, secrets.token_bytes(KEY_BYTES), "audit", vault_id, 1)
        body = Body(format=FORMAT, version=VERSION, vault_id=vault_id, root=spec, kek=wrapped, audit_key=audit_key)
        return cls(path, body, kek)

    @classmethod
    def open(cls, path: Path, root: bytes) -> Vault:
        """Raises VaultError: no or another format, a wrong root key, or a body that was changed."""
        file = _read(path)
        body = file.body
        try:
            kek = _decrypt(root, body.kek.wrapped, "kek", body.vault_id, body.kek.version)
        except InvalidTag:
            what = "passphrase" if type(body.root).__name__ == "Passphrase" else "root key"
            raise VaultError("wrong_root", f"the {what} does not open the vault {path}") from None
        if not hmac.compare_digest(_seal(kek, body), file.seal):
            raise VaultError("changed", f"the vault {path} was changed without its root key; bring it back from a copy")
        return cls(path, body, kek)

    def save(self, mark: Mark) -> None:
        """Write it, with the audit's newest entry as its mark: whole and on the disk, or as before.

        Raises VaultError.
        """
        self.body = msgspec.structs.replace(self.body, mark=mark)
        content = msgspec.json.format(msgspec.json.encode(_File(self.body, _seal(self._kek, self.body))), indent=1)
        draft = self.path.with_name(self.path.name + ".new")
        try:
            draft.unlink(missing_ok=True)
            with os.fdopen(make_own(draft), "wb") as file:
                file.write(content + b"\n")
                file.flush()
                os.fsync(file.fileno())
            draft.replace(self.path)
            sync_folder(self.path.parent)
        except OSError as error:
            raise VaultError("unwritable", f"the vault {self.path} cannot be written: {error.strerror}") from None

    # --- records ---------------------------------------------------------------------------------------------------

    def audit_key(self) -> bytes:
        """What seals entries of the audit; the same for the vault's whole life."""
        return _decrypt(self._kek, self.body.audit_key, "audit", self.body.vault_id, self.body.kek.version)

    def find(self, name: str, state: State) -> Record | None:
        """The one key of this name in this state, where there is one."""
        return next((r for r in self.body.records if r.name == name and r.state == state), None)

    def by_id(self, key_id: str) -> Record | None:
        """The record of a key."""
        return next((r for r in self.body.records if r.key_id == key_id), None)

    def add(self, name: str, key: str, state: State, now_ms: int, rotate_after_ms: int | None) -> Record:
        """A new record. Raises VaultError where the key can be none, or the name has one of this state."""
        if not key or not key.isascii() or not key.isprintable() or " " in key or len(key) > MOST_KEY_CHARS:
            text = f"a key is 1 to {MOST_KEY_CHARS} printable ASCII characters without spaces; this is something else"
            raise VaultError("no_key", text)
        if self.find(name, state) is not None:
            raise VaultError("exists", f"{name} has a {state} key already; rotate it, or revoke it first")
        version = max((r.version for r in self.body.records if r.name == name), default=0) + 1
        record = Record("k" + secrets.token_hex(8), name, version, now_ms, state, rotate_after_ms)
        data_key = secrets.token_bytes(KEY_BYTES)
        sealed = msgspec.structs.replace(
            record,
            wrapped=self._wrap(record, data_key),
            ciphertext=_encrypt(data_key, key.encode(), "key", *self._place(record)),
        )
        self._set((*self.body.records, sealed))
        return sealed

    def key(self, record: Record) -> str:
        """The provider's key. Raises VaultError where the record holds none, or another record's."""
        if not record.ciphertext:
            raise VaultError("revoked", f"{record.key_id} of {record.name} is revoked: its key is gone")
        try:
            return _decrypt(self._unwrap(record), record.ciphertext, "key", *self._place(record)).decode()
        except InvalidTag:
            text = f"the record {record.key_id} of {record.name} holds what was encrypted for another"
            raise VaultError("moved", text) from None

    def set_state(self, key_id: str, expected: State, state: State) -> Record:
        """Live, next, or revoked: then its ciphertext is gone from the file. What is changed is the record as it is
        now, not as the caller saw it before the lock. Raises VaultError where its state is another one by now."""
        record = self.by_id(key_id)
        if record is None or record.state != expected:
            now = "gone" if record is None else record.state
            text = f"{key_id} was {expected} and is {now}: somebody else changed it meanwhile; see `keys list`"
            raise VaultError("changed_meanwhile", text)
        gone = {"wrapped": b"", "ciphertext": b""} if state == "revoked" else {}
        changed = msgspec.structs.replace(record, state=state, **gone)
        self._set(tuple(changed if r.key_id == record.key_id else r for r in self.body.records))
        return changed

    def rewrap(self, spec: RootSpec, root: bytes) -> None:
        """A new KEK, wrapped by this root key; all data keys are wrapped anew. The old KEK opens nothing any longer."""
        opened = [(r, self._unwrap(r) if r.wrapped else b"") for r in self.body.records]
        audit_key, old = self.audit_key(), self.body
        self._kek, version = secrets.token_bytes(KEY_BYTES), old.kek.version + 1
        self.body = msgspec.structs.replace(
            old,
            root=spec,
            kek=Kek(version=version, wrapped=_encrypt(root, self._kek, "kek", old.vault_id, version)),
            audit_key=_encrypt(self._kek, audit_key, "audit", old.vault_id, version),
        )
        wrapped = [msgspec.structs.replace(r, wrapped=self._wrap(r, k)) if k else r for r, k in opened]
        self._set(tuple(wrapped))

    def _set(self, records: tuple[Record, ...]) -> None:
        self.body = msgspec.structs.replace(self.body, records=records)

    def _place(self, record: Record) -> tuple[str | int, ...]:
        return self.body.vault_id, record.key_id, record.name, record.version

    def _wrap(self, record: Record, data_key: bytes) -> bytes:
        return _encrypt(self._kek, data_key, "data", *self._place(record), self.body.kek.version)

    def _unwrap(self, record: Record) -> bytes:
        return _decrypt(self._kek, record.wrapped, "data", *self._place(record), self.body.kek.version)


def _encrypt(key: bytes, plain: bytes, *bound_to: str | int) -> bytes:
    nonce = secrets.token_bytes(NONCE_BYTES)
    return nonce + AESGCM(key).encrypt(nonce, plain, _associated(bound_to))


def _decrypt(key: bytes, sealed: bytes, *bound_to: str | int) -> bytes:
    """Raises InvalidTag."""
    if len(sealed) < NONCE_BYTES + 16:
        raise InvalidTag
    return AESGCM(key).decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], _associated(bound_to))


def _associated(bound_to: tuple[str | int, ...]) -> bytes:
    """JSON, so that no two lists of words are the same bytes."""
    return msgspec.json.encode([FORMAT, VERSION, *bound_to])


def _seal(kek: bytes, body: Body) -> bytes:
    key = HKDF(hashes.SHA256(), KEY_BYTES, salt=None, info=b"understudy vault seal").derive(kek)
    return hmac.digest(key, msgspec.json.encode(body), hashlib.sha256)
