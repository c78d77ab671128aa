"""Examples of a pack, made when they are needed: a key that stood in a file would alarm every scanner of repositories.

`{alnum:36}` stands for 36 letters and digits, `{alnum:36-40}` for 36 to 40, `{alnum:36-}` for 36 and more; so do
`{hex:32}`, `{b64:40}`, `{word:12}` for theirs. The same template and seed give the same text.
"""

from __future__ import annotations

import re
import string
from random import Random

SYMBOLS = {
    "alnum": string.ascii_letters + string.digits,
    "alpha": string.ascii_letters,
    "b32": string.ascii_uppercase + "234567",
    "b58": "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz",
    "b64": string.ascii_letters + string.digits + "+/",
    "bech32": "QPZRY9X8GF2TVDW0S3JN54KHCE6MUA7L",
    "digit": string.digits,
    "hex": "0123456789abcdef",
    "lower": string.ascii_lowercase,
    "lowernum": string.ascii_lowercase + string.digits,
    "percent": string.ascii_letters + string.digits + "%",
    "signs": string.ascii_letters + string.digits + "-_+/=",
    "upper": string.ascii_uppercase,
    "uppernum": string.ascii_uppercase + string.digits,
    "url": string.ascii_letters + string.digits + "-_",
    "x": "x",
    "X": "X",
    "zero": "0",
}
WORDS = ("lantern", "meadow", "copper", "violin", "harbour", "thimble", "gravel", "orchid", "saddle", "walnut", "zebra")
HOLE = re.compile(r"\{([A-Za-z0-9]+):([0-9]+)(?:-([0-9]*))?\}")


def example(template: str, seed: int = 0) -> str:
    """The template with its holes filled; KeyError for an unknown name."""
    chance = Random(f"{seed} {template}")

    def fill(hole: re.Match[str]) -> str:
        name, size = hole[1], int(hole[2])
        if hole[3] is not None:
            size = chance.randint(size, int(hole[3] or size + 20))
        if name == "word":
            return " ".join(chance.choices(WORDS, k=size))
        if name == "uuid":
            digits = "".join(chance.choices(SYMBOLS["hex"], k=32))
            return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))
        return "".join(chance.choices(SYMBOLS[name], k=size))

    return HOLE.sub(fill, template)
