"""The texts behind a text: what it says once its disguises are taken off, each with a way back to the raw offsets.

| view | what is undone |
|---|---|
| `clean` | compatibility forms (NFKC), zero-width, format and tag characters, letters that look alike |
| `escapes` | `%2D`, `\\u002d`, `\\x2d`, `&#45;` |
| `joined` | white space: lines broken, letters spaced |
| `base64` | base64 and base64url, also over several lines, at each of the four alignments |
| `hex` | pairs of hex digits, also parted |

Views of views are made to a depth of `MAX_DEPTH`. Each is at most as long as what it is made of (NFKC apart, which is
made once), so all of them together stay linear in the raw text. Nothing is decoded from joined text: with its spaces
gone, prose is one long run of base64.
"""

from __future__ import annotations

import re
import unicodedata
from binascii import a2b_base64
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from understudy.actors.safety_validator.offsets import Blocks, Escapes, Map, Runs

MAX_DEPTH = 3
WHITE = b" \t\n\r\x0b\x0c"
NOT_ASCII = re.compile("[^\x00-\x7f]+")
ESCAPE = re.compile(rb"%([0-9A-Fa-f]{2})|\\(?:u00|x)([0-9A-Fa-f]{2})|&#(?:x([0-9A-Fa-f]{2})|([0-9]{2,3}));")
BASE64_RUN = re.compile(
    rb"[A-Za-z0-9+/_-]{20,}(?:[ \t>]*\r?\n[ \t>]*[A-Za-z0-9+/_-]{16,})*([ \t>]*\r?\n[ \t>]*[A-Za-z0-9+/_-]{2,15}\b)?"
)
"""Its group is a short last line, perhaps the next word of the text: such a run is read with and without it."""
HEX_RUN = re.compile(rb"(?:(?:0x|\\x)?[0-9A-Fa-f]{2}[\s:,]{0,2}){12,}")
HEX_REST = re.compile(rb"0x|\\x|[^0-9A-Fa-f]")
HEX_ONLY = re.compile(rb"[0-9A-Fa-f]+")
PRINTABLE = re.compile(rb"[\t\n\r -~]{16}")
"""Whether decoded bytes hold text at all; what was no base64 becomes noise."""
BREAKS = b" \t\r\n>"
STANDARD = bytes.maketrans(b"-_", b"+/")


@dataclass(slots=True, eq=False)
class View:
    """Bytes to look at, and the way back; `way` is asked only when something was found."""

    kind: str
    data: bytes = field(repr=False)
    parent: View | None = None
    way: Callable[[], Map] | None = field(default=None, repr=False)
    depth: int = 0
    _map: Map | None = field(default=None, repr=False)

    def parent_span(self, start: int, end: int) -> tuple[int, int]:
        """Offsets in the parent of the bytes from `start` to `end` (at least one byte)."""
        if self.way is None:
            return start, end
        if self._map is None:
            self._map = self.way()
        return self._map.span(start)[0], self._map.span(end - 1)[1]

    def raw_span(self, start: int, end: int) -> tuple[int, int]:
        """The same in the raw text."""
        return (start, end) if self.parent is None else self.parent.raw_span(*self.parent_span(start, end))


def raw(text: str) -> View:
    """The text as it is: one byte per character."""
    return View("raw", text.encode("latin-1", "replace"))


def clean(text: str, parent: View) -> View | None:
    """Without disguises of single characters; None where there are none."""
    if text.isascii():
        return None
    bare = _plain_text(text)
    if bare == text:
        return None
    data = bare.encode("latin-1", "replace")
    return View("clean", data, parent, lambda: Blocks(text, lambda part: len(_plain_text(part))))


def _plain_text(text: str) -> str:
    return text if text.isascii() else NOT_ASCII.sub(lambda found: "".join(map(_plain, found[0])), text)


@lru_cache(maxsize=4096)
def _plain(char: str) -> str:
    if char.isascii():
        return char
    if "\U000e0020" <= char <= "\U000e007e":  # tag characters: ASCII that nobody sees
        return chr(ord(char) - 0xE0000)
    if unicodedata.category(char) == "Cf" or char in UNSEEN or "\ufe00" <= char <= "\ufe0f":
        return ""
    return unicodedata.normalize("NFKC", char).translate(ALIKE)


ALIKE = str.maketrans(
    "АВЕЅІЈКМНОРСТУХаеорсухѕіјһԁԛԝӏ" + "ΑΒΕΖΗΙΚΜΝΟΡΤΥΧανορικγυ" + "ıɑɡ" + "‐‒–—―−" + "‘’“”",
    "ABESIJKMHOPCTYXaeopcyxsijhdqwl" + "ABEZHIKMNOPTYXavopikyu" + "iag" + "------" + "''\"\"",
)
"""Letters of Cyrillic and Greek that look like Latin ones, and the dashes and quotes that phones type by themselves."""
UNSEEN = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u3164\uffa0")
"""Characters without a glyph that are not in the category Cf (Unicode: Default_Ignorable_Code_Point)."""


def joined(view: View) -> View | None:
    """Without white space; None where there is none."""
    data = view.data.translate(None, WHITE)
    if len(data) == len(view.data):
        return None

    def way() -> Map:
        return Blocks(view.data, lambda part: len(part.translate(None, WHITE)))

    return View("joined", data, view, way, view.depth + 1)


def decoded(view: View, covered: Callable[[int, int], bool]) -> Iterator[View]:
    """What the view says decoded, all runs of a kind together; not those for which `covered` holds: they are found."""
    if view.depth >= MAX_DEPTH:
        return
    data = view.data
    if (b"%" in data or b"\\" in data or b"&#" in data) and ESCAPE.search(data):
        yield View("escapes", ESCAPE.sub(_unescaped, data), view, lambda: _escapes(data), view.depth + 1)
    hexes = [Run(run[0], run.start(), "hex") for run in HEX_RUN.finditer(data) if not covered(*run.span())]
    if hexes:
        yield _together("hex", view, hexes)
    found = [run for run in BASE64_RUN.finditer(data) if not covered(*run.span()) and not HEX_ONLY.fullmatch(run[0])]
    whole = [(run[0], run.start()) for run in found]
    short = [(run[0][: run.start(1) - run.start()], run.start()) for run in found if run[1] and not view.depth]
    for texts in filter(None, (whole, short)):
        for shift in range(4):
            yield _together("base64", view, [Run(text, at, "base64", shift) for text, at in texts])


def everything(text: str) -> Iterator[bytes]:
    """The text and all its views: what somebody who tries could read in it."""
    first = raw(text)
    bare = clean(text, first)
    left = [first] if bare is None else [first, bare]
    while left:
        view = left.pop()
        yield view.data
        if (close := joined(view)) is not None:
            yield close.data
        left += decoded(view, lambda start, end: False)


@dataclass(slots=True, eq=False)
class Run:
    """One run of base64 or hex digits in a view, from offset `at`; read from its digit `shift` on."""

    text: bytes = field(repr=False)
    at: int
    kind: str
    shift: int = 0
    _places: list[int] | None = field(default=None, repr=False)

    def decoded(self) -> bytes:
        """The bytes that it stands for; a last digit that makes no byte is left out."""
        if self.kind == "hex":
            digits = HEX_REST.sub(b"", self.text)
            return bytes.fromhex(digits[: len(digits) & ~1].decode())
        digits = self.text.translate(STANDARD, BREAKS)[self.shift :]
        digits = digits[: len(digits) - (len(digits) % 4 == 1)]
        return a2b_base64(digits + b"=" * (-len(digits) % 4))

    def span(self, at: int) -> tuple[int, int]:
        """From the first digit that holds something of byte `at` to just behind the last."""
        digits = self._digits()
        first = at * 2 if self.kind == "hex" else self.shift + at * 4 // 3
        return digits[first], digits[first + 1] + 1

    def _digits(self) -> Sequence[int]:
        """Where each digit stands in the view."""
        if self._places is None:
            blank = HEX_REST.sub(_blank, self.text) if self.kind == "hex" else self.text
            self._places = [at for at, one in enumerate(blank, self.at) if one not in BREAKS]
        return self._places


def _blank(found: re.Match[bytes]) -> bytes:
    return b" " * len(found[0])


def _together(kind: str, view: View, runs: Sequence[Run]) -> View:
    """All runs in one view, a line end between two."""
    texts = [run.decoded() for run in runs]
    return View(kind, b"\n".join(texts), view, lambda: Runs(runs, map(len, texts)), view.depth + 1)


def _unescaped(found: re.Match[bytes]) -> bytes:
    if found[4]:
        return bytes((int(found[4]),)) if int(found[4]) < 256 else found[0]
    return bytes.fromhex((found[1] or found[2] or found[3]).decode())


def _escapes(data: bytes) -> Escapes:
    return Escapes(one for one in ESCAPE.finditer(data) if _unescaped(one) != one[0])
