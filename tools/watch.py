"""All models as they are, then every change, live: loaded, degraded, unavailable, recovered, drifted, switched.

understudy watch
understudy watch --json
"""

from __future__ import annotations

import argparse

from understudy.bus.client import Client
from understudy.messages.benchmarks import ModelDrifted
from understudy.messages.catalogue import Models
from understudy.messages.catalogue_events import (
    ModelOffline,
    ModelOnline,
    ModelPriced,
    ModelRegistered,
    ModelResident,
    ModelRetired,
    ModelReturned,
)
from understudy.messages.events import Event
from understudy.messages.wire import tag_of
from understudy.tools.common import add_connection, show, with_client


def add(parser: argparse.ArgumentParser) -> None:
    """Arguments."""
    add_connection(parser)


def run(args: argparse.Namespace) -> int:
    """Print until Ctrl-C."""

    async def job(client: Client) -> int:
        async for change in client.changes():
            if isinstance(change, Models):
                _snapshot(change, args)
            elif args.json:
                show({"seq": change.seq, "event": change.event})
            else:
                event = change.event
                why = _why(event)
                word = tag_of(type(event)).split(".")[1]
                for model in _models(event):
                    print(f"{change.seq:>8}  {model:30}  {word:12}  {why}", flush=True)
        return 0

    return with_client(args, job)


def _why(event: Event) -> str:
    """In a few words."""
    if isinstance(event, ModelDrifted):
        return f"{event.figure} {event.direction}: {event.before:g} -> {event.after:g} ({event.n} calls)"
    return getattr(event, "reason", "") or getattr(event, "by", "")


def _models(event: Event) -> list[str]:
    """Whom a change is about; some are about many models of a provider at once."""
    match event:
        case ModelRegistered():
            return [listing.id for listing in event.models]
        case ModelPriced():
            return [priced.model for priced in event.prices]
        case ModelRetired() | ModelReturned() | ModelOffline() | ModelOnline() | ModelResident():
            return list(event.models)
        case _:
            return [getattr(event, "model", "")]


def _snapshot(models: Models, args: argparse.Namespace) -> None:
    """How every model is when the watching begins."""
    if args.json:
        show(models)
        return
    for card in models.models:
        print(f"{models.as_of_seq:>8}  {card.id:30}  {card.status:12}  {'loaded' if card.loaded else 'not loaded'}")
