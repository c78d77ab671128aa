"""What the supervisor alone reads: provider keys, and the key of the hashes of user and conversation ids."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from understudy.messages.topology import Topology


class KeyMissing(Exception):
    """A provider's key is not where the topology says; the text says what to do."""


def key_variables(topology: Topology) -> set[str]:
    """Environment variables that hold keys: no process inherits them."""
    return {p.key.env for p in topology.providers.values() if p.key is not None and p.key.env}


def read_keys(topology: Topology, folder: Path) -> dict[str, str]:
    """Provider keys from where the topology names them. Raises KeyMissing."""
    keys: dict[str, str] = {}
    for name, provider in topology.providers.items():
        if provider.key is None:
            continue
        if provider.key.env is not None:
            value = os.environ.get(provider.key.env, "")
            where = f"the variable {provider.key.env}"
        else:
            path = folder / (provider.key.file or "")
            value, where = _text(path), f"the file {path}"
        if not value:
            raise KeyMissing(
                f"provider {name}: no key in {where}; put it there as text, or remove `key` from the topology"
            )
        keys[name] = value
    return keys


def _text(path: Path) -> str:
    """What a file holds; nothing where it cannot be read as text."""
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return ""


def hash_key(state: Path) -> str:
    """Made once per state folder, so that hashes stay comparable."""
    path = state / "hash.key"
    if not path.exists():
        path.touch(mode=0o600)
        path.write_text(secrets.token_hex(32))
    return path.read_text().strip()
