"""Where the vault's root key comes from. The vault says which of these it is; nothing here is stored but in its place.

* `passphrase`: scrypt (RFC 7914) of what a person types, asked for on the terminal or read from a file descriptor;
* `file`: a file that only its owner may read;
* `credential`: a file that systemd puts into `$CREDENTIALS_DIRECTORY` (systemd.exec(5), `LoadCredentialEncrypted=`);
* `keyring`: the operating system's own (package `keyring`, extra `keyring`).
"""

from __future__ import annotations

import getpass
import hashlib
import importlib
import os
import secrets
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

ROOT_BYTES = 32
MIN_PASSPHRASE = 12
SCRYPT_N, SCRYPT_R, SCRYPT_P = 2**17, 8, 1
"""About 128 MiB and half a second a try (RFC 7914; OWASP's advice of 2023 for interactive use)."""
MOST_SCRYPT_N = 2**20
MIN_SECRET_BYTES = 32
SERVICE = "understudy"


class VaultError(Exception):
    """Why a vault cannot be used. `code` is stable; the text says what would be right, and never holds a secret."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code


class Passphrase(msgspec.Struct, frozen=True, tag="passphrase", forbid_unknown_fields=True):
    """scrypt's parameters."""

    salt: bytes
    n: int = SCRYPT_N
    r: int = SCRYPT_R
    p: int = SCRYPT_P


class RootFile(msgspec.Struct, frozen=True, tag="file", forbid_unknown_fields=True):
    """An absolute path."""

    path: str


class Credential(msgspec.Struct, frozen=True, tag="credential", forbid_unknown_fields=True):
    """A file name in `$CREDENTIALS_DIRECTORY`."""

    name: str


class Keyring(msgspec.Struct, frozen=True, tag="keyring", forbid_unknown_fields=True):
    """An entry of the service `understudy`."""

    user: str


RootSpec = Passphrase | RootFile | Credential | Keyring
Ask = Callable[[], str]
"""Asks for the passphrase."""


def parse_spec(text: str, vault_id: str) -> RootSpec:
    """What `--root` names: `passphrase`, `file:PATH`, `credential:NAME` or `keyring`. Raises VaultError."""
    kind, _, rest = text.partition(":")
    match kind:
        case "passphrase" if not rest:
            return Passphrase(salt=secrets.token_bytes(16))
        case "file" if rest:
            return RootFile(path=str(Path(rest).resolve()))
        case "credential" if rest and "/" not in rest:
            return Credential(name=rest)
        case "keyring" if not rest:
            return Keyring(user=f"{vault_id}-{secrets.token_hex(4)}")  # never the entry that a vault needs now
        case _:
            right = "give passphrase, file:PATH, credential:NAME or keyring"
            raise VaultError("root_unknown", f"--root {text!r}: {right}")


def make_root(spec: RootSpec, ask: Ask) -> bytes:
    """The root key of a new vault: a file or keyring entry that is not there yet is made. Raises VaultError."""
    match spec:
        case RootFile(path=path) if not os.path.lexists(path):
            _write_secret(Path(path))
        case Keyring(user=user):
            _keyring("set_password", SERVICE, user, secrets.token_hex(ROOT_BYTES))
        case _:
            pass
    return read_root(spec, ask)


def drop_root(spec: RootSpec) -> None:
    """No vault needs it any longer. Files and credentials stay, as they are their owner's. Raises VaultError."""
    if isinstance(spec, Keyring):
        _keyring("delete_password", SERVICE, spec.user)


def read_root(spec: RootSpec, ask: Ask) -> bytes:
    """The root key. Raises VaultError with what is missing."""
    match spec:
        case Passphrase():
            return _derive(spec, ask())
        case RootFile(path=path):
            return _hashed(_private(Path(path)), f"the root-key file {path}")
        case Credential(name=name):
            folder = os.environ.get("CREDENTIALS_DIRECTORY", "")
            if not folder:
                text = (
                    f"no systemd credentials here ($CREDENTIALS_DIRECTORY is not set), and the root is {name!r} of them"
                )
                raise VaultError("root_missing", f"{text}; run this in the service, or with systemd-run")
            return _hashed(_read(Path(folder) / name), f"the credential {name}")
        case Keyring(user=user):
            found = _keyring("get_password", SERVICE, user)
            if not isinstance(found, str):
                raise VaultError(
                    "root_missing", f"the keyring holds no entry {user} of {SERVICE}; is it another user's?"
                )
            return _hashed(found.encode(), "the keyring's entry")


def ask_on_terminal(prompt: str) -> str:
    """Without echo. Raises VaultError where there is no terminal."""
    try:
        with open("/dev/tty", "rb"):  # noqa: PTH123 - getpass would go on with echo where there is none
            return getpass.getpass(prompt)
    except (OSError, EOFError):
        text = "the vault's root is a passphrase and there is no terminal to ask on; give it with --passphrase-fd N"
        raise VaultError("no_terminal", text) from None


def read_passphrase(fd: int) -> str:
    """The first line of a file descriptor, which is closed. Raises VaultError."""
    try:
        with os.fdopen(fd, "rb") as file:
            return file.readline().decode().rstrip("\r\n")
    except (OSError, ValueError):
        raise VaultError("no_passphrase", f"nothing can be read from file descriptor {fd}") from None


def _derive(spec: Passphrase, passphrase: str) -> bytes:
    if not 2**10 <= spec.n <= MOST_SCRYPT_N or spec.r != SCRYPT_R or not 1 <= spec.p <= 4 or len(spec.salt) < 16:
        raise VaultError("torn", "the vault's scrypt parameters are out of range; bring the file back from a copy")
    memory = 128 * spec.n * spec.r * spec.p + 2**20
    return hashlib.scrypt(
        passphrase.encode(), salt=spec.salt, n=spec.n, r=spec.r, p=spec.p, maxmem=memory, dklen=ROOT_BYTES
    )


def _hashed(content: bytes, what: str) -> bytes:
    secret = content.strip()
    if len(secret) < MIN_SECRET_BYTES:
        text = f"{what} holds {len(secret)} bytes; a root key has at least {MIN_SECRET_BYTES} random ones"
        raise VaultError("root_short", text)
    return hashlib.sha256(secret).digest()


def _write_secret(path: Path) -> None:
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_hex(ROOT_BYTES) + "\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise VaultError("root_missing", f"the root-key file {path} cannot be made: {error.strerror}") from None


def _private(path: Path) -> bytes:
    """Raises VaultError where others may read it."""
    content = _read(path)
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        text = f"the root-key file {path} may be read by others (mode {mode:04o}); chmod 600 it, and think who has it"
        raise VaultError("root_open", text)
    return content


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise VaultError("root_missing", f"the root key {path} cannot be read: {error.strerror}") from None


def _keyring(call: str, *words: str) -> Any:
    try:
        package: Any = importlib.import_module("keyring")
    except ImportError:
        text = "the vault's root is in the OS keyring: install the extra, pip install 'understudy[keyring]'"
        raise VaultError("keyring_absent", text) from None
    try:
        return getattr(package, call)(*words)
    except package.errors.KeyringError as error:
        text = f"the OS keyring does not answer ({type(error).__name__}); log in to it, or take another --root"
        raise VaultError("keyring_failed", text) from None
