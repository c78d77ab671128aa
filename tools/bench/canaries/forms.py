"""A canary in every form that it could take, and the search for all of them: pure, over bytes.

All canaries of a run have one random core. Data that holds the core in no form holds no canary, so one look for few
needles goes through gigabytes; only where it strikes each canary is looked for by itself. Its name stands on both sides
of the core, so that what is left of one in freed memory is known by either. Hashes do not show the core: those of whole
values are looked for by themselves. Not searched: ciphers, rot13, reversed text, archives.
"""

from __future__ import annotations

import base64
import hashlib
import secrets
from collections.abc import Mapping
from typing import NamedTuple

CORE_LETTERS, CODE_LETTERS = 15, 6
LETTERS = "abcdefghipqrstuvwxy"
"""Their codes are decimal digits in hex: no form of a canary knows upper and lower case."""
HASHES = ("sha256", "sha1", "md5", "sha512", "blake2b")
ENCODINGS = ("plain", "base64", "hex", "utf16", "utf32", "json", "url")
FORMS = (*ENCODINGS, *HASHES)
RAW_BYTES, HEX_CHARS, BASE64_CHARS = 8, 12, 10
"""Beginnings of a digest that are found: some cut what they store."""


class Found(NamedTuple):
    """A canary (its name), and the form it has."""

    canary: str
    form: str


def make(names: tuple[str, ...]) -> tuple[str, dict[str, str]]:
    """A random core, and a canary for each name: the core between six letters of its own, twice. ASCII letters, so that
    JSON and URLs leave it as it is unless they escape everything."""

    def letters(count: int) -> str:
        return "".join(secrets.choice(LETTERS) for _ in range(count))

    core = letters(CORE_LETTERS)
    codes = {name: letters(CODE_LETTERS) for name in names}
    return core, {name: f"{code}{core}{code}" for name, code in codes.items()}


def encoded(text: str) -> dict[str, tuple[bytes, ...]]:
    """What to look for, by form; wherever the text begins within what was encoded."""
    data = text.encode()
    percent = "".join(f"%{byte:02x}" for byte in data)
    escaped = "".join(f"\\u{byte:04x}" for byte in data)
    return {
        "plain": (data,),
        "base64": tuple(_base64(data, before) for before in range(3)),
        "hex": (data.hex().encode(),),
        "utf16": (text.encode("utf-16-le")[:-1],),  # the other byte order holds the same, one byte later
        "utf32": (text.encode("utf-32-le")[:-3],),
        "json": (escaped.encode(),),
        "url": (percent.encode(),),
    }


def _base64(data: bytes, before: int) -> bytes:
    """The characters that depend on `data` alone, where so many bytes (modulo 3) stand before it."""
    whole = base64.b64encode(bytes(before) + data)
    return whole[(before * 8 + 5) // 6 : (before + len(data)) * 8 // 6]


def _either_side(canary: str) -> dict[str, tuple[bytes, ...]]:
    """The same for a canary without its last and without its first letters: one of both is enough to know it."""
    begin, end = encoded(canary[:-CODE_LETTERS]), encoded(canary[CODE_LETTERS:])
    return {form: begin[form] + end[form] for form in ENCODINGS}


def hashed(value: bytes) -> dict[str, tuple[bytes, ...]]:
    """Beginnings of the plain digests of a whole value: raw, in hex, in base64."""
    found: dict[str, tuple[bytes, ...]] = {}
    for name in HASHES:
        digest = hashlib.new(name, value).digest()
        text = base64.b64encode(digest)[:BASE64_CHARS]
        found[name] = (digest[:RAW_BYTES], digest.hex()[:HEX_CHARS].encode(), text)
    return found


class Search:
    """The one search, of everything, for real canaries and planted ones."""

    def __init__(self, core: str, canaries: Mapping[str, str], values: Mapping[str, tuple[str, ...]]) -> None:
        """`values`: by canary, the whole values whose plain hashes are looked for."""
        self._core = encoded(core)
        self._own = {name: _either_side(text) for name, text in canaries.items()}
        self._hashes = [
            (Found(name, form), needle)
            for name, several in values.items()
            for value in several
            for form, needles in hashed(value.encode()).items()
            for needle in needles
        ]
        self.overlap = 4 * len(next(iter(canaries.values()))) * 2
        """So many bytes of what was read before have to be read again with what follows."""

    def encodings(self, data: bytes) -> set[Found]:
        """Canaries in `data`, but not their hashes. Whatever holds the core without a name is `unknown`."""
        found: set[Found] = set()
        for form, needles in self._core.items():
            if any(needle in data for needle in needles):
                own = {name for name, forms in self._own.items() if any(needle in data for needle in forms[form])}
                found |= {Found(name, form) for name in own or {"unknown"}}
        return found

    def all(self, data: bytes) -> set[Found]:
        """The same with the plain hashes of whole values."""
        return self.encodings(data) | {found for found, needle in self._hashes if needle in data}
