"""Each process may publish and subscribe what its topology entry says; the guest may ask and listen, no more."""

from __future__ import annotations

from pathlib import Path

import pytest

from understudy.actors.host.permissions import Seat, User, expand, server_text, users
from understudy.actors.host.topology import read

SEATS = [
    Seat("selector", "s1"),
    Seat("selector", "s2"),
    Seat("runner", "r1", ("m_1", "m_2"), "lab"),
    Seat("runner", "r2", ("m_4",), "hub", True),
    Seat("runner", "r3", (), "empty", True),
    Seat("model_manager", "mm"),
    Seat("health_tracker", "h1"),
    Seat("cost_ledger", "l1"),
]


@pytest.fixture
def found(root: Path) -> dict[str, User]:
    topology = read(root / "topology.yaml")
    passwords = {s.instance: f"pw-{s.instance}" for s in SEATS} | {"operator": "pw-op"}
    return {u.name: u for u in users(topology, SEATS, passwords)}


def covers(pattern: str, subject: str) -> bool:
    """NATS matching: `*` is one token, `>` at the end is the rest."""
    wanted, given = pattern.split("."), subject.split(".")
    for i, token in enumerate(wanted):
        if token == ">":
            return len(given) > i
        if i >= len(given) or token not in ("*", given[i]):
            return False
    return len(wanted) == len(given)


def may(user: User, how: str, subject: str) -> bool:
    return any(covers(p, subject) for p in getattr(user, how))


YES: list[tuple[str, str, str]] = [
    ("s1", "subscribe", "tta.ask.model.generate"),
    ("s1", "subscribe", "tta.ask.model.cancel.s1"),
    ("s1", "subscribe", "_INBOX_A.s1.run.r.0"),
    ("s1", "subscribe", "tta.obs.runner.beat.m_1"),
    ("s1", "publish", "tta.ask.runner.run.lab.m_1"),
    ("s1", "publish", "tta.ask.runner.cancel.r1"),
    ("s1", "publish", "tta.evt.request.ended"),
    ("s1", "publish", "tta.evt.attempt.ended.m_1"),
    ("s1", "publish", "tta.trace.selection.made.s1"),
    ("s1", "publish", "_INBOX.guest.1"),
    ("r1", "subscribe", "tta.ask.runner.run.lab.m_2"),
    ("r2", "subscribe", "tta.ask.runner.run.hub.whatever"),
    ("r2", "subscribe", "tta.ask.runner.list.hub"),
    ("r2", "publish", "_INBOX_A.mm.run.hub-1"),
    ("r2", "publish", "tta.evt.model.loaded.m_4"),
    ("r1", "publish", "tta.evt.key.refused.lab"),
    ("r3", "publish", "tta.evt.key.refused.empty"),
    ("mm", "publish", "tta.ask.runner.list.hub"),
    ("mm", "publish", "tta.ask.runner.pull.hub"),
    ("mm", "subscribe", "tta.ask.catalogue.pull"),
    ("r2", "subscribe", "tta.ask.runner.pull.hub"),
    ("r2", "publish", "_INBOX_A.operator.pull"),
    ("r2", "publish", "tta.ask.catalogue.refresh"),
    ("mm", "publish", "tta.evt.model.registered.hub"),
    ("s1", "publish", "tta.evt.model.retired.m_1"),
    ("r1", "subscribe", "tta.ask.runner.cancel.r1"),
    ("r1", "publish", "_INBOX_A.s1.run.x.0"),
    ("r1", "publish", "_INBOX_A.h1.probe.x"),
    ("r1", "publish", "tta.obs.runner.beat.r1"),
    ("r1", "publish", "tta.evt.model.loaded.m_1"),
    ("h1", "publish", "tta.ask.runner.run.lab.m_1"),
    ("h1", "publish", "tta.evt.model.degraded.m_1"),
    ("h1", "subscribe", "tta.obs.process.gone.x"),
    ("s1", "publish", "tta.ask.ledger.reserve"),
    ("l1", "publish", "_INBOX_A.s1.run.x.0.reserve"),
    ("l1", "publish", "tta.evt.cost.reserved"),
    ("guest", "publish", "tta.ask.model.generate"),
    ("guest", "publish", "tta.ask.model.cancel.s1"),
    ("guest", "publish", "tta.ask.feedback.give"),
    ("guest", "subscribe", "tta.live.model.degraded.m_1"),
    ("guest", "subscribe", "_INBOX.guest.1"),
    ("operator", "publish", "anything"),
]
NO: list[tuple[str, str, str]] = [
    ("s1", "subscribe", "tta.ask.model.cancel.s2"),
    ("s1", "subscribe", "_INBOX_A.s2.run.r.0"),
    ("s1", "subscribe", "_INBOX.guest.1"),
    ("s1", "subscribe", "tta.ask.runner.run.lab.m_1"),
    ("s1", "publish", "tta.evt.model.degraded.m_1"),
    ("s1", "publish", "_INBOX_A.s2.x"),
    ("s1", "publish", "tta.live.model.degraded.m_1"),
    ("s1", "publish", "$JS.API.STREAM.DELETE.TTA_EVT"),
    ("r1", "subscribe", "tta.ask.runner.run.lab.m_3"),
    ("r2", "subscribe", "tta.ask.runner.run.lab.m_1"),
    ("r2", "subscribe", "tta.ask.runner.list.lab"),
    ("r2", "publish", "tta.evt.model.registered.hub"),
    ("r3", "publish", "tta.evt.model.loaded.m_1"),
    ("r3", "publish", "tta.evt.key.refused.lab"),
    ("r1", "publish", "tta.evt.key.refused.m_1"),
    ("s1", "publish", "tta.ask.runner.list.hub"),
    ("s1", "publish", "tta.evt.model.registered.hub"),
    ("mm", "publish", "tta.ask.runner.run.lab.m_1"),
    ("guest", "publish", "tta.ask.runner.list.hub"),
    ("guest", "publish", "tta.ask.runner.pull.hub"),
    ("guest", "publish", "tta.ask.catalogue.pull"),
    ("guest", "subscribe", "_INBOX_A.operator.pull"),
    ("r1", "publish", "tta.ask.catalogue.pull"),
    ("r1", "publish", "tta.ask.runner.pull.hub"),
    ("r1", "subscribe", "tta.ask.runner.pull.hub"),
    ("s1", "publish", "tta.ask.runner.pull.hub"),
    ("mm", "publish", "_INBOX_A.operator.pull"),
    ("r1", "subscribe", "tta.ask.model.generate"),
    ("r1", "subscribe", "_INBOX_A.s1.run.x.0"),
    ("r1", "publish", "tta.evt.request.ended"),
    ("r1", "publish", "tta.trace.selection.made.x"),
    ("h1", "subscribe", "tta.ask.model.generate"),
    ("h1", "publish", "_INBOX.guest.1"),
    ("r1", "publish", "_INBOX.guest.1"),
    ("r1", "publish", "tta.obs.runner.beat.r2"),
    ("r1", "publish", "tta.evt.model.loaded.m_3"),
    ("r1", "publish", "$JS.API.CONSUMER.CREATE.TTA_EVT.x"),
    ("s1", "publish", "tta.trace.selection.made.s2"),
    ("s1", "publish", "tta.dead.selector.s2"),
    ("s1", "subscribe", "$SRV.PING.runner"),
    ("h1", "publish", "tta.evt.request.ended"),
    ("guest", "publish", "tta.ask.runner.run.lab.m_1"),
    ("guest", "publish", "tta.ask.ledger.reserve"),
    ("h1", "publish", "tta.ask.ledger.reserve"),
    ("l1", "publish", "_INBOX_A.h1.x"),
    ("s1", "publish", "tta.evt.cost.reserved"),
    ("guest", "subscribe", "tta.live.budget.warned"),
    ("guest", "publish", "tta.evt.request.ended"),
    ("guest", "publish", "tta.obs.runner.beat.m_1"),
    ("guest", "publish", "tta.live.model.degraded.m_1"),
    ("guest", "publish", "_INBOX_A.s1.run.r.0"),
    ("guest", "publish", "$JS.API.CONSUMER.CREATE.TTA_EVT.x"),
    ("guest", "publish", "$JS.API.STREAM.PURGE.TTA_EVT"),
    ("guest", "publish", "$KV.x"),
    ("guest", "publish", "_INBOX.another.1"),
    ("guest", "subscribe", "_INBOX_A.s1.run.r.0"),
    ("guest", "subscribe", "tta.evt.request.ended"),
    ("guest", "subscribe", "tta.ask.model.generate"),
    ("guest", "subscribe", ">"),
]


@pytest.mark.parametrize(("name", "how", "subject"), YES)
def test_allowed(found: dict[str, User], name: str, how: str, subject: str) -> None:
    assert may(found[name], how, subject)


@pytest.mark.parametrize(("name", "how", "subject"), NO)
def test_not_allowed(found: dict[str, User], name: str, how: str, subject: str) -> None:
    assert not may(found[name], how, subject)


def test_only_the_operator_may_do_everything(found: dict[str, User]) -> None:
    for user in found.values():
        everything = [p for p in (*user.publish, *user.subscribe) if p in (">", "*.>", "tta.>", "$JS.>", "$JS.API.>")]
        assert bool(everything) == (user.name == "operator")


def test_one_user_per_process_and_two_more(found: dict[str, User]) -> None:
    assert set(found) == {"s1", "s2", "r1", "r2", "r3", "mm", "h1", "l1", "operator", "guest"}
    assert found["guest"].password == "" and found["s1"].password == "pw-s1"


@pytest.mark.parametrize(
    ("pattern", "subjects"),
    [
        ("model.generate", ("model.generate",)),
        ("model.cancel.{instance}", ("model.cancel.r1",)),
        ("runner.run.{provider}.{model}", ("runner.run.lab.m_1", "runner.run.lab.m_2")),
        ("runner.list.{provider}", ("runner.list.lab",)),
    ],
)
def test_expand(pattern: str, subjects: tuple[str, ...]) -> None:
    assert expand(pattern, SEATS[2]) == subjects


def test_the_server_s_text_quotes_what_it_is_given() -> None:
    text = server_text([User('x"y', "p\\w", ("a.>",), ())])
    assert 'user: "x\\"y"' in text and 'password: "p\\\\w"' in text
    assert text.count("{") == text.count("}") and "no_auth_user: guest" in text
