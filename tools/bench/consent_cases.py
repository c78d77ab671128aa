"""The cases of `bench consent`: what must not leave, each with a control that differs in that one thing and does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import msgspec
from msgspec.structs import replace

from understudy.actors.runner.dialects import BY_KIND
from understudy.actors.safety_validator.examples import example
from understudy.actors.safety_validator.scan import MAX_FINDINGS, scanner
from understudy.messages.topology import Topology
from understudy.tools.bench.stage import topology_on

DIALECTS = ("openai", "openai_responses", "openrouter", "anthropic", "ollama")
PATHS = {"openai": "/v1", "openai_responses": "/v1", "anthropic": "/v1", "openrouter": "/api/v1", "ollama": ""}
Form = Literal["stream", "single", "embed"]
Path = Literal["first", "fallback", "runner"]
"""The first attempt; behind a model of this machine that breaks off; an order put to the runner past the selector."""

OLD_TEXT = "Your words go to a company."
TEXT = "Your words go to a company that keeps them for thirty days."
JUDGE_MS = 250
LONG = "Walk to the mill and look at the wheel. " * 15_000
"""It is read for a few tenths of a second, in a thread."""
CONTEXT_TOKENS = 1_000_000


class Try(msgspec.Struct, frozen=True, kw_only=True):
    """One ask. `judge`: is there somebody who answers `safety.judge`? `leaves`: while the order waits there, its user,
    who had agreed, withdraws; only once that was confirmed does it go on."""

    text: str = "Walk to the mill."
    user: str = "agreed"
    privacy: Literal["local_only", "external_allowed"] | None = "external_allowed"
    judge: bool = True
    leaves: Literal["", "judge", "scan"] = ""
    fields: dict[str, Any] = {}


class Situation(msgspec.Struct, frozen=True, kw_only=True):
    """What must keep an ask from leaving, beside the same without it. `policies`: `pii` of the topology for the two."""

    name: str
    case: Try
    control: Try = Try()
    policies: tuple[str, str] = ("redact", "redact")
    chat_only: bool = False


def _mails(count: int) -> str:
    return "Write to " + ", ".join(f"reader{n}@lantern{n % 97}.org" for n in range(count))


def _secret() -> str:
    """Made now, so that no key stands in a file."""
    rule = next(one.rule for one in scanner("secrets").rules if one.rule.id.startswith("anthropic"))
    return example(rule.hits[0])


def _tool(words: str) -> dict[str, Any]:
    place = {"type": "object", "properties": {"place": {"type": "string"}, "closely": {"type": "boolean"}}}
    return {"tools": [{"name": "look_around", "description": words, "parameters": place}]}


def situations() -> tuple[Situation, ...]:
    """All of them."""
    secret = _secret()
    mail = Try(text="Write to anna.berg@lantern.org about the mill.")
    schema = {"type": "object", "properties": {"place": {"type": "string", "description": secret}}}
    plain = {"type": "object", "properties": {"place": {"type": "string", "description": "where"}}}

    def json_of(one: dict[str, Any]) -> Try:
        return Try(fields={"format": {"type": "json_schema", "schema": one}})

    return (
        Situation(name="no_consent", case=Try(user="stranger")),
        Situation(name="withdrawn", case=Try(user="withdrew")),
        Situation(name="older_text", case=Try(user="older")),
        Situation(name="crisis_3", case=Try(text="[level 3] Walk."), control=Try(text="[level 2] Walk.")),
        Situation(name="crisis_4", case=Try(text="[level 4] Walk."), control=Try(text="[level 0] Walk.")),
        Situation(name="judge_raises", case=Try(text="[raise] Walk."), control=Try(text="[level 1] Walk.")),
        Situation(name="judge_late", case=Try(text="[late] Walk."), control=Try(text="[level 1] Walk.")),
        Situation(name="judge_absurd", case=Try(text="[level 9] Walk."), control=Try(text="[level 1] Walk.")),
        Situation(name="judge_absent", case=Try(judge=False)),
        Situation(name="scanner_raises", case=Try(text=_mails(MAX_FINDINGS + 1)), control=Try(text=_mails(3))),
        Situation(name="secret", case=Try(text=f"Use {secret} there."), control=Try(text="Use the lamp there.")),
        Situation(
            name="secret_in_tool", case=Try(fields=_tool(secret)), control=Try(fields=_tool("Look.")), chat_only=True
        ),
        Situation(name="secret_in_schema", case=json_of(schema), control=json_of(plain), chat_only=True),
        Situation(name="pii_refused", case=mail, control=mail, policies=("refuse", "redact")),
        Situation(name="leaves_at_judge", case=Try(leaves="judge")),
        Situation(name="leaves_at_scan", case=Try(leaves="scan", text=LONG), control=Try(text=LONG)),
        Situation(name="local_only", case=Try(privacy="local_only")),
        Situation(name="default_policy", case=Try(privacy=None)),
    )


class Ask(msgspec.Struct, frozen=True, kw_only=True):
    """One situation, in one dialect, form and path; `blocked`: the case, else its control."""

    number: int
    situation: Situation
    dialect: str
    form: Form
    path: Path
    blocked: bool

    @property
    def tried(self) -> Try:
        """What is asked."""
        return self.situation.case if self.blocked else self.situation.control

    @property
    def user(self) -> str:
        """Who asks. One who leaves does so once."""
        return f"leaves-{self.number}" if self.tried.leaves else self.tried.user

    @property
    def policy(self) -> str:
        """`policy.pii` of the topology that it needs."""
        return self.situation.policies[0 if self.blocked else 1]

    @property
    def model(self) -> str:
        """The model that is named."""
        return self.broken if self.path == "fallback" else outside(self.dialect, self.form)

    @property
    def broken(self) -> str:
        """A model of this machine, of its own: no other's failures have rested it. Text breaks in the middle."""
        return f"{'500' if self.form == 'embed' else 'cut'}@{self.number}"


def outside(dialect: str, form: Form) -> str:
    """The model elsewhere."""
    if form == "embed":
        return f"ok@{dialect}-vectors"
    return f"{'able-instructed' if dialect == 'openai_responses' else 'able'}@{dialect}-text"


def asks(quick: bool = False) -> tuple[Ask, ...]:
    """Every case followed by its control. `quick`: every 21st pair."""
    pairs: list[tuple[Situation, str, Form, Path]] = []
    for situation in situations():
        for dialect in DIALECTS:
            for form in ("stream", "single", "embed"):
                if form == "embed" and (BY_KIND[dialect].EMBEDDINGS is None or situation.chat_only):
                    continue
                paths: tuple[Path, ...] = ("first", "fallback", "runner")
                for path in paths:
                    if path != "runner" or form != "stream":  # a runner streams always
                        pairs.append((situation, dialect, form, path))
    found: list[Ask] = []
    for number, (situation, dialect, form, path) in enumerate(pairs[::21] if quick else pairs):
        case = Ask(number=2 * number, situation=situation, dialect=dialect, form=form, path=path, blocked=True)
        found += [case, replace(case, number=2 * number + 1, blocked=False)]
    return tuple(found)


def topology(root: str, ports: dict[str, int], asked: Sequence[Ask], text: str, pii: str) -> Topology:
    """Providers that stand for vendors, each behind its counter; and one of this machine whose models break.

    Models elsewhere are only those that are asked: a runner for each provider reads its rules for a while.
    """
    chat = {"capabilities": ["chat", "tools", "json"], "context_tokens": CONTEXT_TOKENS}
    vectors = {"capabilities": ["embeddings"], "context_tokens": CONTEXT_TOKENS}
    providers: dict[str, dict[str, Any]] = {"here": {"kind": "openai", "url": f"{root}/v1", "max_connections": 512}}
    models: dict[str, dict[str, Any]] = {}
    for dialect in DIALECTS:
        url = f"http://127.0.0.1:{ports[dialect]}{PATHS[dialect]}"
        providers[dialect] = {"kind": dialect, "url": url, "location": "external"}
        continues = "instructed" if dialect == "openai_responses" else "native"
        if not any(one.dialect == dialect for one in asked):
            continue
        models[outside(dialect, "single")] = {**chat, "provider": dialect, "continues": continues}
        if BY_KIND[dialect].EMBEDDINGS is not None:
            models[outside(dialect, "embed")] = {**vectors, "provider": dialect}
    for one in asked:
        if one.path == "fallback":
            facts = vectors if one.form == "embed" else chat
            models[one.broken] = {**facts, "provider": "here", "fallbacks": [outside(one.dialect, one.form)]}
    return topology_on(
        root,
        models,
        providers=providers,
        policy={"failover_minimum": 10_000, "pii": pii, "judge_ms": JUDGE_MS},
        consent={"text": text},
    )
