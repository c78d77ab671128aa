"""From an ask to a question: refusals with code and path, parameters, hashes."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from understudy.actors.selector import admit
from understudy.actors.selector.admit import Refusal
from understudy.actors.selector.views import Knowledge
from understudy.messages.generate import ADVICE, Generate
from understudy.messages.hashes import keyed_hash

HI = [{"role": "user", "content": "Hi"}]


def ask(**fields: Any) -> Generate:
    return msgspec.convert({"messages": HI, **fields}, Generate)


def said(*contents: str, role: str = "user") -> list[dict[str, str]]:
    return [{"role": role, "content": c} for c in contents]


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"messages": said("ok", "a\x00b")}, "$.messages[1].content"),
        ({"messages": said("bell\x07")}, "$.messages[0].content"),
        ({"messages": said("del\x7f")}, "$.messages[0].content"),
        ({"messages": said("csi\x9b2J")}, "$.messages[0].content"),
        ({"messages": said("nel\x85")}, "$.messages[0].content"),
        ({"stop": ["END", "\x1b"]}, "$.stop[1]"),
        ({"stop": ["\x80"]}, "$.stop[0]"),
        ({"messages": said("", " \n\t")}, "$.messages"),
        ({"messages": said("only rules", role="system")}, "$.messages"),
        ({"resume": {"run_id": "r", "text": "a\x1b[0m"}}, "$.resume.text"),
    ],
)
def test_invalid_names_the_path(fields: Any, path: str) -> None:
    with pytest.raises(Refusal) as caught:
        admit.check(ask(**fields))
    failed = caught.value.failed
    assert (failed.code, failed.path) == ("invalid", path) and failed.text.endswith(ADVICE["invalid"])


def test_the_text_names_the_character_and_never_the_content() -> None:
    with pytest.raises(Refusal) as caught:
        admit.check(ask(messages=said("secret\x01")))
    assert "U+0001 at character 6" in caught.value.failed.text and "secret" not in caught.value.failed.text


@pytest.mark.parametrize("content", ["tab\tline\nreturn\r", "ünï ☃ 🎭", "x" * 100_000])
def test_ordinary_text_is_admitted(content: str) -> None:
    admit.check(ask(messages=said(content)))


def test_a_stop_may_be_a_line_end_and_a_resumed_answer_may_hold_a_wrongly_decoded_quote() -> None:
    admit.check(ask(stop=["\n\n", "\t"], resume={"run_id": "r", "text": "It\x92s"}))


@pytest.mark.parametrize(
    ("fields", "code", "path"),
    [
        ({"task": "nope"}, "unknown_task", "$.task"),
        ({"model": "nope"}, "unknown_model", "$.model"),
    ],
)
def test_unknown_names(stage: Any, fields: Any, code: str, path: str) -> None:
    with pytest.raises(Refusal) as caught:
        admit.question(ask(**fields), stage().state.knowledge, 0)
    assert (caught.value.failed.code, caught.value.failed.path) == (code, path)


def test_without_a_topology_it_is_our_fault() -> None:
    with pytest.raises(Refusal) as caught:
        admit.question(ask(), Knowledge(), 0)
    assert caught.value.failed.code == "internal"


TASKS = {
    "short": {"max_tokens": 5, "temperature": 0.1, "top_p": 0.5, "latency": "batch"},
    "other": {"max_tokens": 9},
}


def test_parameters_come_from_the_ask_then_the_task(stage: Any) -> None:
    knowledge = stage(tasks=TASKS).state.knowledge
    question, p, latency, _ = admit.question(ask(task="short"), knowledge, 7)
    assert (p.max_tokens, p.temperature, p.top_p, p.seed) == (5, 0.1, 0.5, 7)
    assert question.task == "short" and latency.deadline_ms == 600_000
    fields = {"max_tokens": 3, "temperature": 0.0, "top_p": 0.9, "seed": 0, "stop": ["."]}
    _, p, _, _ = admit.question(ask(task="short", **fields), knowledge, 7)
    assert (p.max_tokens, p.temperature, p.top_p, p.seed, p.stop) == (3, 0.0, 0.9, 0, (".",))


def test_without_general_the_first_task_is_the_default(stage: Any) -> None:
    question, _, _, _ = admit.question(ask(), stage(tasks=TASKS).state.knowledge, 0)
    assert question.task == "short"


def test_an_alias_is_resolved(stage: Any) -> None:
    question, _, _, _ = admit.question(ask(model="nick"), stage(aliases={"nick": "b"}).state.knowledge, 0)
    assert question.model == "b"


def test_resumed_text_counts_as_prompt(stage: Any) -> None:
    knowledge = stage().state.knowledge
    short, _, _, _ = admit.question(ask(), knowledge, 0)
    long, _, _, _ = admit.question(ask(resume={"run_id": "r", "text": "x" * 700}), knowledge, 0)
    assert long.prompt_tokens - short.prompt_tokens == 200


def test_hashes_are_keyed_and_short_and_none_is_none() -> None:
    one, two = keyed_hash("k1", "user"), keyed_hash("k2", "user")
    assert one != two and len(one) == 32 and "user" not in one
    assert keyed_hash("k1", "user") == one
    assert keyed_hash("k1", None) == keyed_hash("k1", "") == ""


def test_seeds_depend_on_the_run_alone() -> None:
    assert admit.seed_of("r1") == admit.seed_of("r1") != admit.seed_of("r2")
    assert 0 <= admit.seed_of("r1") < 2**48
