"""The contract for other languages, generated: JSON Schema of every message, AsyncAPI 3 of every subject."""

from __future__ import annotations

from typing import Any

import msgspec

from understudy.messages.base import Ask
from understudy.messages.events import Event
from understudy.messages.topology import Topology
from understudy.messages.wire import REGISTRY

REF = "#/components/schemas/{name}"


def components() -> tuple[tuple[dict[str, Any], ...], dict[str, Any]]:
    """Schemas of all tagged messages, with references into one `components` table."""
    classes = [REGISTRY[tag] for tag in sorted(REGISTRY)]
    return msgspec.json.schema_components(classes, ref_template=REF)


def json_schema() -> dict[str, Any]:
    """One document: every message by its tag."""
    schemas, table = components()
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Understudy messages",
        "messages": dict(zip(sorted(REGISTRY), schemas, strict=True)),
        "components": {"schemas": dict(sorted(table.items()))},
    }


def asyncapi(topology: Topology) -> dict[str, Any]:
    """AsyncAPI 3: one channel per subject, one operation per actor that answers, hears, folds or says it."""
    _, table = components()
    names = {tag.rsplit(".", 1)[0]: cls for tag, cls in REGISTRY.items()}
    channels: dict[str, Any] = {}
    operations: dict[str, Any] = {}
    for actor, plan in sorted(topology.actors.items()):
        uses = (
            ("ask", "receive", plan.asks),
            ("ask", "send", plan.sends),
            ("obs", "receive", plan.hears),
            ("obs", "send", plan.observes),
            ("evt", "receive", (*plan.folds, *plan.consults)),
            ("evt", "send", plan.emits),
        )
        for kind, action, subjects in uses:
            for name in subjects:
                key = f"{kind}.{name}"
                bare = ".".join(name.split(".")[:2])
                channels.setdefault(key, _channel(topology.app, kind, name, names.get(bare)))
                operations[f"{actor}.{action}.{key}"] = {
                    "action": action,
                    "channel": {"$ref": f"#/channels/{_escaped(key)}"},
                    "tags": [{"name": actor}],
                }
    return {
        "asyncapi": "3.0.0",
        "info": {"title": "Understudy", "version": "1", "description": "Subjects, payloads and who uses them."},
        "defaultContentType": "application/json",
        "channels": dict(sorted(channels.items())),
        "operations": dict(sorted(operations.items())),
        "components": {"schemas": dict(sorted(table.items()))},
    }


def _channel(app: str, kind: str, name: str, cls: type[Any] | None) -> dict[str, Any]:
    keyed = kind in ("evt", "obs") or name == "runner.cancel"
    of_provider = dict.fromkeys(("runner.list", "runner.pull"), ".{provider}")
    sent = {"runner.run": ".{provider}.{model}", **of_provider}.get(name, ".{key}" if keyed else "")
    address = f"{app}.{kind}.{name}" + (sent if "{" not in name else "")
    channel: dict[str, Any] = {"address": address}
    parameters = {p: {} for p in ("key", "provider", "model", "instance") if "{" + p + "}" in address}
    if parameters:
        channel["parameters"] = parameters
    if cls is not None:
        message = {"name": cls.__struct_config__.tag, "summary": (cls.__doc__ or "").strip().split("\n")[0]}
        message["payload"] = {"$ref": REF.format(name=cls.__name__)}
        channel["messages"] = {cls.__name__: message}
        channel["description"] = _promise(cls)
    return channel


def _promise(cls: type[Any]) -> str:
    if issubclass(cls, Event):
        return "Stored in JetStream, republished to `live`."
    return "Asked on core NATS, answered once." if issubclass(cls, Ask) else "Core NATS, may be lost."


def _escaped(key: str) -> str:
    return key.replace("~", "~0").replace("/", "~1")
