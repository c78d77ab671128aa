"""Which keys a topology names, and the key of the hashes of user and conversation ids."""

from __future__ import annotations

import os
import re
import secrets
from pathlib import Path

from understudy.actors.host.log_sync import sync_folder
from understudy.messages.topology import Topology

HASH_KEY = "hash.key"
HASH_KEY_BYTES = 32


class KeyMissing(Exception):
    """A key is not where the topology says; the text says what to do."""


def key_variables(topology: Topology) -> set[str]:
    """Environment variables that hold keys: no process inherits them."""
    return {p.key.env for p in topology.providers.values() if p.key is not None and p.key.env}


def text_of(path: Path) -> str:
    """What a file holds; nothing where it cannot be read as text."""
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return ""


def hash_key(state: Path) -> str:
    """Made once per state folder, so that hashes stay comparable.

    Raises KeyMissing when the file holds no key, for with another one no stored hash could be compared again.
    """
    return secret_file(state / HASH_KEY)


def secret_file(path: Path) -> str:
    """A random key as hex, made where there is none. Whole, or not there: also after a crash. Raises KeyMissing."""
    if not path.exists():
        draft = path.with_suffix(".new")
        draft.unlink(missing_ok=True)
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_hex(HASH_KEY_BYTES))
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
        sync_folder(path.parent)
    found = text_of(path)
    if not re.fullmatch(rf"[0-9a-f]{{{2 * HASH_KEY_BYTES}}}", found):
        raise KeyMissing(
            f"{path} holds no key: bring it back from a copy, or remove it (what was made with it is lost then)"
        )
    return found
