"""Which listed models may be selected: one row per condition of a provider's `admit`."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from tests.actors.model_manager.managed import PAID, Table, row
from understudy.messages.listing import ListedPrice
from understudy.messages.topology import Topology

RULES: list[tuple[dict[str, Any], dict[str, Any], bool]] = [
    ({}, {}, True),
    ({"ids": ["b/*"]}, {}, False),
    ({"ids": ["b/*", "a/?"]}, {}, True),
    ({}, {"context_tokens": None}, False),
    ({"context_tokens": 8_000}, {}, True),
    ({"context_tokens": 8_001}, {}, False),
    ({"capabilities": ["chat", "json"]}, {}, False),
    ({}, {"capabilities": ()}, False),
    ({"capabilities": []}, {"capabilities": ()}, True),
    ({}, {"output_modalities": ("image",)}, False),
    ({}, {"input_modalities": ("audio",), "output_modalities": ("text",)}, False),
    ({"free": True}, {}, True),
    ({"free": True}, {"price": None}, False),
    ({"free": True}, {"price": ListedPrice(units={"prompt": "0", "completion": "0", "request": "1"})}, False),
    ({"max_usd_per_mtok": 2.0}, {"price": PAID}, True),
    ({"max_usd_per_mtok": 1.99}, {"price": PAID}, False),
    ({"max_usd_per_mtok": 1e9}, {"price": None}, False),
    ({"licences": ["permissive"]}, {"licence": "MIT License"}, True),
    ({"licences": ["permissive"]}, {"licence": "Llama 3.2 Community License"}, False),
    ({"licences": ["permissive", "unknown"]}, {}, True),
]


@pytest.mark.parametrize(("rule", "fields", "admitted"), RULES)
def test_rules_of_admission(rule: dict[str, Any], fields: dict[str, Any], admitted: bool) -> None:
    t = Table(admit={"ids": ["a/*"], **rule})
    t.answer(row("a/x", **fields))
    assert t.candidates() == (["a/x"] if admitted else [])


@pytest.mark.parametrize(
    ("locations", "admitted"),
    [
        ([], ["a/here"]),
        (["local"], ["a/here"]),
        (["external"], ["a/there", "a/x:120b-cloud"]),
        (["local", "external"], ["a/here", "a/there", "a/x:120b-cloud"]),
    ],
)
def test_an_ollama_s_models_of_the_cloud_are_admitted_by_name(locations: list[str], admitted: list[str]) -> None:
    t = Table(kind="ollama", admit={"ids": ["*"], "locations": locations})
    t.answer(row("a/here", location="local"), row("a/there"), row("a/x:120b-cloud", location="local"))
    assert t.candidates() == admitted


def test_an_endpoint_elsewhere_has_models_elsewhere() -> None:
    t = Table(admit={"ids": ["*"]})
    provider = {"kind": "openrouter", "url": "https://example.com/v1", "catalogue": {"admit": {"ids": ["*"]}}}
    t.declare(msgspec.convert({"version": 1, "models": {}, "providers": {"hub": provider}}, Topology))
    t.wake()
    t.wake()
    t.answer(row("a/x"))
    assert t.candidates() == ["a/x"]


def test_without_a_rule_nothing_is_admitted() -> None:
    t = Table()
    t.answer(row("a/x"))
    assert t.candidates() == [] and "a/x" in t.known.entries
