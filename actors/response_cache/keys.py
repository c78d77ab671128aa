"""Data keys of conversations: one random key each, wrapped under a root key, in an SQLite file outside NATS.

    root.key            256 bits as hex, mode 0600, made at the first start
    conversations.db    conversation (keyed hash), id of its data key, the data key wrapped by AES-256-GCM, how long it
                        is needed

A data key is destroyed for good: SQLite overwrites what it deletes (`secure_delete`), there is no write-ahead log that
would keep a copy, and the file is searched for the wrapped key afterwards. What was sealed under it stays sealed.
One that nothing can be sealed under any longer, as kept answers live for `ttl_s` alone, is removed too (`expire`).
Blocking, and for one thread at a time. 128 bits of each keyed hash name a conversation; 96-bit random nonces are good
for 2^32 seals per data key (NIST SP 800-38D, 8.3).
"""

from __future__ import annotations

import os
import secrets
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from understudy.actors.host.keys import KeyMissing, secret_file

ROOT_KEY, DATABASE = "root.key", "conversations.db"
NONCE_BYTES, KEY_BITS = 12, 256
_TABLE = """
CREATE TABLE IF NOT EXISTS data_key (
    conversation TEXT PRIMARY KEY, id TEXT NOT NULL, wrapped BLOB NOT NULL, until_ms INTEGER NOT NULL DEFAULT 0
) STRICT
"""
_ADDED = "ALTER TABLE data_key ADD COLUMN until_ms INTEGER NOT NULL DEFAULT 0"
"""To a file of before keys expired; 0: nobody knows."""
_INDEX = "CREATE INDEX IF NOT EXISTS data_key_until ON data_key (until_ms)"

LEAST_MS, SPARE_MS, SPARE_RATIO = 60_000, 600_000, 0.25
"""A key is good for `ttl_s` and a minute at least when something is sealed under it (the entry's time begins with the
bucket, a little later); where it is not, it is made good for so much longer, so that few seals write to the disk."""


class KeysUnusable(Exception):
    """The data keys cannot be used; the text says why and what to do."""


class DataKeys:
    """The keys of one folder. Raises KeysUnusable where root key and database do not belong together."""

    def __init__(
        self, folder: Path, ttl_s: int = 86_400, now_ms: Callable[[], float] = lambda: time.time() * 1000
    ) -> None:
        """`ttl_s`: so long an entry is kept; `now_ms`: the wall clock."""
        self._ttl_ms, self._now_ms = ttl_s * 1000, now_ms
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.path = folder / DATABASE
        had_root = (folder / ROOT_KEY).exists()
        os.close(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600))  # SQLite gives its journal the same mode
        self._db = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False)
        try:
            self._configure()
            self._root = self._root_of(folder, had_root)
        except BaseException:
            self._db.close()
            raise

    def _root_of(self, folder: Path, had_root: bool) -> AESGCM:
        """The root key, which must be the one that the keys in the database were wrapped under."""
        any_key = self._db.execute("SELECT conversation, id, wrapped FROM data_key LIMIT 1").fetchone()
        if any_key is not None and not had_root:
            raise KeysUnusable(f"{folder}: {ROOT_KEY} is gone; bring it back from a copy, or remove the folder")
        try:
            root = AESGCM(bytes.fromhex(secret_file(folder / ROOT_KEY)))
        except KeyMissing as missing:
            raise KeysUnusable(str(missing)) from None
        if any_key is not None:
            self._unwrapped(*any_key, root=root)
        return root

    def _configure(self) -> None:
        """What erasure stands on (`secure_delete`, no write-ahead log): asked for, then looked at."""
        wanted = {"journal_mode": "delete", "secure_delete": 1, "synchronous": 3, "temp_store": 2}  # EXTRA, MEMORY
        self._db.execute("PRAGMA busy_timeout = 2000")
        for name, value in wanted.items():
            self._db.execute(f"PRAGMA {name} = {value}")
            (found,) = self._db.execute(f"PRAGMA {name}").fetchone()
            if found != value:
                raise KeysUnusable(f"{self.path}: this SQLite has {name} = {found!r}, not {value!r}")
        self._db.execute(_TABLE)
        if "until_ms" not in [column[1] for column in self._db.execute("PRAGMA table_info(data_key)")]:
            self._db.execute(_ADDED)
        self._db.execute("UPDATE data_key SET until_ms = ? WHERE until_ms = 0", (self._until_ms(),))
        self._db.execute(_INDEX)

    def close(self) -> None:
        """Close the database."""
        self._db.close()

    def key_id(self, conversation: str) -> str | None:
        """The id of the conversation's data key, if it has one."""
        found = self._found(conversation)
        return None if found is None else found[0]

    def make(self, conversation: str, key_id: str) -> None:
        """Make a data key, unless the conversation has one."""
        nonce, key = secrets.token_bytes(NONCE_BYTES), AESGCM.generate_key(KEY_BITS)
        wrapped = nonce + self._root.encrypt(nonce, key, associated("key", conversation, key_id))
        values = conversation, key_id, wrapped, self._until_ms()
        self._db.execute("INSERT OR IGNORE INTO data_key VALUES (?, ?, ?, ?)", values)

    def seal(self, conversation: str, key_id: str, entry: str, content: bytes) -> bytes | None:
        """Encrypt what is kept under `entry`; None where the conversation's data key is not that one (any longer)."""
        found = self._found(conversation)
        if found is None or found[0] != key_id:
            return None
        change = "UPDATE data_key SET until_ms = ? WHERE conversation = ? AND until_ms < ?"
        least_ms = int(self._now_ms()) + self._ttl_ms + LEAST_MS
        self._db.execute(change, (self._until_ms(), conversation, least_ms))
        nonce = secrets.token_bytes(NONCE_BYTES)
        about = associated("entry", conversation, key_id, entry)
        return nonce + self._unwrapped(conversation, *found).encrypt(nonce, content, about)

    def open(self, conversation: str, entry: str, sealed: bytes) -> bytes | None:
        """Decrypt; None for what was sealed under another key, for another entry or conversation, or was changed."""
        found = self._found(conversation)
        if found is None:
            return None
        about = associated("entry", conversation, found[0], entry)
        try:
            return self._unwrapped(conversation, *found).decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], about)
        except (InvalidTag, ValueError):
            return None

    def expire(self, most: int) -> int:
        """Remove keys that nothing is kept under any longer, so many at most; how many there were."""
        over = "SELECT conversation FROM data_key WHERE until_ms < ? LIMIT ?"
        change = f"DELETE FROM data_key WHERE conversation IN ({over})"
        return self._db.execute(change, (int(self._now_ms()), most)).rowcount

    def _until_ms(self) -> int:
        return int(self._now_ms() + self._ttl_ms + max(SPARE_MS, SPARE_RATIO * self._ttl_ms))

    def destroy(self, conversation: str) -> int:
        """Forget the data key beyond recovery; how many there were. Raises KeysUnusable where a copy would stay, and
        sqlite3.Error: the key is still there then, so that the order can be given again and does not seem done."""
        found = self._found(conversation)
        if found is None:
            return 0
        if self.path.read_bytes().count(found[1]) > 1:  # something without `secure_delete` has left a copy behind
            self._db.execute("VACUUM")
            if self.path.read_bytes().count(found[1]) > 1:
                raise KeysUnusable(f"{self.path}: a copy of a key cannot be removed from the file")
        self._db.execute("DELETE FROM data_key WHERE conversation = ?", (conversation,))
        if found[1] in self.path.read_bytes():
            self._db.execute("INSERT INTO data_key VALUES (?, ?, ?, ?)", (conversation, *found, self._until_ms()))
            raise KeysUnusable(f"{self.path}: this SQLite does not overwrite what it deletes")
        return 1

    def _found(self, conversation: str) -> tuple[str, bytes] | None:
        query = "SELECT id, wrapped FROM data_key WHERE conversation = ?"
        return self._db.execute(query, (conversation,)).fetchone()

    def _unwrapped(self, conversation: str, key_id: str, wrapped: bytes, root: AESGCM | None = None) -> AESGCM:
        about = associated("key", conversation, key_id)
        try:
            return AESGCM((root or self._root).decrypt(wrapped[:NONCE_BYTES], wrapped[NONCE_BYTES:], about))
        except (InvalidTag, ValueError):
            text = f"{self.path}: a data key was not wrapped by this {ROOT_KEY}; bring the right one back from a copy"
            raise KeysUnusable(text) from None


def associated(*words: str) -> bytes:
    """Associated data of AES-GCM: what the bytes are for. No word holds a zero."""
    return "\0".join(("understudy.v1", *words)).encode()


def new_key_id() -> str:
    """Of a data key to be made; no secret."""
    return secrets.token_hex(8)
