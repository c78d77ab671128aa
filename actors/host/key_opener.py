"""A short-lived process that reads a provider's key where the topology says, and writes it into the pipe of the one
process that uses it: `python -m understudy.actors.host.key_opener`, its job as JSON on standard input.

It answers on standard output with key ids alone. The supervisor, who starts it, passes descriptors and never reads one.
What cannot be read twice (an environment variable, a passphrase) comes from the keeper (`key_keeper.py`), through a
descriptor too.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import sys
from pathlib import Path
from typing import Any, Literal

import msgspec

from understudy.actors.host.key_pipe import MOST_KEY_CHARS, Frame
from understudy.actors.host.keys import KeyMissing, hash_key, text_of
from understudy.actors.host.linux import hold_secrets
from understudy.messages.topology import KeySource

MOST_FINDINGS = 20
ANSWER = b"\nunderstudy key_opener: "
"""What the answer begins with: libraries may print while they are imported."""


def answer_of(said: bytes) -> Done:
    """What the process said, among what else stands there. Raises msgspec.DecodeError."""
    return msgspec.json.decode(said.rpartition(ANSWER)[2].partition(b"\n")[0], type=Done)


class Wanted(msgspec.Struct, frozen=True):
    """One provider's key. `secret_fd`: where the keeper says the variable's value or the vault's root key."""

    provider: str
    source: KeySource
    secret_fd: int = -1


class Job(msgspec.Struct, frozen=True):
    """What to read. `key_fd`: the pipe for the one key that is wanted; -1: only say which keys there are."""

    wanted: tuple[Wanted, ...]
    folder: str  # relative files are taken from here
    state: str
    vault: str
    key_fd: int = -1
    actor: str = ""
    key_id: str = ""  # of the vault's key that is wanted; '': the live one
    audit: Audit | None = None  # instead of a key


class Audit(msgspec.Struct, frozen=True):
    """Prove the audit. `purposes`: of the entries that are wanted. `anchors`: number and hash of those that the log
    knows. `secret_fd`: where the keeper says the vault's root key."""

    purposes: tuple[str, ...]
    anchors: tuple[tuple[int, str], ...]
    secret_fd: int = -1


class Change(msgspec.Struct, frozen=True):
    """A proven entry of the audit (`vault_audit.Entry`)."""

    n: int
    at_ms: int
    purpose: str
    name: str
    key_id: str
    was: str
    hash: str


class Done(msgspec.Struct, frozen=True):
    """Key ids by provider, or proven changes and what is wrong with the audit; or why there is nothing."""

    ids: dict[str, str] = {}
    changes: tuple[Change, ...] = ()
    findings: tuple[str, ...] = ()
    code: Literal["", "key_missing", "vault"] = ""
    text: str = ""


def outside_id(state: Path, provider: str, key: str) -> str:
    """The id of a key that no vault numbers: a hash with the state folder's own key, so that nobody can try keys."""
    text = f"provider key\0{provider}\0{key}".encode()
    return "x" + hmac.digest(hash_key(state).encode(), text, hashlib.sha256).hex()[:16]


def read_key(wanted: Wanted, job: Job) -> Frame:
    """The key and its id. Raises KeyMissing, VaultError."""
    source = wanted.source
    if source.vault is not None:
        return _from_vault(wanted, source.vault, job)
    if source.env is not None:
        key, where = "" if wanted.secret_fd < 0 else _drain(wanted.secret_fd).decode(), f"the variable {source.env}"
    else:
        path = Path(job.folder) / (source.file or "")
        key, where = text_of(path), f"the file {path}"
    if len(key.encode()) > MOST_KEY_CHARS:
        raise KeyMissing(f"provider {wanted.provider}: {where} holds more than {MOST_KEY_CHARS} bytes, which is no key")
    if not key:
        text = f"no key in {where}; put it there as text, or remove `key` from the topology"
        raise KeyMissing(f"provider {wanted.provider}: {text}")
    return Frame(do="hold", key_id=outside_id(Path(job.state), wanted.provider, key), key=key)


def _from_vault(wanted: Wanted, name: str, job: Job) -> Frame:
    """Only looked at, the id is enough; handed out, the audit has it first."""
    from understudy.actors.host import vault, vault_audit  # brings `cryptography`

    path = Path(job.vault)
    records = [r for r in vault.read_public(path).records if r.name == name]
    found = next((r for r in records if (r.key_id == job.key_id if job.key_id else r.state == "live")), None)
    if found is None or found.state == "revoked":
        text = f"the vault {path} has no key {job.key_id or f'of the name {name}'}; `understudy keys add {name}`"
        raise KeyMissing(f"provider {wanted.provider}: {text}")
    if job.key_fd < 0:
        return Frame(do="hold", key_id=found.key_id)
    with vault_audit.opened(path, _root(path, wanted.secret_fd)) as book:
        record = book.vault.by_id(found.key_id)
        key = "" if record is None else book.vault.key(record)
        book.use(job.actor, "use" if found.state == "live" else "try", name, found.key_id)
    return Frame(do="hold", key_id=found.key_id, key=key)


def _audited(job: Job, audit: Audit) -> Done:
    """Raises VaultError."""
    from understudy.actors.host import vault_audit

    path = Path(job.vault)
    anchors = [vault_audit.Anchor(n, hash_, "the log") for n, hash_ in audit.anchors]
    with vault_audit.opened(path, _root(path, audit.secret_fd)) as book:
        wanted = [e for e in book.proven() if e.purpose in audit.purposes]
        findings = book.verify(anchors)[1][:MOST_FINDINGS]
    changes = tuple(Change(e.n, e.at_ms, e.purpose, e.name, e.key_id, e.was, e.hash) for e in wanted)
    return Done(changes=changes, findings=tuple(f"entry {f.n} {f.what}" for f in findings))


def _root(path: Path, secret_fd: int) -> bytes:
    """Raises VaultError."""
    from understudy.actors.host import vault, vault_root

    spec = vault.read_public(path).root
    return _drain(secret_fd) if secret_fd >= 0 else vault_root.read_root(spec, _no_passphrase)


def _no_passphrase() -> str:
    from understudy.actors.host.vault_root import VaultError

    raise VaultError("locked", "the vault's passphrase is not known here: restart `understudy up`, which asks for it")


def _drain(fd: int) -> bytes:
    with os.fdopen(fd, "rb") as file:
        return file.read()


def do(job: Job) -> Done:
    """All of it, or why not."""
    ids: dict[str, str] = {}
    try:
        if job.audit is not None:
            return _audited(job, job.audit)
        for wanted in job.wanted:
            frame = read_key(wanted, job)
            ids[wanted.provider] = frame.key_id
            if job.key_fd >= 0:
                os.write(job.key_fd, frame.line())
    except KeyMissing as missing:
        return Done(code="key_missing", text=str(missing))
    except ImportError as missing:
        return Done(code="vault", text=f"the vault needs the package {missing.name}: pip install 'understudy[serve]'")
    except OSError as error:
        return Done(code="key_missing", text=f"a key cannot be handed over: {error.strerror}")
    except Exception as error:  # a VaultError, whose class `cryptography` would be needed to import
        code: Any = getattr(error, "code", None)
        if not isinstance(code, str):
            raise
        return Done(code="vault", text=f"{code}: {error}")
    return Done(ids=ids)


def main() -> None:
    """Entry point of the process."""
    hold_secrets()
    job = msgspec.json.decode(sys.stdin.buffer.read(), type=Job)
    sys.stdout.buffer.write(ANSWER + msgspec.json.encode(do(job)) + b"\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
