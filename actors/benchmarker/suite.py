"""Suites as values: what is asked of a model, and how each answer is scored. Pure: files are read elsewhere.

A suite is a file of JSON lines: first its head, then an item a line. A head that `includes` other suites has no items
of its own: it takes so many of each, evenly spread. Equal items have one hash, whatever the head says about them.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, TypeVar

import msgspec
from msgspec import Meta
from msgspec.structs import replace

from understudy.actors.benchmarker.scorers import FORMULAS
from understudy.actors.benchmarker.scorers.specs import Scorer, Speed, Tools, faults
from understudy.messages import json_schema
from understudy.messages.base import Part
from understudy.messages.generate import Capability, Turn
from understudy.messages.tools import AUTO, NONE, REQUIRED, Format, Tool
from understudy.messages.units import Count, Positive, Word

MOST_ITEMS = 2_000
MOST_BYTES = 4_000_000
HASH_CHARS = 16


class SuiteFault(ValueError):
    """A suite that cannot be used: every fault with its line and path."""

    code = "bad_suite"


class Include(Part, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """So many items of another suite, evenly spread over it."""

    suite: Word
    items: Positive


class Head(Part, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What holds for all items that say nothing else. `system`: said first. `rules`: it is judged by."""

    suite: Word
    version: Positive = 1
    about: Annotated[str, Meta(min_length=1)]
    source: Annotated[str, Meta(min_length=1)]
    licence: Annotated[str, Meta(min_length=1)]
    task: Word | None = None
    max_tokens: Annotated[int, Meta(ge=1, le=8_192)] = 128
    system: str = ""
    rules: str = ""
    includes: tuple[Include, ...] = ()


class Item(Part, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One item as its file has it: a prompt, or a conversation; the rest is its head's where it says nothing.

    `format`: sent to models that can be held to it; others are asked by the prompt's words, which must say it too.
    """

    id: Word
    prompt: str = ""
    messages: tuple[Turn, ...] = ()
    score: Scorer
    task: Word | None = None
    weight: Annotated[int, Meta(ge=1, le=1_000)] = 1
    tools: tuple[Tool, ...] = ()
    tool_choice: str = AUTO
    format: Format | None = None
    max_tokens: Annotated[int, Meta(ge=1, le=8_192)] | None = None
    source: str = ""
    licence: str = ""


class Question(Part, frozen=True, kw_only=True):
    """An item ready to be asked: all that its score depends on, which is what the hash is over."""

    id: Word
    task: Word
    messages: tuple[Turn, ...]
    score: Scorer
    weight: Count = 1
    max_tokens: Count = 128
    tools: tuple[Tool, ...] = ()
    tool_choice: str = AUTO
    format: Format | None = None

    @property
    def needs(self) -> tuple[Capability, ...]:
        """What a model must be able to do to be asked at all."""
        return ("tools",) if self.tools else ()

    @property
    def at_once(self) -> int:
        """So many times it is asked at the same time."""
        return self.score.at_once if isinstance(self.score, Speed) else 1


class Suite(Part, frozen=True, kw_only=True):
    """A suite, whole."""

    name: Word
    about: str
    source: str
    licence: str
    hash: str
    questions: tuple[Question, ...]
    rules: str = ""


class File(Part, frozen=True, kw_only=True):
    """A file of a suite, checked; what it includes is not there yet."""

    head: Head
    items: tuple[Item, ...]


def read(content: bytes, name: str) -> File:
    """Decode and check a file strictly. Raises SuiteFault with all faults; `name` stands before each."""
    if len(content) > MOST_BYTES:
        raise SuiteFault(f"{name}: {len(content)} bytes; at most {MOST_BYTES} are taken")
    lines = [(n, line) for n, line in enumerate(content.splitlines(), 1) if line.strip()]
    if not lines:
        raise SuiteFault(f"{name}: nothing in it; the first line is the head, each further line an item")
    problems = list[str]()
    head, items = _decoded(lines[0], Head, problems), list[tuple[int, Item]]()
    for line in lines[1:]:
        item = _decoded(line, Item, problems)
        if item is not None:
            items.append((line[0], item))
    problems += _wrong(head, items)
    if problems or head is None:
        raise SuiteFault("\n".join(f"{name}: {one}" for one in problems))
    return File(head=head, items=tuple(item for _, item in items))


_Line = tuple[int, bytes]
_T = TypeVar("_T")


def _decoded(line: _Line, kind: type[_T], problems: list[str]) -> _T | None:
    try:
        return msgspec.json.decode(line[1], type=kind)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        problems.append(f"line {line[0]}: {error}")
        return None


def _wrong(head: Head | None, items: list[tuple[int, Item]]) -> Iterator[str]:
    """All that types cannot say."""
    if head is not None:
        if head.includes and items:
            yield f"line {items[0][0]}: a suite that includes others has no items of its own; leave one of both out"
        if not head.includes and not items:
            yield "line 1: neither items nor `includes`: there is nothing to ask"
    if len(items) > MOST_ITEMS:
        yield f"line {items[MOST_ITEMS][0]}: {len(items)} items; at most {MOST_ITEMS} are taken"
    for name, count in Counter(item.id for _, item in items).items():
        if count > 1:
            yield f"$.id: {name!r} is given {count} times; each item needs its own"
    for line, item in items:
        for path, text in _of_item(item, head):
            yield f"line {line}: ${path}: {text}"


def _of_item(item: Item, head: Head | None) -> Iterator[tuple[str, str]]:
    if bool(item.prompt) == bool(item.messages):
        yield ".prompt", "give a prompt, or messages, and not both"
    if item.messages and item.messages[-1].role not in ("user", "tool"):
        yield f".messages[{len(item.messages) - 1}].role", "the last turn is what is to be answered: user or tool"
    if item.task is None and (head is None or head.task is None):
        yield ".task", "neither the item nor the head says under which task it counts"
    if isinstance(item.score, Tools) and not item.tools:
        yield ".tools", "a scorer of tool calls needs tools to choose from"
    offered = {tool.name for tool in item.tools}
    if item.tool_choice not in (AUTO, NONE, REQUIRED, *offered):
        yield ".tool_choice", f"{item.tool_choice!r}: give auto, none, required or the name of one of its tools"
    if isinstance(item.score, Tools):
        for n, call in enumerate(item.score.calls):
            if call.name not in offered:
                yield f".score.calls[{n}].name", f"{call.name!r} is none of the tools: {', '.join(sorted(offered))}"
    for path, text in faults(item.score):
        yield f".score{path}", text
    if item.format is not None and item.format.schema is not None:
        try:
            json_schema.check(item.format.schema)
        except json_schema.BadSchema as error:
            yield ".format.schema", str(error)


def build(file: File, others: Mapping[str, File]) -> Suite:
    """Whole, with what it includes. Raises SuiteFault."""
    head, problems, found = file.head, list[str](), list[Question]()
    for n, one in enumerate(head.includes):
        other = others.get(one.suite)
        if other is None or other.head.includes:
            known = ", ".join(sorted(name for name, it in others.items() if not it.head.includes))
            problems.append(f"{head.suite}: line 1: $.includes[{n}].suite: {one.suite!r} is none of: {known}")
        elif one.items > len(other.items):
            path = f"{head.suite}: line 1: $.includes[{n}].items"
            problems.append(f"{path}: {one.items}, and {one.suite} has {len(other.items)}")
        else:
            found += [_question(item, other.head) for item in spread(other.items, one.items)]
    if problems:
        raise SuiteFault("\n".join(problems))
    found += [_question(item, head) for item in file.items]
    rules = {it.head.rules for it in (file, *(others[one.suite] for one in head.includes)) if it.head.rules}
    return Suite(
        name=head.suite,
        about=head.about,
        source=head.source,
        licence=head.licence,
        hash=hash_of(found),
        questions=tuple(found),
        rules=", ".join(sorted(rules)),
    )


def spread(items: Sequence[Item], count: int) -> list[Item]:
    """So many, evenly from the first on."""
    return [items[n * len(items) // count] for n in range(count)]


def cut(suite: Suite, items: int) -> Suite:
    """So many of it, evenly spread; another hash, as other items make other scores."""
    if items >= len(suite.questions):
        return suite
    some = tuple(suite.questions[n * len(suite.questions) // items] for n in range(items))
    return replace(suite, questions=some, hash=hash_of(some))


def _question(item: Item, head: Head) -> Question:
    system = (Turn(role="system", content=head.system),) if head.system else ()
    asked = item.messages or (Turn(role="user", content=item.prompt),)
    return Question(
        id=item.id,
        task=item.task or head.task or head.suite,
        messages=asked if asked[0].role == "system" else system + asked,
        score=item.score,
        weight=item.weight,
        max_tokens=item.max_tokens or head.max_tokens,
        tools=item.tools,
        tool_choice=item.tool_choice,
        format=item.format,
    )


def hash_of(questions: Sequence[Question]) -> str:
    """Over everything that a score depends on, in the order in which it is asked, and the version of the formulas."""
    content = msgspec.json.encode((FORMULAS, questions), order="sorted")
    return hashlib.sha256(content).hexdigest()[:HASH_CHARS]
