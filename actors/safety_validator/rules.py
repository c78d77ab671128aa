"""Rules as data: a pack is TOML files beside this module, read strictly and compiled with RE2.

RE2 has no backtracking, so no text makes a rule slow. Patterns and text are single bytes (Latin-1, one byte per
character, anything else as `?`), so an offset is an offset.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Protocol, cast

import msgspec
import re2

from understudy.actors.safety_validator.checks import CHECKS, digits_in, placeholder, varied
from understudy.actors.safety_validator.shapes import Near, all_words, nears, tokens

PACKS = {"secrets": ("secrets", "vendors"), "pii": ("pii",)}
"""The packs, and the files of each."""
MAX_MEM_BYTES = 64 << 20
"""RE2's budget per pattern; what a rule needs is far below, and a prefilter that runs out of it says so."""


MARK = re.compile(rb"\[[a-z_]{1,40}\]")
"""What `redact` leaves in place of a finding is none."""


class PackError(ValueError):
    """A pack that cannot be used; the text names every fault, with its rule."""

    code = "bad_rule_pack"


class Rule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One rule of a pack. See the head of packs/secrets.toml for the fields."""

    id: str
    keywords: tuple[str, ...]
    regex: str
    kind: str = ""
    entropy: float | None = None  # bits per character, at least; None: the pack's
    digits: int = 0  # at least
    check: str = ""
    unless: str = ""
    joined: bool = False
    general: bool = False
    hits: tuple[str, ...]
    misses: tuple[str, ...]


class Pack(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A file of rules; `kind` and `entropy` are those of each rule that says nothing else.

    `placeholders`: what stands for a secret (`xxxx`, `<YOUR_KEY>`) is none. `token` and `near`: rules written as shapes
    (shapes.py). In patterns `{vendors}` means all words of `near`, `{assign}` what stands between a name and its value,
    `{open}` what opens the value.
    """

    rule: tuple[Rule, ...] = ()
    token: dict[str, tuple[str, ...]] = {}
    near: dict[str, Near] = {}
    assign: str = ""
    open: str = ""
    frame: str = ""
    forms: tuple[str, ...] = ()
    placeholders: bool = False
    kind: str = ""
    entropy: float = 0.0


class Match(Protocol):
    """What we use of RE2's match."""

    def span(self, group: int = 0) -> tuple[int, int]:
        """Start and end; (-1, -1) for a group that took no part."""
        ...

    def group(self, group: int = 0) -> bytes:
        """The bytes."""
        ...


class Pattern(Protocol):
    """What we use of RE2's pattern; its package has no types."""

    groups: int

    def search(self, text: bytes, pos: int = 0) -> Match | None:
        """The first match at or after `pos`."""
        ...

    def finditer(self, text: bytes) -> Iterator[Match]:
        """All of them, none of which overlaps another."""
        ...

    def fullmatch(self, text: bytes) -> Match | None:
        """The match of all of it."""
        ...


def options() -> Any:
    """Single bytes, bounded memory, errors raised instead of written to standard error."""
    found = cast(Any, re2).Options()
    found.encoding = cast(Any, re2).Options.Encoding.LATIN1
    found.max_mem = MAX_MEM_BYTES
    found.log_errors = False
    return found


def pattern(text: str) -> Pattern:
    """Compile one; raises `PackError`."""
    try:
        return cast(Any, re2).compile(text.encode("latin-1"), options())
    except cast(Any, re2).error as error:
        raise PackError(f"not a pattern for RE2: {text} ({error.args[0]!r})") from None


@dataclass(frozen=True, slots=True, eq=False)
class Compiled:
    """A rule ready to run. `loose` is for joined text, where no `\\b` marks a word's edge any more."""

    rule: Rule
    kind: str
    entropy: float
    placeholders: bool
    grouped: bool
    tight: Pattern
    loose: Pattern | None
    unless: Pattern | None


def load(name: str) -> tuple[Compiled, ...]:
    """The rules of a pack, compiled. Raises `PackError` with all faults."""
    if name not in PACKS:
        raise PackError(f"no pack {name!r}; there are: {', '.join(PACKS)}")
    folder, made, problems = files(__package__ or "") / "packs", list[Compiled](), list[str]()
    for file in PACKS[name]:
        try:
            made += compiled((folder / f"{file}.toml").read_bytes(), file)
        except PackError as error:
            problems.append(str(error))
    problems += _twice([one.rule for one in made], name)
    if problems:
        raise PackError("\n".join(problems))
    return tuple(made)


def read(text: bytes, name: str) -> Pack:
    """Decode a file of a pack strictly; raises `PackError`."""
    try:
        return msgspec.toml.decode(text, type=Pack)
    except msgspec.MsgspecError as error:
        raise PackError(f"{name}.toml: {error}") from None


def written(pack: Pack, name: str) -> list[Rule]:
    """All rules of a file, those written as shapes too. Raises `PackError`."""
    if pack.near and not (pack.forms and "{words}" in pack.frame and "{value}" in pack.frame):
        raise PackError(f"{name}.toml: near: needs forms, and a frame with {{words}} and {{value}}")
    vendors = all_words(pack.near)
    parts = {"{vendors}": "|".join(vendors), "{assign}": pack.assign, "{open}": pack.open}
    rules = [
        msgspec.structs.replace(
            rule,
            keywords=vendors if rule.keywords == ("{vendors}",) else rule.keywords,
            regex=_filled(rule.regex, parts),
        )
        for rule in pack.rule
    ]
    try:
        made = [*tokens(pack.token), *nears(pack.near, _filled(pack.frame, parts), pack.forms)]
    except (KeyError, ValueError) as error:
        unknown = "a hole with an unknown one: " if isinstance(error, KeyError) else ""
        raise PackError(f"{name}.toml: {unknown}{error}") from None
    return rules + [Rule(**msgspec.structs.asdict(one)) for one in made]


def _filled(text: str, parts: dict[str, str]) -> str:
    for name, part in parts.items():
        text = text.replace(name, part)
    return text


def compiled(text: bytes, name: str) -> tuple[Compiled, ...]:
    """Check and compile a file's text; raises `PackError` with all faults."""
    pack, made, problems = read(text, name), list[Compiled](), list[str]()
    rules = written(pack, name)
    for rule in rules:
        try:
            made.append(_compile(rule, pack))
        except PackError as error:
            problems.append(f"{name}.toml: rule {rule.id}: {error}")
    problems += _twice(rules, f"{name}.toml")
    if problems:
        raise PackError("\n".join(problems))
    return tuple(made)


def _twice(rules: Iterable[Rule], where: str) -> list[str]:
    ids = Counter(rule.id for rule in rules)
    return [f"{where}: rule {one}: the id is given twice" for one, count in sorted(ids.items()) if count > 1]


def _compile(rule: Rule, pack: Pack) -> Compiled:
    kind = rule.kind or pack.kind
    if not kind or not rule.keywords or not rule.hits or not rule.misses:
        raise PackError("kind, keywords, hits and misses must not be empty")
    if rule.check and rule.check not in CHECKS:
        raise PackError(f"no check {rule.check!r}; there are: {', '.join(sorted(CHECKS))}")
    tight = pattern(rule.regex)
    if tight.groups > 1:
        raise PackError(f"at most one group, which is what is taken; found {tight.groups}")
    loose = pattern(rule.regex.replace(r"\b", "")) if rule.joined else None
    least = pack.entropy if rule.entropy is None else rule.entropy
    return Compiled(
        rule,
        kind,
        least,
        pack.placeholders,
        tight.groups > 0,
        tight,
        loose,
        pattern(rule.unless) if rule.unless else None,
    )


def holds(one: Compiled, value: bytes, match: Match) -> bool:
    """The conditions of a rule beside its pattern; `value` is what would be taken."""
    rule = one.rule
    if value[:1] == b"[" and MARK.fullmatch(value):
        return False
    if (one.placeholders and placeholder(value)) or (one.entropy and not varied(value, one.entropy)):
        return False
    if rule.digits and digits_in(value) < rule.digits:
        return False
    if rule.check and not CHECKS[rule.check](value):
        return False
    return one.unless is None or one.unless.search(match.group()) is None
