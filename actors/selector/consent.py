"""What components and the operator say about consent: check it, put it into the log, list what stands. Pure.

Consents are said again before retention takes them (`carried`): a "no" that is forgotten would be a "yes".
"""

from __future__ import annotations

from understudy.actors.selector import admit
from understudy.actors.selector.state import Awaited, Settings, State
from understudy.actors.selector.views import Knowledge
from understudy.messages.consent import (
    ConsentCard,
    ConsentGiven,
    ConsentsListed,
    ConsentTaken,
    ConsentText,
    ConsentWithdrawn,
    GiveConsent,
    ListConsents,
    Scope,
    WithdrawConsent,
)
from understudy.messages.consents import Standing
from understudy.messages.hashes import keyed_hash
from understudy.messages.places import consent_text, host_of
from understudy.messages.step import Asked, Effect, Send, Store
from understudy.messages.topology import Topology

DAY_MS = 86_400_000.0
CARRY_RATIO = 0.25
"""A consent that has lived for this share of the log's `max_age_days` is said again."""
CARRY_AT_ONCE = 100
LISTED_AT_ONCE = 1_000

Order = GiveConsent | WithdrawConsent


def taken(state: State, asked: Asked, order: Order, settings: Settings) -> list[Effect]:
    """Give or withdraw. Raises Refusal `invalid` with the path."""
    who = _who(asked, order, settings)
    if isinstance(order, GiveConsent):
        version = _version(state, order)
        event = ConsentGiven(
            at_ms=int(asked.at_ms), provider=order.provider, scope=order.scope, who=who, version=version
        )
    else:
        _known(state, order)
        event = ConsentWithdrawn(at_ms=int(asked.at_ms), provider=order.provider, scope=order.scope, who=who)
    given, msg_id = isinstance(order, GiveConsent), f"order.{asked.id}"

    def done(seq: int) -> ConsentTaken:
        return ConsentTaken(provider=order.provider, scope=order.scope, given=given, seq=seq)

    state.awaited[msg_id] = Awaited(asked.reply, done)
    return [Store(event, msg_id)]


def _who(asked: Asked, order: Order, settings: Settings) -> str:
    """The keyed hash that the scope wants, and nobody else's."""
    ids: dict[Scope, str | None] = {"user": order.user_id, "conversation": order.conversation_id}
    for scope, value in ids.items():
        if (value is not None) != (order.scope == scope):
            words = f"For the scope {order.scope} " + (f"name the {scope}" if value is None else f"name no {scope}")
            raise admit.refuse("invalid", f"{words}.", f"$.{scope}_id")
    if order.scope == "installation" and not asked.subject.endswith(".installation"):
        text = "For everybody only the operator consents or withdraws: `understudy consent`."
        raise admit.refuse("invalid", text, "$.scope")
    return "" if order.scope == "installation" else keyed_hash(settings.hash_key, ids[order.scope])


def _known(state: State, order: WithdrawConsent) -> None:
    """What is withdrawn is kept for good: so not for any word that somebody makes up."""
    knowledge = state.knowledge
    known = set(knowledge.topology.providers) if knowledge.topology is not None else set[str]()
    known |= {one.provider for one in knowledge.consents.standing.values()}
    if order.provider not in known:
        text = f"There is no provider {order.provider!r}; there are: {', '.join(sorted(known)) or 'none'}."
        raise admit.refuse("invalid", text, "$.provider")


def _version(state: State, order: GiveConsent) -> str:
    """The text as it is now. Who was shown another one has agreed to something else."""
    texts = state.knowledge.texts
    if order.provider not in texts:
        known = ", ".join(texts) or "none"
        text = (
            f"Nothing of {order.provider!r} leaves this machine, or there is no text for it; "
            f"providers to consent to: {known}."
        )
        raise admit.refuse("invalid", text, "$.provider")
    if order.version != texts[order.provider]:
        text = (
            f"The text of {order.provider!r} is at version {texts[order.provider]!r} now: show that one (consent.list)."
        )
        raise admit.refuse("invalid", text, "$.version")
    return order.version


def listed(state: State, asked: Asked, ask: ListConsents, settings: Settings) -> list[Effect]:
    """What there is to agree to, and what stands."""
    knowledge = state.knowledge
    found = list(knowledge.consents.standing.values())
    if ask.user_id is not None or ask.conversation_id is not None:
        hashes = (keyed_hash(settings.hash_key, one) for one in (ask.user_id, ask.conversation_id))
        found = knowledge.consents.concerning(*hashes)
    topology = knowledge.topology
    texts = () if topology is None else tuple(_text(knowledge, topology, *one) for one in knowledge.texts.items())
    rest = sorted((one for one in found if one.seq > ask.after_seq), key=lambda one: one.seq)
    cards = tuple(_card(one, knowledge.texts) for one in rest[:LISTED_AT_ONCE])
    more = len(rest) > LISTED_AT_ONCE
    return [Send(asked.reply, ConsentsListed(as_of_seq=knowledge.seq, texts=texts, consents=cards, more=more))]


def _text(knowledge: Knowledge, topology: Topology, provider: str, version: str) -> ConsentText:
    views = knowledge.models.items()
    return ConsentText(
        provider=provider,
        version=version,
        text=consent_text(topology, provider),
        address=host_of(topology.providers[provider]),
        models=tuple(m for m, v in views if v.declared.provider == provider and v.location == "external"),
    )


def _card(one: Standing, texts: dict[str, str]) -> ConsentCard:
    return ConsentCard(
        provider=one.provider,
        scope=one.scope,
        who=one.who,
        given=bool(one.version),
        current=bool(one.version) and texts.get(one.provider) == one.version,
        version=one.version,
        at_ms=one.said_ms,
        seq=one.seq,
    )


def carried(state: State, now: float) -> list[Effect]:
    """Say again what retention will take, oldest first; both selectors may, at no harm."""
    topology, out = state.knowledge.topology, list[Effect]()
    if topology is None:
        return out
    limit = now - topology.log.max_age_days * DAY_MS * CARRY_RATIO
    for one in state.knowledge.consents.standing.values():
        if len(out) >= CARRY_AT_ONCE:
            break
        if one.at_ms > limit:  # not the end of the old ones: whoever said it may have had a clock that was ahead
            continue
        out.append(Store(_again(one, int(now)), f"consent.{one.seq}"))
    return out


def _again(one: Standing, now: int) -> ConsentGiven | ConsentWithdrawn:
    """The same once more; `origin` keeps it from standing against a word that was said meanwhile."""
    if not one.version:
        return ConsentWithdrawn(
            at_ms=now, provider=one.provider, scope=one.scope, who=one.who, origin=one.origin, said_ms=one.said_ms
        )
    return ConsentGiven(
        at_ms=now,
        provider=one.provider,
        scope=one.scope,
        who=one.who,
        version=one.version,
        origin=one.origin,
        said_ms=one.said_ms,
    )
