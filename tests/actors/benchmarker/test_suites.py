"""Suites: the shipped ones are whole and as the script makes them; what is wrong in one is said, all of it."""

from __future__ import annotations

import re
from collections import Counter

import msgspec
import pytest

from understudy.actors.benchmarker import suite
from understudy.actors.benchmarker.scorers import Answer, score
from understudy.actors.benchmarker.scorers.specs import Exact, Json, Number, Tools
from understudy.messages.tools import ToolCall
from understudy.tools.suites import make

HEAD = b'{"suite":"mine","about":"a","source":"s","licence":"l","task":"t"}\n'
ITEM = b'{"id":"one","prompt":"2+2?","score":{"kind":"number","value":4}}\n'


def shipped() -> dict[str, suite.File]:
    return {path.stem: suite.read(path.read_bytes(), path.name) for path in make.FOLDER.glob("*.jsonl")}


def test_the_files_are_what_the_script_makes() -> None:
    made = {f"{name}.jsonl": make.text_of(lines) for name, lines in make.suites().items()}
    assert {path.name: path.read_text(encoding="utf-8") for path in make.FOLDER.iterdir()} == made


def test_several_hundred_items_each_with_a_source_and_a_licence() -> None:
    files = shipped()
    assert sum(len(one.items) for one in files.values()) >= 400
    assert set(files) == {*make.STANDARD, "standard"}
    assert all(one.head.source and one.head.licence for one in files.values())
    standard = suite.build(files["standard"], files)
    assert len(standard.questions) >= 100
    assert {one.task for one in standard.questions} >= {"mathematics", "json", "tools", "narrative", "therapeutic"}
    assert standard.rules == "interim"  # because of the therapeutic items in it


def test_no_id_twice_in_all_and_no_prompt_twice_in_a_suite() -> None:
    files = shipped()
    ids = Counter(item.id for one in files.values() for item in one.items)
    assert [name for name, count in ids.items() if count > 1] == []
    for name in ("questions", "therapeutic", "narrative", "tools"):
        asked = Counter((item.prompt, item.messages) for item in files[name].items if item.prompt)
        assert len(asked) >= 0.8 * len(files[name].items)


def test_every_right_answer_has_the_full_score_and_silence_none() -> None:
    for question in [q for file in shipped().values() if not file.head.includes for q in _questions(file)]:
        right = _right(question)
        if right is not None:
            assert score(question.score, right).score_u == 1_000_000, question.id
        nothing = score(question.score, Answer("")).score_u
        assert nothing == (1_000_000 if question.score == Tools(calls=()) else 0), question.id


def test_right_answers_in_other_usual_forms_have_the_full_score() -> None:
    by_prompt = {one.messages[-1].content: one for one in _questions(shipped()["questions"])}
    forms = {
        "At how many degrees Celsius does water boil at sea level?": ("100°C", "100 degrees Celsius"),
        "Which bird cannot fly and lives in Antarctica?": ("Penguins",),
        "Spell the word cat backwards.": ("tac", "T-A-C"),
        "Which two colours are on a chessboard most often?": ("White, black.",),
        "Which gas do plants take in from the air to make sugar?": ("CO₂", "Carbon dioxide (CO2)"),
    }
    for prompt, said in forms.items():
        assert [score(by_prompt[prompt].score, Answer(one)).score_u for one in said] == [1_000_000] * len(said), prompt
    hours = [one for one in _questions(shipped()["mathematics"]) if one.id.startswith("math-clock")]
    assert all(score(one.score, Answer(f"{one.score.value:g}:00")).score_u == 1_000_000 for one in hours)  # type: ignore[union-attr]


def test_what_needs_no_tool_cannot_be_said_by_one() -> None:
    none = [one for one in _questions(shipped()["tools"]) if one.score == Tools(calls=())]
    assert len(none) == 8 and not any(tool.name == "say" for one in none for tool in one.tools)


def test_scenes_are_english() -> None:
    scenes = [one.messages[-1].content for one in _questions(shipped()["narrative"])]
    assert not any(re.search(r"\b[Aa] [aeiou]", one.split("\n")[0]) for one in scenes)


def _questions(file: suite.File) -> tuple[suite.Question, ...]:
    return suite.build(file, {}).questions


def _right(question: suite.Question) -> Answer | None:
    match question.score:
        case Exact(answers=answers):
            return Answer(answers[0])
        case Number(value=value):
            return Answer(f"It is {value:g}." if value == int(value) else f"{value}")
        case Json(equals=equals):
            return Answer(msgspec.json.encode(equals).decode())
        case Tools(calls=calls):
            made = [(call.name, msgspec.json.encode(call.arguments).decode()) for call in calls]
            return Answer("", tuple(ToolCall(id=f"c{n}", name=name, arguments=a) for n, (name, a) in enumerate(made)))
        case _:
            return None


def test_the_hash_is_over_what_scores_depend_on_and_nothing_else() -> None:
    first = suite.build(suite.read(HEAD + ITEM, "f"), {})
    told = suite.build(suite.read(HEAD.replace(b'"a"', b'"other words"') + b"\n" + ITEM, "f"), {})
    assert told.hash == first.hash
    for before, after in ((b"2+2?", b"2 + 2?"), (b'"value":4', b'"value":5'), (b'"id":"one"', b'"id":"two"')):
        assert suite.build(suite.read(HEAD + ITEM.replace(before, after), "f"), {}).hash != first.hash
    longer = HEAD.replace(b"}", b',"max_tokens":5}')
    assert suite.build(suite.read(longer + ITEM, "f"), {}).hash != first.hash


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "nothing in it"),
        (HEAD, "line 1: neither items nor `includes`"),
        (HEAD + b"{", "line 2: "),
        (HEAD + ITEM + ITEM, "'one' is given 2 times"),
        (HEAD + ITEM.replace(b'"prompt":"2+2?",', b""), "line 2: $.prompt: give a prompt, or messages"),
        (HEAD + ITEM.replace(b'"prompt"', b'"promt"'), "line 2: Object contains unknown field `promt`"),
        (HEAD + ITEM.replace(b'"value":4', b'"value":4,"tolerance":-1'), "`$.score.tolerance`"),
        (HEAD + ITEM.replace(b'"value":4', b'"value":4,"tolerance":2,"zero_at":1'), "line 2: $.score.zero_at: is 1"),
        (HEAD + ITEM.replace(b"number", b"nmber"), "`$.score.kind`"),
        (HEAD.replace(b',"task":"t"', b"") + ITEM, "line 2: $.task: neither the item nor the head"),
        (HEAD + b'{"id":"x","prompt":"p","score":{"kind":"tools"}}', "line 2: $.tools: a scorer of tool calls"),
        (
            HEAD + b'{"id":"x","prompt":"p","tools":[{"name":"a"}],"score":{"kind":"tools","calls":[{"name":"b"}]}}',
            "line 2: $.score.calls[0].name: 'b' is none of the tools: a",
        ),
        (HEAD + ITEM.replace(b'"prompt"', b'"tool_choice":"b","prompt"'), "line 2: $.tool_choice: 'b': give auto"),
        (HEAD + b'{"id":"x","prompt":"p","score":{"kind":"json","schema":{"type":1}}}', "line 2: $.score.schema: "),
        (
            HEAD + b'{"id":"x","prompt":"p","score":{"kind":"json","schema":{"type":"string"},"equals":1}}',
            "line 2: $.score.equals: does not fit",
        ),
        (HEAD.replace(b"}", b',"includes":[{"suite":"q","items":1}]}') + ITEM, "no items of its own"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_with_its_line(content: bytes, said: str) -> None:
    with pytest.raises(suite.SuiteFault) as fault:
        suite.read(content, "mine.jsonl")
    assert said in str(fault.value)
    assert str(fault.value).startswith("mine.jsonl: ")


def test_all_faults_are_said_at_once() -> None:
    bad = HEAD + b'{"id":"x"}\n{"id":"y","prompt":"p","score":{"kind":"nothing"}}\n' + ITEM.replace(b'"2+2?"', b'""')
    with pytest.raises(suite.SuiteFault) as fault:
        suite.read(bad, "f")
    assert [line.split(": ")[1] for line in str(fault.value).splitlines()] == ["line 2", "line 3", "line 4"]


def test_what_is_included_has_to_be_there() -> None:
    head = b'{"suite":"m","about":"a","source":"s","licence":"l","includes":[{"suite":"%s","items":%d}]}'
    files = shipped()
    with pytest.raises(suite.SuiteFault, match=r"includes\[0\].suite: 'qestions' is none of"):
        suite.build(suite.read(head % (b"qestions", 1), "f"), files)
    with pytest.raises(suite.SuiteFault, match=r"includes\[0\].items: 999, and questions has 80"):
        suite.build(suite.read(head % (b"questions", 999), "f"), files)
    some = suite.build(suite.read(head % (b"questions", 8), "f"), files)
    assert [one.id for one in some.questions] == [f"question-{n:02}" for n in range(0, 80, 10)]
