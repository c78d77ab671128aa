"""Read `topology.yaml` into a typed value, or report every problem at once: path, what was found, what would be right.

Nothing is repaired or clamped, no environment is read, secrets are only named.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import re
import types
import typing
from pathlib import Path
from typing import Any

import msgspec

from understudy.actors.host import graph_check, limits_check, privacy_check
from understudy.actors.host.seats import seats_of
from understudy.actors.host.strict_yaml import NotYaml, load
from understudy.messages.address import RIGHT, BadAddress, target
from understudy.messages.prices import is_priced
from understudy.messages.slugs import slug
from understudy.messages.topology import ActorPlan, BusPlan, Model, Provider, Topology
from understudy.messages.wire import tag_of

MIN_REQUEST_BYTES = 1_024
MONTH_DAYS = 32
HASH = re.compile(r"[0-9a-f]{32}")
ROOM_BYTES = 65_536
"""So much larger than a request is the largest message that may carry it on."""


class Problem(msgspec.Struct, frozen=True):
    """One thing that is wrong: where, what was found, what would be right."""

    path: str
    found: str
    right: str

    def __str__(self) -> str:
        return f"{self.path}: found {self.found}; {self.right}"


class TopologyError(Exception):
    """The topology cannot be used; `problems` holds every one."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = problems


def read(path: Path) -> Topology:
    """Read and check a file. Raises TopologyError with all problems."""
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        found = f"a byte at {error.start} that is no UTF-8"
        raise TopologyError([Problem(str(path), found, "save the file as UTF-8")]) from None
    except OSError as error:
        raise TopologyError(
            [Problem(str(path), error.strerror or "nothing", "give a readable topology file")]
        ) from None
    return parse(text, path.resolve().parent)


def parse(text: str, folder: Path) -> Topology:
    """Check the text of a topology; relative paths are taken from `folder`. Raises TopologyError."""
    try:
        raw, repeated = load(text)
    except NotYaml as error:
        raise TopologyError([Problem("$", "no YAML", str(error))]) from None
    problems = [Problem(f"line {n}", f"key {key!r} a second time", "name each key once") for n, key in repeated]
    _shape(Topology, raw, "$", problems)
    if problems:
        raise TopologyError(_relate_loosely(raw, problems))
    try:
        topology = msgspec.convert(raw, Topology)
    except msgspec.ValidationError as error:  # of several fields together
        raise TopologyError([Problem("$", "a value that cannot be used", str(error))]) from None
    problems = check(topology, folder)
    if problems:
        raise TopologyError(problems)
    return topology


def hash_of(topology: Topology) -> str:
    """The name of a topology's content, 16 hex digits."""
    return hashlib.sha256(msgspec.json.encode(topology, order="sorted")).hexdigest()[:16]


def _shape(kind: Any, value: Any, path: str, problems: list[Problem]) -> None:
    """Check field by field, so that one fault does not hide the next."""
    kind = _bare(kind, value)
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return _shape_struct(kind, value, path, problems)
    if typing.get_origin(kind) is dict and isinstance(value, dict):
        key_kind, value_kind = typing.get_args(kind)
        for key, item in value.items():
            _convert(key_kind, key, f"{path} key {key!r}", problems)
            _shape(value_kind, item, f"{path}.{key}", problems)
        return None
    return _convert(kind, value, path, problems)


def _shape_struct(kind: type[msgspec.Struct], value: Any, path: str, problems: list[Problem]) -> None:
    if not isinstance(value, dict):
        problems.append(Problem(path, type(value).__name__, f"expected a mapping with the keys of {kind.__name__}"))
        return
    fields = {f.encode_name: f for f in msgspec.structs.fields(kind)}
    for key in value:
        if key not in fields:
            problems.append(Problem(f"{path}.{key}", "an unknown key", f"known are: {', '.join(sorted(fields))}"))
    for name, field in fields.items():
        if name in value:
            _shape(field.type, value[name], f"{path}.{name}", problems)
        elif field.required:
            problems.append(Problem(f"{path}.{name}", "nothing", "this key is required"))


def _bare(kind: Any, value: Any) -> Any:
    """`X | None` is X where a value is given."""
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        rest = [k for k in typing.get_args(kind) if k is not type(None)]
        if value is not None and len(rest) == 1:
            return rest[0]
    return kind


def _convert(kind: Any, value: Any, path: str, problems: list[Problem]) -> None:
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        problems.append(Problem(path, _shown(value), str(error)))


def _shown(value: Any) -> str:
    """A value; of lists, mappings and addresses only the type, for a provider's url with a secret may be in them."""
    if isinstance(value, list | dict) or "://" in (text := repr(value)):
        return type(value).__name__
    return text[:80]


def _relate_loosely(raw: Any, problems: list[Problem]) -> list[Problem]:
    """With faults of form, references can still be checked on the raw value, so that one go reports all."""
    if isinstance(raw, dict) and all(isinstance(raw.get(k) or {}, dict) for k in ("models", "providers", "aliases")):
        models, providers, aliases = (raw.get(key) or {} for key in ("models", "providers", "aliases"))
        for name, model in models.items():
            provider = _mapping(model).get("provider")
            if isinstance(provider, str) and provider not in providers:
                problems.append(_unknown(f"$.models.{name}.provider", provider, providers))
            fallbacks = _mapping(model).get("fallbacks")
            for other in fallbacks if isinstance(fallbacks, list) else ():
                if isinstance(other, str) and other not in models:
                    problems.append(_unknown(f"$.models.{name}.fallbacks", other, models))
        for alias, model in aliases.items():
            if isinstance(model, str) and model not in models:
                problems.append(_unknown(f"$.aliases.{alias}", model, models))
    return problems


def _mapping(value: Any) -> dict[Any, Any]:
    return value if isinstance(value, dict) else {}


def _unknown(path: str, found: Any, known: Any) -> Problem:
    return Problem(path, _shown(found), f"name one of: {', '.join(sorted(map(str, known)))}")


def check(topology: Topology, folder: Path) -> list[Problem]:
    """What types cannot say: references, slugs, endpoints, the actors' own contracts."""
    problems: list[Problem] = []
    _check_models(topology, folder, problems)
    _check_providers(topology, problems)
    problems += [Problem(*fault) for fault in privacy_check.faults(topology)]
    _check_tasks(topology, problems)
    _check_seats(topology, problems)
    _check_sizes(topology.bus, problems)
    _check_money(topology, problems)
    problems += [Problem(*fault) for fault in graph_check.faults(topology.graph)]
    for name, plan in topology.actors.items():
        _check_actor(name, plan, problems)
    return problems


def _check_models(topology: Topology, folder: Path, problems: list[Problem]) -> None:
    slugs: dict[str, str] = {}
    for name, model in topology.models.items():
        path = f"$.models.{name}"
        if model.provider not in topology.providers:
            problems.append(_unknown(f"{path}.provider", model.provider, topology.providers))
        else:
            kind = topology.providers[model.provider].kind
            _check_local(path, model, kind == "local", folder, problems)
            _check_abilities(path, model, kind, problems)
        for other in model.fallbacks:
            if other not in topology.models:
                problems.append(_unknown(f"{path}.fallbacks", other, topology.models))
        twin = slugs.setdefault(slug(name), name)
        if twin != name:
            problems.append(Problem(path, f"the slug {slug(name)!r} of {twin!r} again", "rename one of the two models"))
        for task in model.quality:
            if task != "default" and task not in topology.tasks:
                problems.append(_unknown(f"{path}.quality.{task}", task, ["default", *topology.tasks]))
    for alias, model_id in topology.aliases.items():
        if model_id not in topology.models:
            problems.append(_unknown(f"$.aliases.{alias}", model_id, topology.models))
        if alias in topology.models:
            problems.append(Problem(f"$.aliases.{alias}", "a model of the same name", "choose another alias"))


def _check_local(path: str, model: Model, local: bool, folder: Path, problems: list[Problem]) -> None:
    if local and model.path is None:
        problems.append(Problem(f"{path}.path", "nothing", "a local model needs the folder of its weights"))
    if not local and model.path is not None:
        problems.append(Problem(f"{path}.path", _shown(model.path), "only local models have a path"))
    config = folder / (model.path or "") / "config.json"
    if local and model.path is not None and not os.path.exists(config):  # noqa: PTH110 - Path.exists raises for a long name
        problems.append(Problem(f"{path}.path", _shown(model.path), "name a folder that holds config.json and weights"))


CANNOT: dict[str, frozenset[str]] = {
    "local": frozenset({"tools", "json", "vision", "embeddings"}),  # the engine writes text
    "anthropic": frozenset({"embeddings"}),  # the vendor has none
}


def _check_abilities(path: str, model: Model, kind: str, problems: list[Problem]) -> None:
    """What a model is said to do must be in its provider's dialect."""
    for capability in sorted(CANNOT.get(kind, frozenset()).intersection(model.capabilities)):
        problems.append(
            Problem(f"{path}.capabilities", capability, f"leave it out: no model of the kind {kind} has it")
        )
    if not {"chat", "embeddings"}.intersection(model.capabilities):
        problems.append(Problem(f"{path}.capabilities", "neither chat nor embeddings", "say which of the two it does"))
    if "chat" not in model.capabilities and model.continues != "none":
        right = "leave it out: a model that does not chat has no text to go on with"
        problems.append(Problem(f"{path}.continues", model.continues, right))
    if kind == "openai_responses" and model.continues == "native":
        right = "use instructed, probe or none: this dialect does not go on with a text"
        problems.append(Problem(f"{path}.continues", "native", right))


def _check_providers(topology: Topology, problems: list[Problem]) -> None:
    for name, provider in topology.providers.items():
        path = f"$.providers.{name}"
        _check_catalogue(path, provider, topology, problems)
        problems += (Problem(*fault) for fault in limits_check.faults(path, provider))
        if provider.kind == "local":
            if provider.key is not None:
                problems.append(Problem(f"{path}.key", "a key", "leave it out: a local model asks nobody for leave"))
            continue
        _check_url(f"{path}.url", provider.url, provider.kind, problems)
        key = provider.key
        if key is not None and sum(place is not None for place in (key.env, key.file, key.vault)) != 1:
            problems.append(Problem(f"{path}.key", "none or several places", "name exactly one of env, file, vault"))


def _check_catalogue(path: str, provider: Provider, topology: Topology, problems: list[Problem]) -> None:
    """A list is read like any other address of the provider; whom it admits is valued by tasks that exist."""
    plan = provider.catalogue
    if provider.zdr and provider.kind != "openrouter":
        problems.append(Problem(f"{path}.zdr", "true", "leave it out: only openrouter has upstreams"))
    if plan is None:
        return
    if provider.kind == "local":
        problems.append(Problem(f"{path}.catalogue", "a catalogue", "leave it out: a local engine has no list"))
    elif plan.url is not None:
        _check_url(f"{path}.catalogue.url", plan.url, provider.kind, problems)
    admit = plan.admit
    for task in admit.quality if admit is not None else ():
        if task != "default" and task not in topology.tasks:
            problems.append(_unknown(f"{path}.catalogue.admit.quality.{task}", task, ["default", *topology.tasks]))
    priced = admit is not None and (admit.free or admit.max_usd_per_mtok is not None)
    if priced and provider.kind not in ("openrouter", "ollama"):
        problems.append(
            Problem(f"{path}.catalogue.admit", "a condition on the price", "leave it out: its list has none")
        )


def _check_url(path: str, url: str | None, kind: str, problems: list[Problem]) -> None:
    """As the runner takes it. It is never shown: it may hold a secret."""
    if not url:
        problems.append(Problem(path, "nothing", RIGHT))
        return
    try:
        to = target(url)
    except BadAddress as error:
        problems.append(Problem(path, error.found, RIGHT))
        return
    if kind == "ollama" and to.path.endswith("/v1"):
        problems.append(Problem(path, "a path that ends in /v1", "leave it out: Ollama's own paths have no version"))


def _check_tasks(topology: Topology, problems: list[Problem]) -> None:
    if not topology.tasks:
        problems.append(Problem("$.tasks", "none", "declare at least one task"))
    for name, task in topology.tasks.items():
        if task.latency not in topology.latency:
            problems.append(_unknown(f"$.tasks.{name}.latency", task.latency, topology.latency))
        for model in task.fallbacks:
            if model not in topology.models:
                problems.append(_unknown(f"$.tasks.{name}.fallbacks", model, topology.models))
        if task.cache and "response_cache" not in topology.actors:
            right = "add the actor response_cache, or leave it out: nobody would keep an answer"
            problems.append(Problem(f"$.tasks.{name}.cache", "true", right))
    w = topology.policy.weights
    if w.quality + w.speed + w.cost + w.fit <= 0:
        problems.append(Problem("$.policy.weights", "all zero", "give at least one weight above 0"))


def _check_seats(topology: Topology, problems: list[Problem]) -> None:
    """Each process is one user, one inbox and one key of subjects; nobody could tell two of one name apart."""
    holders: dict[str, str] = {}
    for process in seats_of(topology):
        local = process.provider and topology.providers[process.provider].kind == "local"
        path = f"$.models.{process.models[0]}" if local else f"$.providers.{process.provider}"
        twin = holders.setdefault(process.seat.instance, path)
        if twin != path and process.provider:
            found = f"the process name {process.seat.instance!r} of {twin} again"
            problems.append(Problem(path, found, "rename one of the two"))


def _check_sizes(bus: BusPlan, problems: list[Problem]) -> None:
    """A request goes on to a runner, with a little around it and the text that other models have begun."""
    least = MIN_REQUEST_BYTES + ROOM_BYTES
    if bus.max_payload_bytes < least:
        right = f"give at least {least}, the default is {BusPlan().max_payload_bytes}"
        problems.append(Problem("$.bus.max_payload_bytes", str(bus.max_payload_bytes), right))
    elif not MIN_REQUEST_BYTES <= bus.max_request_bytes <= bus.max_payload_bytes - ROOM_BYTES:
        right = f"give {MIN_REQUEST_BYTES} to max_payload_bytes - {ROOM_BYTES} = {bus.max_payload_bytes - ROOM_BYTES}"
        problems.append(Problem("$.bus.max_request_bytes", str(bus.max_request_bytes), right))


def _check_money(topology: Topology, problems: list[Problem]) -> None:
    """Budgets whose keys there are, whose windows the log remembers; and somebody who keeps the books."""
    keys = {"provider": topology.providers, "model": topology.models}
    for name, budget in topology.budgets.items():
        path = f"$.budgets.{name}"
        if budget.window == "conversation" and budget.scope != "conversation":
            problems.append(Problem(f"{path}.window", "'conversation'", "this scope has day or month"))
        if budget.scope == "all" and budget.match:
            problems.append(Problem(f"{path}.match", "keys", "the scope `all` has none: leave it out"))
        for key in budget.match:
            if budget.scope in keys and key not in keys[budget.scope]:
                problems.append(_unknown(f"{path}.match", key, keys[budget.scope]))
            if budget.scope in ("user", "conversation") and not HASH.fullmatch(key):
                right = "give its keyed hash, 32 hex digits, as it stands in the log's events"
                problems.append(Problem(f"{path}.match", _shown(key), right))
        if budget.window == "month" and topology.log.max_age_days < MONTH_DAYS:
            right = f"a budget per month needs at least {MONTH_DAYS}: what was spent is folded from the log"
            problems.append(Problem("$.log.max_age_days", str(topology.log.max_age_days), right))
    priced = next((f"$.models.{m}" for m, declared in topology.models.items() if is_priced(declared)), None)
    needed = "$.budgets" if topology.budgets else priced
    if needed is not None and topology.actors and "cost_ledger" not in topology.actors:
        problems.append(Problem(needed, "nobody who keeps the books", "declare the actor cost_ledger"))


def _check_actor(name: str, plan: ActorPlan, problems: list[Problem]) -> None:
    """Compare an actor's lines with its code: what it answers, hears, folds, says, and its settings."""
    path = f"$.actors.{name}"
    try:
        core = importlib.import_module(f"understudy.actors.{name}.core")
    except ModuleNotFoundError:
        problems.append(Problem(path, "no such actor", f"expected the folder actors/{name} with core.py"))
        return
    if plan.singleton and plan.replicas > 1:
        problems.append(
            Problem(f"{path}.replicas", str(plan.replicas), "a singleton has one; its process is kept going")
        )
    contract = {
        "asks": set(core.ASKS),
        "hears": {short(c) for c in core.HEARS},
        "folds": {short(c) for c in core.FOLDS},
        "emits": {short(c) for c in core.EMITS},
        "sends": set(core.SENDS),
        "follows": {short(c) for c in getattr(core, "FOLLOWS", ())},
        "consults": {short(c) for c in getattr(core, "CONSULTS", ())},
        "projects": {short(c) for c in getattr(core, "PROJECTS", ())},
        "observes": {short(c) for c in getattr(core, "OBSERVES", ())},
    }
    for field, wanted in contract.items():
        found = set(getattr(plan, field))
        if found != wanted:
            right = f"the code says: {', '.join(sorted(wanted)) or 'nothing'}"
            problems.append(Problem(f"{path}.{field}", ", ".join(sorted(found)) or "nothing", right))
    _shape(core.Settings, plan.settings, f"{path}.settings", problems)


def short(cls: Any) -> str:
    """A message class as the topology names it: the tag without its version."""
    return tag_of(cls).rsplit(".", 1)[0]
