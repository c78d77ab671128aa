"""Where a model computes, and what a consent is given to."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from understudy.messages.places import consent_version, external_models, location_of, may_leave
from understudy.messages.privacy import Location
from understudy.messages.topology import Provider, Topology

PLACES: list[tuple[dict[str, Any], str, str]] = [
    ({"kind": "local"}, "m", "local"),
    ({"kind": "openai", "url": "http://127.0.0.1:1/v1"}, "m", "local"),
    ({"kind": "openai", "url": "http://localhost/v1"}, "m", "local"),
    ({"kind": "openai", "url": "http://[::1]:1/v1"}, "m", "local"),
    ({"kind": "openai", "url": "http://127.0.0.1:1/v1", "location": "external"}, "m", "external"),
    ({"kind": "openai", "url": "https://api.example.com/v1"}, "m", "external"),
    ({"kind": "openai", "url": "https://127.0.0.1.example.com/v1"}, "m", "external"),
    ({"kind": "openai", "url": "https://localhost@example.com/v1"}, "m", "external"),
    ({"kind": "openai", "url": "https://api.example.com/v1", "location": "local"}, "m", "external"),
    ({"kind": "openai", "url": "http://["}, "m", "external"),
    ({"kind": "openai"}, "m", "external"),
    ({"kind": "ollama", "url": "http://127.0.0.1:1"}, "gpt-oss:120b", "local"),
    ({"kind": "ollama", "url": "http://127.0.0.1:1"}, "gpt-oss:120b-cloud", "external"),
    ({"kind": "ollama", "url": "http://127.0.0.1:1"}, "glm-4.6:cloud", "external"),
    ({"kind": "ollama", "url": "http://127.0.0.1:1"}, "cloud-writer:7b", "local"),
    ({"kind": "ollama", "url": "http://127.0.0.1:1"}, "kimi:120b-CLOUD", "external"),
    ({"kind": "ollama", "url": "http://127.0.0.1:1"}, "kimi:Cloud ", "external"),
    *(
        ({"kind": kind, "url": "http://127.0.0.1:1/v1"}, "gpt-oss:120b-cloud", "external")  # Ollama's other dialects
        for kind in ("openai", "openai_responses", "openrouter", "anthropic")
    ),
    ({"kind": "openai", "url": "http://127.0.0.1:1/v1"}, "cloud", "local"),
    ({"kind": "local"}, "m:cloud", "local"),
]


@pytest.mark.parametrize(("provider", "name", "place"), PLACES)
def test_where_a_model_computes(provider: dict[str, Any], name: str, place: str) -> None:
    assert location_of(msgspec.convert(provider, Provider), name) == place


def topology(url: str = "https://far.example/v1", text: str = "Yes?", **own: str) -> Topology:
    raw = {
        "version": 1,
        "providers": {"far": {"kind": "openai", "url": url}, "here": {"kind": "ollama", "url": "http://127.0.0.1:1"}},
        "models": {"a": {"provider": "far"}, "b": {"provider": "here"}, "c": {"provider": "here", "name": "c:cloud"}},
        "consent": {"text": text, "providers": own},
    }
    return msgspec.convert(raw, Topology)


def test_external_models_of_a_provider() -> None:
    found = topology()
    assert external_models(found, "far") == ("a",) and external_models(found, "here") == ("c",)
    assert may_leave(found, "far") and may_leave(found, "here")


LISTED = {"kind": "ollama", "url": "http://127.0.0.1:1", "catalogue": {}}


@pytest.mark.parametrize(
    ("provider", "name", "said", "place"),
    [
        (LISTED, "m", None, "external"),  # an alias of a model in a cloud looks like any other until the list tells
        (LISTED, "m", "local", "local"),
        (LISTED, "m", "external", "external"),
        (LISTED, "m:cloud", "local", "external"),
        ({**LISTED, "location": "external"}, "m", "local", "external"),
        ({**LISTED, "url": "http://10.0.0.1:1"}, "m", "local", "external"),
        ({"kind": "ollama", "url": "http://127.0.0.1:1"}, "m", "external", "external"),
        (
            {"kind": "openai", "url": "http://127.0.0.1:1", "catalogue": {}},
            "m",
            "external",
            "local",
        ),  # no word
        ({"kind": "openai", "url": "https://far.example"}, "m", "local", "external"),
        ({"kind": "local"}, "m", "external", "local"),
    ],
)
def test_what_a_list_says_of_where_a_model_computes(
    provider: dict[str, Any], name: str, said: Location | None, place: str
) -> None:
    assert location_of(msgspec.convert(provider, Provider), name, said) == place


def test_a_provider_whose_list_may_bring_models_of_elsewhere() -> None:
    raw = {"version": 1, "providers": {"p": LISTED, "q": {"kind": "openai", "url": "http://127.0.0.1:1"}}, "models": {}}
    found = msgspec.convert(raw, Topology)
    assert (may_leave(found, "p"), may_leave(found, "q")) == (True, False)


def test_a_version_names_text_provider_and_address() -> None:
    same = consent_version(topology(), "far")
    assert len(same) == 16
    for spelled in ("https://FAR.example:443/v1", "https://far.example/v1/"):
        assert consent_version(topology(spelled), "far") == same
    elsewhere = ("https://near.example/v1", "https://far.example:444/v1", "https://far.example/other/v1")
    others = [topology(text="No?"), topology(far="Own?"), *map(topology, elsewhere)]
    versions = {same, consent_version(topology(), "here"), *(consent_version(one, "far") for one in others)}
    assert len(versions) == 7
    assert consent_version(topology(text=""), "far") == "" == consent_version(topology(), "nobody")
