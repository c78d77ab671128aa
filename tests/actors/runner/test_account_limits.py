"""A 429 that concerns the provider's whole account is told apart from one of a model, over real HTTP."""

from __future__ import annotations

import pytest

from tests.actors.runner.test_http_edge import Edge, Kind, url_of
from understudy.actors.runner.quotas import account_until_ms
from understudy.messages.step import CallFailed
from understudy.tools.fake.script import Fault
from understudy.tools.fake.server import FakeProvider

RESET = {"X-RateLimit-Reset": "30"}  # the edge's clock stands at 0 here


@pytest.mark.parametrize(
    ("kind", "model", "headers", "account"),
    [
        ("openrouter", "limited", RESET, True),
        ("openrouter", "limited@x:free", RESET, False),  # of the free tier alone
        ("openrouter", "limited", {"Retry-After": "30"}, False),  # of whoever serves the model
        ("openai", "limited", {"Retry-After": "30", **RESET}, False),
    ],
)
async def test_whose_limit_it_is(kind: Kind, model: str, headers: dict[str, str], account: bool) -> None:
    faults = {"limited": Fault(status=429, headers=headers)}
    async with FakeProvider(faults) as fake, Edge(url_of(fake, kind), kind=kind) as edge:
        _, _, end = await edge.ask(model)
    assert isinstance(end, CallFailed) and (end.reason, end.account) == ("rate_limited", account)
    assert end.retry_after_ms == (None if model.endswith(":free") else 30_000)


@pytest.mark.parametrize(
    ("value", "until_ms"), [("", None), ("soon", None), ("99", None), ("101", 101_000), ("9" * 15, None)]
)
def test_a_reset_is_a_time_to_come_within_a_day(value: str, until_ms: int | None) -> None:
    assert account_until_ms("openrouter", "m", 429, {"x-ratelimit-reset": value}, 100_000.0) == until_ms
