"""Who may be asked to pull a model: the manager passes the order on, or says what would be right."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from tests.actors.model_manager.managed import T0, Table
from understudy.messages.generate import Failed
from understudy.messages.pulls import PullModel, PullOrder
from understudy.messages.step import Asked, Send
from understudy.messages.topology import Topology

INBOX = "_INBOX_A.operator.1"
BARE = {"kind": "ollama", "url": "http://127.0.0.1:1"}
PROVIDERS: dict[str, Any] = {
    "home": {**BARE, "catalogue": {}},
    "old.house": BARE,
    "idle": BARE,
    "lab": {"kind": "openai", "url": "http://127.0.0.1:1/v1"},
    "here": {"kind": "local"},
}
MODELS = {"tale": {"provider": "old.house"}}


def sent(provider: str, reply: str = INBOX, **fields: Any) -> list[Send]:
    table = Table()
    raw = {"version": 1, "models": MODELS, "providers": PROVIDERS}
    table.declare(msgspec.convert(raw, Topology))
    table.asked.clear()
    table.feed(Asked(T0, "id", "s", reply, PullModel(provider=provider, name="tale:1b", **fields)))
    return table.asked


@pytest.mark.parametrize(("provider", "token"), [("home", "home"), ("old.house", "old_house")])
def test_the_provider_s_own_process_answers_whoever_asked(provider: str, token: str) -> None:
    order = PullOrder(name="tale:1b", insecure=True)
    assert sent(provider, insecure=True) == [Send(f"tta.ask.runner.pull.{token}", order, reply=INBOX)]


def test_nobody_could_end_what_is_asked_without_an_inbox() -> None:
    assert sent("home", reply="") == []


@pytest.mark.parametrize(
    ("provider", "words"),
    [
        ("lab", "'lab' is of the kind openai. Such are: home, old.house, idle."),
        ("here", "'here' is of the kind local."),
        ("nowhere", "'nowhere' is unknown. Such are: home"),
        ("idle", "'idle' has no process: give it a `catalogue`"),
    ],
)
def test_any_other_provider_is_refused_with_what_would_be_right(provider: str, words: str) -> None:
    (refusal,) = sent(provider)
    assert refusal.subject == INBOX and isinstance(refusal.message, Failed)
    assert (refusal.message.code, refusal.message.path) == ("invalid", "$.provider")
    assert words in refusal.message.text
    assert provider == "idle" or "kind ollama" in refusal.message.text
