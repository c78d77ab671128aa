"""What the catalogue should say of one provider, and the facts that are missing for it. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import NamedTuple, TypeVar

from msgspec.structs import replace

from understudy.actors.model_manager.licence import class_of
from understudy.messages.batches import batches
from understudy.messages.catalogue_events import (
    CatalogueAccepted,
    Listing,
    ModelOnline,
    ModelPriced,
    ModelRegistered,
    ModelResident,
    ModelRetired,
    ModelReturned,
    Priced,
)
from understudy.messages.events import Event
from understudy.messages.known import Entry, Known, rates_of
from understudy.messages.listing import ListedPrice, Row
from understudy.messages.places import location_of
from understudy.messages.prices import is_too_dear
from understudy.messages.topology import Admit, CataloguePlan, Model, Provider, Topology

T = TypeVar("T")

EVENT_BYTES = 16_000
"""Of models in one event: it stays below every limit, and folding it holds nobody up."""


class Wanted(NamedTuple):
    """A model as the catalogue should have it."""

    listing: Listing
    price: ListedPrice | None


Before = dict[str, tuple[Row, "Wanted"]]
"""What the rows of a provider's last list came to, by their names. It holds for one topology."""


def listings(
    topology: Topology, name: str, rows: Iterable[Row], known: Known, before: Before | None = None
) -> dict[str, Wanted]:
    """Every model of a provider: the topology's, and those of its list whose id nobody else has.

    Most rows are as they were in the last list, so what they came to is taken from `before`, which is brought up to
    this one: to judge 500 models anew takes some milliseconds, in which others of the machine wait.
    """
    before = {} if before is None else before
    last = before.copy()
    before.clear()
    provider, plan = topology.providers[name], topology.providers[name].catalogue or CataloguePlan()
    named = _named(topology, name)
    found = {m: Wanted(_of_topology(m, topology.models[m], None, provider), None) for m in named}
    rest: list[Row] = []
    for row in rows:
        mine = [m for m, listed in named.items() if listed == row.name]
        found |= {m: Wanted(_of_topology(m, topology.models[m], row, provider), row.price) for m in mine}
        rest += [] if mine else [row]
    for row in rest:
        model = plan.prefix + row.name
        if not _holder(topology, known, model, name):
            seen = last.get(row.name)
            same = seen is not None and seen[0] == row
            before[row.name] = seen if seen is not None and same else (row, _judged(model, row, plan, provider))
            found[model] = before[row.name][1]
    return found


def _judged(model: str, row: Row, plan: CataloguePlan, provider: Provider) -> Wanted:
    listing = _of_list(model, row, row.licence or plan.licence, provider)
    admitted = plan.admit is not None and admits(plan.admit, listing, row.price, provider)
    return Wanted(replace(listing, admitted=admitted), row.price)


def clash(topology: Topology, name: str, rows: Iterable[Row], known: Known) -> tuple[str, str] | None:
    """A listed id that another provider's model has, or another model of this one: the id, and what to do."""
    plan = topology.providers[name].catalogue or CataloguePlan()
    named = set(_named(topology, name).values())
    for row in rows:
        model = plan.prefix + row.name
        holder = "" if row.name in named else _holder(topology, known, model, name)
        if holder:
            return model, f"{holder} has a model of this id too; give this provider's catalogue a `prefix`"
    return None


def _named(topology: Topology, provider: str) -> dict[str, str]:
    """The topology's models of a provider, and what its list calls them: Ollama's names end in a tag, which may be left
    out where it is `latest`."""
    names = {m: d.name or m for m, d in topology.models.items() if d.provider == provider}
    if topology.providers[provider].kind != "ollama":
        return names
    return {m: n if ":" in n.rpartition("/")[2] else f"{n}:latest" for m, n in names.items()}


def _holder(topology: Topology, known: Known, model: str, provider: str) -> str:
    """Who else has a model of this id; its own provider's model of another name counts too."""
    if model in topology.models:
        return topology.models[model].provider
    entry = known.entries.get(model)
    if entry is None or entry.provider == provider or entry.provider not in topology.providers:
        return ""
    gone = entry.retired == "removed" or (entry.retired == "not_listed" and entry.listing.source == "list")
    return "" if gone else entry.provider


def _of_topology(model: str, declared: Model, row: Row | None, provider: Provider) -> Listing:
    """The operator's word, with what the list adds."""
    said = row or Row(name=declared.name or model)
    licence = declared.licence if declared.licence != "unknown" or row is None else row.licence or declared.licence
    return Listing(
        id=model,
        name=said.name,
        source="topology",
        location=location_of(provider, said.name, None if row is None else row.location),
        listed=row is not None,
        context_tokens=declared.context_tokens,
        max_output_tokens=said.max_output_tokens,
        capabilities=declared.capabilities,
        input_modalities=said.input_modalities,
        output_modalities=said.output_modalities,
        parameters=said.parameters,
        licence=licence,
        licence_class=class_of(licence),
        expires=said.expires,
        problem=said.problem,
    )


def _of_list(model: str, row: Row, licence: str, provider: Provider) -> Listing:
    return Listing(
        id=model,
        name=row.name,
        source="list",
        location=location_of(provider, row.name, row.location),
        listed=True,
        context_tokens=row.context_tokens,
        max_output_tokens=row.max_output_tokens,
        capabilities=row.capabilities,
        input_modalities=row.input_modalities,
        output_modalities=row.output_modalities,
        parameters=row.parameters,
        licence=licence,
        licence_class=class_of(licence),
        expires=row.expires,
        problem=row.problem,
    )


def admits(rule: Admit, listing: Listing, price: ListedPrice | None, provider: Provider) -> bool:
    """May this listed model be selected? See `Admit`."""
    if listing.location not in (rule.locations or (location_of(provider, "", "local"),)):
        return False
    textual = all("text" in kinds for kinds in (listing.input_modalities, listing.output_modalities) if kinds)
    window = listing.context_tokens
    if window is None or not textual or not any(fnmatchcase(listing.name, pattern) for pattern in rule.ids):
        return False
    if rule.free and (price is None or not price.is_free()):
        return False
    limit = rule.max_usd_per_mtok
    if limit is not None and is_too_dear(rates_of(price, listing.output_modalities), limit):
        return False
    return (
        set(rule.capabilities) <= set(listing.capabilities)
        and window >= (rule.context_tokens or 1)
        and (not rule.licences or listing.licence_class in rule.licences)
    )


def lacks_most(known: Known, provider: str, rows: Iterable[Row]) -> bool:
    """Has a list lost more than half of the models that it had? A vendor's mishap looks like this, hardly a change."""
    names = {row.name for row in rows}
    had = [e.listing.name for e in known.entries.values()
           if e.provider == provider and e.listing.listed and e.retired is None]  # fmt: skip
    return 2 * sum(name not in names for name in had) > len(had)


def known_rows(known: Known, provider: str) -> list[Row]:
    """What a provider's last list said, as far as the catalogue holds it."""
    return [
        Row(
            price=entry.price,
            resident=entry.resident,
            **{name: getattr(entry.listing, name) for name in _SHARED},
        )
        for entry in known.entries.values()
        if entry.provider == provider and entry.listing.listed and entry.retired != "removed"
    ]


def completed(known: Known, provider: str, rows: Iterable[Row]) -> list[Row]:
    """Rows with a `problem` as they are known; of one that nobody knows only its name. None of them becomes local by
    it, and one that computes elsewhere now has no price that is known."""
    before = {row.name: row for row in known_rows(known, provider)}
    found: list[Row] = []
    for row in rows:
        old = before.get(row.name)
        if not row.problem:
            found.append(row)
        elif old is None:
            found.append(replace(row, location="external"))
        else:
            kept = replace(old, problem=row.problem, resident=row.resident)
            moved = row.location == "external" != old.location
            found.append(replace(kept, location="external", price=None) if moved else kept)
    return found


_SHARED = tuple(set(Row.__struct_fields__) & set(Listing.__struct_fields__))


# --- the facts that are missing --------------------------------------------------------------------------------------


def told_anew(known: Known, provider: str, wanted: Mapping[str, Wanted], now: int) -> list[Event]:
    """Descriptions and prices that differ from what the catalogue says."""
    registered: list[Listing] = []
    priced: list[Priced] = []
    for model, (listing, price) in wanted.items():
        entry = _entry(known, provider, model)
        if entry is None or entry.listing != listing or entry.retired == "removed":
            registered.append(listing)
        before = entry.price if entry is not None else None
        if listing.listed and price != before:
            priced.append(Priced(model=model, price=price))
    return [
        *(ModelRegistered(at_ms=now, provider=provider, models=part) for part in _parts(registered)),
        *(ModelPriced(at_ms=now, provider=provider, prices=part) for part in _parts(priced)),
    ]


def list_read(
    known: Known, provider: str, rows: Iterable[Row], wanted: Mapping[str, Wanted], asked_seq: int, today: str, now: int
) -> list[Event]:
    """All that a whole list changes. A model that was retired after the list was asked for is not back by it."""
    out = told_anew(known, provider, wanted, now)
    mine = {m: e for m, e in known.entries.items() if e.provider == provider}
    listed = {m for m, (listing, _) in wanted.items() if listing.listed}
    gone = [m for m, e in mine.items() if e.listing.listed and e.retired is None and m not in listed]
    back = [
        m
        for m, e in mine.items()
        if m in listed and e.retired not in (None, "removed") and e.retired_seq <= asked_seq
        and not is_over(wanted[m].listing, today) and not wanted[m].listing.problem
    ]  # fmt: skip
    over = [
        m
        for m, (listing, _) in wanted.items()
        if is_over(listing, today) and (m not in mine or mine[m].retired in (None, "removed"))
    ]
    offline = tuple(m for m, e in mine.items() if e.offline)
    out += [ModelRetired(at_ms=now, provider=provider, models=p, reason="not_listed") for p in _parts(gone)]
    out += [ModelRetired(at_ms=now, provider=provider, models=p, reason="expired") for p in _parts(over)]
    out += [ModelReturned(at_ms=now, provider=provider, models=p) for p in _parts(back)]
    if offline:
        out.append(ModelOnline(at_ms=now, provider=provider, models=offline))
    ids = {listing.name: model for model, (listing, _) in wanted.items()}
    resident = {ids[row.name]: row.resident for row in rows if row.resident is not None}
    if resident != {m: e.resident for m, e in mine.items() if e.resident is not None}:
        out.append(ModelResident(at_ms=now, provider=provider, models=resident))
    if provider in known.refused:
        out.append(CatalogueAccepted(at_ms=now, provider=provider))
    return out


def reconciled(known: Known, topology: Topology, now: int) -> list[Event]:
    """What a topology changes without any list: its own models, rules of admission, providers that are no more."""
    out: list[Event] = []
    for name, provider in topology.providers.items():
        rows = known_rows(known, name) if provider.catalogue is not None else []
        wanted = listings(topology, name, rows, known)
        out += told_anew(known, name, wanted, now)
        mine = [m for m, e in known.entries.items() if e.provider == name and e.retired != "removed"]
        gone = [m for m in mine if m not in wanted]
        out += [ModelRetired(at_ms=now, provider=name, models=part, reason="removed") for part in _parts(gone)]
        out += _unlisted(known, name, wanted, now) if provider.catalogue is None else []
    for name in sorted({e.provider for e in known.entries.values()} - set(topology.providers)):
        gone = [m for m, e in known.entries.items() if e.provider == name and e.retired != "removed"]
        out += [ModelRetired(at_ms=now, provider=name, models=part, reason="removed") for part in _parts(gone)]
    return out


def _unlisted(known: Known, provider: str, wanted: Mapping[str, Wanted], now: int) -> list[Event]:
    """Where no list is read any longer, what one has said against a model of the topology would stand for ever."""
    mine = {m: e for m in wanted if (e := _entry(known, provider, m)) is not None}
    back = [m for m, e in mine.items() if e.retired not in (None, "removed")]
    online = [m for m, e in mine.items() if e.offline]
    return [
        *(ModelReturned(at_ms=now, provider=provider, models=part) for part in _parts(back)),
        *(ModelOnline(at_ms=now, provider=provider, models=part) for part in _parts(online)),
        *([CatalogueAccepted(at_ms=now, provider=provider)] if provider in known.refused else []),
    ]


def expired(known: Known, today: str, now: int) -> list[Event]:
    """Models whose last day is over."""
    found: dict[str, list[str]] = {}
    for model, entry in known.entries.items():
        if entry.retired is None and is_over(entry.listing, today):
            found.setdefault(entry.provider, []).append(model)
    return [
        ModelRetired(at_ms=now, provider=provider, models=part, reason="expired")
        for provider, models in found.items()
        for part in _parts(models)
    ]


def is_over(listing: Listing, today: str) -> bool:
    """Is its last day before today? Both as YYYY-MM-DD."""
    return listing.expires is not None and listing.expires < today


def _entry(known: Known, provider: str, model: str) -> Entry | None:
    entry = known.entries.get(model)
    return entry if entry is not None and entry.provider == provider else None


def _parts(items: Iterable[T]) -> list[tuple[T, ...]]:
    """Each fits into one event."""
    return batches(items, EVENT_BYTES)
