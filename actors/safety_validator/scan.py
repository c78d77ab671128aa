"""Run a pack over a text and its decoded views.

One pass of RE2 over each view tells which rules' keywords occur; only those rules run. Every step is linear in the
length of the text. A finding holds offsets, never text, so it may be logged.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, cast

import re2

from understudy.actors.safety_validator import views
from understudy.actors.safety_validator.examples import example
from understudy.actors.safety_validator.joined import parted
from understudy.actors.safety_validator.rules import Compiled, PackError, holds, load, options
from understudy.actors.safety_validator.views import View

MAX_FINDINGS = 2000
"""In one text. More is no conversation, and nobody needs it redacted: it is refused."""


class ScanError(RuntimeError):
    """The text could not be judged; whoever asked must act as if it held a secret. Names no text.

    `code`: `scan_failed`, `too_many_findings`, or of `redact`: `redaction_unfinished`.
    """

    def __init__(self, text: str, code: str = "scan_failed") -> None:
        super().__init__(text)
        self.code = code


@dataclass(frozen=True, slots=True, order=True)
class Finding:
    """What was found and where, in offsets (characters) of the raw text; `view` says in which disguise."""

    start: int
    end: int
    rule: str
    kind: str
    view: str


class Prefilter:
    """Which rules are worth running: all keywords of all rules in one automaton."""

    def __init__(self, rules: Sequence[Compiled], joined: bool = False) -> None:
        self._set = cast(Any, re2).Set.SearchSet(options())
        self._always = self._set.Add(b"")
        self._rules: list[list[int]] = [[]]
        places = dict[str, int]()
        for number, one in enumerate(rules):
            for keyword in one.rule.keywords:
                if joined:
                    keyword = keyword.replace(r"\b", "")
                if keyword not in places:
                    places[keyword] = self._add(one, keyword)
                    self._rules.append([])
                self._rules[places[keyword]].append(number)
        self._set.Compile()

    def _add(self, one: Compiled, keyword: str) -> int:
        try:
            return self._set.Add(keyword.encode("latin-1"))
        except cast(Any, re2).error:
            raise PackError(f"rule {one.rule.id}: not a pattern for RE2: {keyword}") from None

    def rules(self, data: bytes) -> Iterable[int]:
        """Numbers of the rules with a keyword in it, in the pack's order."""
        found = self._set.Match(data)
        if found is None:  # the empty pattern always matches: RE2 gave up (out of memory) and says nothing of it
            raise ScanError("the prefilter could not read the text")
        return () if len(found) == 1 else sorted({rule for one in found for rule in self._rules[one]})


class Scanner:
    """A pack, ready. Holds nothing of any text; may be used by several threads."""

    def __init__(self, rules: Sequence[Compiled]) -> None:
        self.rules = tuple(rules)
        self._loose = tuple(one for one in rules if one.loose is not None)
        self._prefilter = Prefilter(self.rules)
        self._loose_prefilter = Prefilter(self._loose, joined=True) if self._loose else None

    def scan(self, text: str) -> list[Finding]:
        """Everything found, by offset; what lies within another finding is left out. Raises `ScanError`.

        A rule that hits in the open is not looked for in joined text too: what it would find there shows once the first
        is gone, which is why `redact` scans again.
        """
        try:
            return self._scan(text)
        except ScanError:
            raise
        except Exception as error:  # noqa: BLE001 - its words may hold the text
            raise ScanError(f"{type(error).__name__} while scanning") from None

    def warm_up(self) -> None:
        """Let RE2 build its automata now, on each rule's own examples: the first use of a rule costs milliseconds."""
        for one in self.rules:
            for text in map(example, (*one.rule.hits, *one.rule.misses)):
                for pattern in filter(None, (one.tight, one.loose, one.unless)):
                    pattern.search(text.encode("latin-1", "replace"))
                self.scan(text)

    def _scan(self, text: str) -> list[Finding]:
        found = list[Finding]()
        view = views.raw(text)
        self._look(view, found)
        clean = views.clean(text, view)
        if clean is not None:
            view = clean
            self._look(view, found)
        self._deeper(view, found, _covered(view, found) if found else _nothing)
        return _outermost(found)

    def _deeper(self, view: View, found: list[Finding], covered: Callable[[int, int], bool]) -> None:
        joined = views.joined(view)
        if joined is not None and self._loose_prefilter is not None:
            known = {one.rule for one in found}  # in the open; a second, parted one is found once that is gone
            for number in self._loose_prefilter.rules(joined.data):
                one = self._loose[number]
                if one.rule.id in known:
                    continue
                _take(found, (_finding(one, joined, *span) for span in parted(one, joined)))
        for inner in views.decoded(view, covered):
            self._look(inner, found)
            if views.PRINTABLE.search(inner.data):
                self._deeper(inner, found, _nothing)

    def _look(self, view: View, found: list[Finding]) -> None:
        for number in self._prefilter.rules(view.data):
            _take(found, _run(self.rules[number], view))


def _take(found: list[Finding], more: Iterable[Finding]) -> None:
    for one in more:
        found.append(one)
        if len(found) > MAX_FINDINGS:
            raise ScanError(f"more than {MAX_FINDINGS} findings", "too_many_findings")


def _nothing(start: int, end: int) -> bool:
    return False


def _covered(view: View, found: Iterable[Finding]) -> Callable[[int, int], bool]:
    """Whether a part of a view lies within what is found already."""
    kept = _outermost(found)
    starts = [one.start for one in kept]

    def covered(start: int, end: int) -> bool:
        start, end = view.raw_span(start, end)
        place = bisect_right(starts, start) - 1
        return place >= 0 and end <= kept[place].end

    return covered


def _run(one: Compiled, view: View) -> Iterator[Finding]:
    for match in one.tight.finditer(view.data):
        start, end = match.span(1) if one.grouped else match.span()
        if start < 0:  # the group took no part in it
            start, end = match.span()
        if holds(one, view.data[start:end], match):
            yield _finding(one, view, start, end)


def _finding(one: Compiled, view: View, start: int, end: int) -> Finding:
    return Finding(*view.raw_span(start, end), one.rule.id, one.kind, view.kind)


def _outermost(found: Iterable[Finding]) -> list[Finding]:
    kept = list[Finding]()
    for one in sorted(found, key=lambda f: (f.start, -f.end)):
        if not kept or one.end > kept[-1].end:
            kept.append(one)
    return kept


@lru_cache(maxsize=4)
def scanner(pack: str) -> Scanner:
    """The scanner of a pack (`secrets`, `pii`), made once per process. Raises `PackError`."""
    return Scanner(load(pack))
