"""From an ask to a question the choice understands: semantic checks, parameters, hashes. Pure."""

from __future__ import annotations

import hashlib
import math
import re

from msgspec.structs import replace

from understudy.actors.selector import structured
from understudy.actors.selector.choose import Question
from understudy.actors.selector.views import Knowledge
from understudy.messages.generate import ADVICE, FailCode, Failed, Generate, Parameters
from understudy.messages.hashes import keyed_hash
from understudy.messages.privacy import OWN_LABELS, Privacy
from understudy.messages.topology import Latency, Topology

_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
_RESUMED = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
"""A model's own words, perhaps with a wrongly decoded quote or two: for these a broken answer is not given up."""
CHARS_PER_TOKEN = 3.5
"""A cautious guess for the prompt's length before any tokenizer has seen it."""


class Refusal(Exception):
    """An ask that cannot be admitted; carries the reply."""

    def __init__(self, failed: Failed) -> None:
        super().__init__(failed.code)
        self.failed = failed


def refuse(code: FailCode, text: str = "", path: str | None = None, rejected: dict[str, int] | None = None) -> Refusal:
    """A refusal with the code's advice appended."""
    return Refusal(Failed(code=code, text=f"{text} {ADVICE[code]}".strip(), path=path, rejected=rejected or {}))


def no_model(rejected: dict[str, int], unnamed: bool) -> Refusal:
    """A refusal for want of any candidate; where the request's own user is what is missing, it says so."""
    if unnamed and rejected.get("needs_consent"):
        text = "Nothing of a request without `user_id` leaves this machine: say whose it is."
        return refuse("no_allowed_model", text, "$.user_id", rejected)
    return refuse("no_allowed_model", rejected=rejected)


def check(ask: Generate) -> None:
    """What types cannot say: control characters, an empty conversation end. Raises Refusal `invalid` with the path."""
    is_empty = True
    for i, turn in enumerate(ask.messages):
        if not turn.content.isprintable():
            refuse_control(turn.content, f"$.messages[{i}].content")
        is_empty = is_empty and (turn.role == "system" or not turn.content.strip())
    for i, stop in enumerate(ask.stop):
        refuse_control(stop, f"$.stop[{i}]")
    if is_empty:
        raise refuse("invalid", "No message has any content.", "$.messages")
    fault = structured.fault(ask)
    if fault is not None:
        raise refuse("invalid", fault.text, fault.path)
    for i, label in enumerate(ask.labels):
        if label in OWN_LABELS:
            raise refuse("invalid", f"{label!r} is what we mark answers with; take another word.", f"$.labels[{i}]")
    if ask.resume is not None and _RESUMED.search(ask.resume.text):
        raise refuse("invalid", "Control character in the resumed text.", "$.resume.text")


def refuse_control(text: str, path: str) -> None:
    """Raises Refusal `invalid` for control characters, with the place of the first one."""
    bad = None if text.isprintable() else _CONTROL.search(text)
    if bad is not None:
        found = f"control character U+{ord(bad.group()):04X} at character {bad.start()}"
        raise refuse("invalid", f"{found}; only tab and line ends are allowed.", path)


def question(ask: Generate, knowledge: Knowledge, seed: int) -> tuple[Question, Parameters, Latency, Topology]:
    """Resolve task, alias, parameters and latency class. Raises Refusal `unknown_task`, `unknown_model`, `internal`."""
    topology = knowledge.topology
    if topology is None:
        raise refuse("internal", "No topology has been applied yet.")
    task_name = ask.task or ("general" if "general" in topology.tasks else next(iter(topology.tasks)))
    task = topology.tasks.get(task_name)
    if task is None:
        known = ", ".join(sorted(topology.tasks))
        raise refuse("unknown_task", f"No task {task_name!r}; known are: {known}.", "$.task")
    model = model_of(knowledge, ask.model) if ask.model else None
    parameters = Parameters(
        max_tokens=ask.max_tokens or task.max_tokens,
        temperature=task.temperature if ask.temperature is None else ask.temperature,
        top_p=task.top_p if ask.top_p is None else ask.top_p,
        stop=ask.stop,
        seed=seed if ask.seed is None else ask.seed,
    )
    chars = sum(len(turn.content) + 8 for turn in ask.messages) + (len(ask.resume.text) if ask.resume else 0)
    chars += structured.chars(ask)
    asked = Question(
        task=task_name,
        prompt_tokens=int(chars / CHARS_PER_TOKEN),
        max_tokens=parameters.max_tokens,
        requirements=structured.needs(ask),
        model=model,
        balance=ask.balance,
        privacy=privacy_of(ask, topology),
    )
    patient = ask.traffic == "batch" and "batch" in topology.latency
    return asked, parameters, topology.latency["batch" if patient else task.latency], topology


def privacy_of(ask: Generate, topology: Topology) -> Privacy:
    """The request's word, else the topology's, which is `local_only` unless it says otherwise."""
    return ask.privacy or topology.policy.privacy


def with_consent(question: Question, ask: Generate, knowledge: Knowledge, hash_key: str) -> Question:
    """To whom this request's words may go. What stays here needs nobody's consent."""
    if question.privacy != "external_allowed":
        return question
    user, conversation = (keyed_hash(hash_key, one) for one in (ask.user_id, ask.conversation_id))
    return replace(question, consented=consented(knowledge, question.privacy, user, conversation))


def consented(knowledge: Knowledge, privacy: Privacy, user: str, conversation: str) -> tuple[str, ...]:
    """The providers that a request may go to; `user` and `conversation` are keyed hashes, '' for none."""
    if privacy != "external_allowed" or is_unnamed(knowledge, user):
        return ()
    return knowledge.consented(user, conversation)


def is_unnamed(knowledge: Knowledge, user: str) -> bool:
    """Does it stay here because nobody can find its user's "no"? See `ConsentPlan.without_user`."""
    topology = knowledge.topology
    return not user and (topology is None or not topology.consent.without_user)


def model_of(knowledge: Knowledge, name: str) -> str:
    """The model that an id or alias names. Raises Refusal `unknown_model`."""
    topology = knowledge.topology
    model = topology.aliases.get(name, name) if topology else name
    if model not in knowledge.models:
        raise refuse("unknown_model", f"No model {model!r}.", "$.model")
    return model


def seed_of(run_id: str) -> int:
    """A seed that depends on the run alone, so that a decision and a local answer can be repeated."""
    return int.from_bytes(hashlib.sha256(run_id.encode()).digest()[:6])


def guessed_tokens(text: str) -> int:
    """Of a text that no tokenizer counted: tokenizers work on bytes, so another script's letters count for more."""
    return math.ceil(len(text.encode()) / CHARS_PER_TOKEN)
