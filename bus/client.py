"""What other components import: ask for answers, listen to changes, read the log. Needs nats-py and msgspec only.

    async with await Client.connect("nats://127.0.0.1:4222") as client:
        answer = await client.generate("Describe the cave.")            # the whole
        async for piece in client.generate("Describe the cave."):        # the pieces
            ...

Every call has a deadline; leaving the block cancels what is under way; the connection comes back by itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from typing import Any, Self, TypeVar

import msgspec
from msgspec.structs import replace

from understudy.bus.answer import AGAIN_S, DEFAULT_DEADLINE_MS, GRACE_S, NOBODY_S, Answer, AnswerFailed
from understudy.bus.log_query import BadQuery, LogQuery, Span, matching, span_of
from understudy.bus.nats_bus import NatsBus
from understudy.bus.port import Bus, BusError, NoResponders, NotAllowed, Received
from understudy.bus.reading import Piece
from understudy.bus.subjects import evt_stream
from understudy.messages.base import Ask, Message
from understudy.messages.catalogue import (
    Described,
    DescribeModel,
    FeedbackTaken,
    GiveFeedback,
    ListModels,
    Models,
    PinModel,
    PinTaken,
    Select,
    Selected,
)
from understudy.messages.consent import (
    ConsentsListed,
    ConsentTaken,
    GiveConsent,
    ListConsents,
    Scope,
    WithdrawConsent,
)
from understudy.messages.embed import Embed, Embedded
from understudy.messages.events import Event
from understudy.messages.generate import ADVICE, Failed, Generate, Turn
from understudy.messages.wire import WireError, decode, encode, made_of

__all__ = ["Answer", "AnswerFailed", "Change", "Client", "LogEntry", "LogQuery", "Piece", "turns"]

BATCH_DEADLINE_MS = 600_000
FEEDBACK_S = 6.0
"""The run's end may have to be looked for, which takes four seconds at most."""
NOT_ALLOWED = (
    "Only the operator may read the log: connect as user `operator`. `understudy up` writes its password into run.json "
    "in the state folder, from where the commands take it (without --nats)."
)
Prompt = str | Sequence[Turn] | Sequence[dict[str, str]]
M = TypeVar("M", bound=Message)
A = TypeVar("A", bound=Ask)


class Change(msgspec.Struct, frozen=True):
    """A stored fact with its position in the log."""

    seq: int
    event: Event


class LogEntry(msgspec.Struct, frozen=True):
    """One message of the log: its position, when the server stored it (Unix milliseconds), its subject, what it says.

    `event` is None where that cannot be read: of a kind that this version does not know, or no event at all.
    """

    seq: int
    stored_ms: int
    subject: str
    event: Event | None
    payload: bytes


def turns(prompt: Prompt) -> tuple[Turn, ...]:
    """A conversation from a text, from dicts or from turns."""
    if isinstance(prompt, str):
        return (Turn(role="user", content=prompt),)
    return tuple(msgspec.convert(p, Turn) if isinstance(p, dict) else p for p in prompt)


class Client:
    """A component's connection. Make it with `connect`, leave it with `close` or `async with`."""

    def __init__(self, bus: Bus, app: str = "tta") -> None:
        """On an open connection; `on_state` is to be told what becomes of it (`connect` sees to that)."""
        self.bus, self.app = bus, app
        self._answers: set[Answer] = set()
        self._catching_up: list[asyncio.Queue[Received | None]] = []
        self._refused = asyncio.Event()  # the server has refused an API call

    @classmethod
    async def connect(
        cls,
        url: str = "nats://127.0.0.1:4222",
        *,
        app: str = "tta",
        name: str = "component",
        user: str = "",
        password: str = "",
        timeout_s: float = 10.0,
    ) -> Client:
        """Connect. Raises BusDown when the server cannot be reached in time."""
        found: list[Client] = []
        bus = await NatsBus.open(
            url,
            name=name,
            app=app,
            user=user,
            password=password,
            connect_timeout_s=timeout_s,
            on_state=lambda state: found[0].on_state(state) if found else None,
        )
        found.append(cls(bus, app))
        return found[0]

    def on_state(self, state: str) -> None:
        """After a reconnection every answer under way looks for what it may have missed."""
        if state.lower().startswith("permission:$js.api."):
            self._refused.set()
        if state == "reconnected":
            for answer in list(self._answers):
                answer.connection_lost()
            for queue in self._catching_up:
                queue.put_nowait(None)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """End the connection."""
        await self.bus.close()

    def generate(self, prompt: Prompt, **fields: Any) -> Answer:
        """Ask for an answer; `fields` are those of the contract (task, model, max_tokens, deadline_ms, ...).

        Raises AnswerFailed `invalid`, at once, with the path of a field that nobody would take.
        """
        return Answer(self.bus, self.app, _ask_of(Generate, prompt, {**fields, "stream": True}), self._answers)

    async def embed(self, texts: str | Sequence[str], **fields: Any) -> Embedded:
        """A vector per text; `fields` are those of the contract (model, dimensions, deadline_ms, ...).

        Without a `deadline_ms` it is a minute, or ten with `traffic="batch"`.
        """
        patience = BATCH_DEADLINE_MS if fields.get("traffic") == "batch" else DEFAULT_DEADLINE_MS
        said = {"input": [texts] if isinstance(texts, str) else list(texts), "deadline_ms": patience, **fields}
        asked = _made(Embed, **said)
        limit_s = (asked.deadline_ms or patience) / 1000 + GRACE_S
        return await self.ask("model.embed", asked, Embedded, timeout_s=limit_s)

    async def select(self, prompt: Prompt, **fields: Any) -> Selected:
        """The decision alone: which models would be tried, in which order, and why not the others."""
        return await self.ask("model.select", _ask_of(Select, prompt, fields), Selected)

    async def models(self, wanted: ListModels | None = None) -> Models:
        """All models that meet the filters (none: all), and how they are; asked for page by page."""
        wanted = wanted or ListModels()
        found = page = await self.ask("model.list", wanted, Models)
        while len(page.models) == wanted.limit:
            wanted = msgspec.structs.replace(wanted, after=page.models[-1].id)
            page = await self.ask("model.list", wanted, Models)
            found = msgspec.structs.replace(page, models=(*found.models, *page.models), total=found.total)
        return found

    async def describe(self, model: str) -> Described:
        """Everything about one model (id or alias)."""
        return await self.ask("model.describe", DescribeModel(model=model), Described)

    async def feedback(self, run_id: str, rating: float, reason: str | None = None) -> FeedbackTaken:
        """What you thought of an answer: `rating` from 0 to 1, `reason` a word. It counts for the model that gave it,
        in its task. Raises AnswerFailed `unknown_run` for a run whose end the log does not hold."""
        given = _made(GiveFeedback, run_id=run_id, rating=rating, reason=reason)
        return await self.ask("feedback.give", given, FeedbackTaken, timeout_s=FEEDBACK_S)

    async def pin(self, conversation_id: str, model: str | None) -> PinTaken:
        """Have a conversation answered by this model (id or alias) from now on; None clears the pin."""
        return await self.ask("model.pin", PinModel(conversation_id=conversation_id, model=model), PinTaken)

    async def consents(self, *, user_id: str | None = None, conversation_id: str | None = None) -> ConsentsListed:
        """The texts to agree to, and what stands: all, or what concerns this user and this conversation."""
        ask = ListConsents(user_id=user_id, conversation_id=conversation_id)
        found = part = await self.ask("consent.list", ask, ConsentsListed)
        while part.more and part.consents:
            part = await self.ask("consent.list", replace(ask, after_seq=part.consents[-1].seq), ConsentsListed)
            found = replace(part, consents=(*found.consents, *part.consents))
        return found

    async def give_consent(self, provider: str, scope: Scope, version: str, who: str | None = None) -> ConsentTaken:
        """Somebody agrees to the text of this version. `who`: the id of the user or conversation that `scope` wants."""
        ask = _made(GiveConsent, provider=provider, scope=scope, version=version, **_ids(scope, who))
        return await self.ask(_consent_name("give", scope), ask, ConsentTaken)

    async def withdraw_consent(self, provider: str, scope: Scope, who: str | None = None) -> ConsentTaken:
        """Somebody agrees no longer, or says beforehand that they do not."""
        ask = _made(WithdrawConsent, provider=provider, scope=scope, **_ids(scope, who))
        return await self.ask(_consent_name("withdraw", scope), ask, ConsentTaken)

    async def ask(self, name: str, ask: Ask, answer: type[M], timeout_s: float = 5.0) -> M:
        """One question, one answer; offered again while nobody listens. Raises AnswerFailed."""
        until = asyncio.get_running_loop().time() + NOBODY_S
        while True:
            try:
                received = await self.bus.request(f"{self.app}.ask.{name}", encode(ask), timeout_s=timeout_s)
                break
            except NoResponders:
                if asyncio.get_running_loop().time() > until:
                    text = f"Nobody answers `{name}`: is `understudy up` running?"
                    raise AnswerFailed(Failed(code="bus_down", text=text)) from None
                await asyncio.sleep(0.1)
            except BusError as error:
                raise AnswerFailed(Failed(code="bus_down", text=f"{error} {ADVICE['bus_down']}")) from error
        message = decode(received.payload)
        if isinstance(message, Failed):
            raise AnswerFailed(message)
        if not isinstance(message, answer):
            raise AnswerFailed(Failed(code="internal", text=f"{name} was answered with {type(message).__name__}"))
        return message

    async def changes(self) -> AsyncIterator[Models | Change]:
        """First all models as they are, then every stored change to one, once and in order.

        What a cut connection missed is read from the log by its sequence. Raises AnswerFailed when nobody answers.
        """
        queue: asyncio.Queue[Received | None] = asyncio.Queue()
        sub = await self.bus.subscribe(f"{self.app}.live.model.>", queue.put_nowait)
        self._catching_up.append(queue)
        try:
            models = await self.models()
            yield models
            seen = models.as_of_seq
            received: Received | None = None  # said before we listened, and not yet read by who made the list
            while True:
                found = [received] if received is not None else await self._missed(seen)
                for one in found:
                    change = _change(one) if one.seq > seen else None
                    seen = max(seen, one.seq)
                    if change is not None:
                        yield change
                received = await queue.get()
        finally:
            self._catching_up.remove(queue)
            await sub.stop()

    async def _missed(self, after_seq: int) -> list[Received]:
        """Changes to models that the log holds after a position."""
        found: list[Received] = []
        while True:
            try:
                one = await self.bus.get(evt_stream(self.app), after_seq + 1, f"{self.app}.evt.model.>")
            except BusError:
                await asyncio.sleep(AGAIN_S)
                continue
            if one is None:
                return found
            found.append(one)
            after_seq = one.seq

    async def events(
        self,
        *,
        since: datetime | None = None,
        until: datetime | None = None,
        subjects: str | Sequence[str] = (),
        model: str | None = None,
        task: str | None = None,
        run_id: str | None = None,
        after_seq: int = 0,
        follow: bool = False,
    ) -> AsyncIterator[LogEntry]:
        """The log for analysis, in order, each position once: see `LogQuery` for what can be asked for.

        `since` and `until` are times with a zone, compared with when the server stored it. `after_seq`: go on behind
        the last `seq` that was taken. It ends at what was the log's head when it began, or goes on with what comes
        (`follow`). Needs a user that may read the log, which is the operator: raises NotAllowed for others, BusDown
        when it cannot be read to its end, AnswerFailed `invalid` with the path for what nobody can answer.
        """
        asked = {"since_ms": _unix_ms("since", since), "until_ms": _unix_ms("until", until), "after_seq": after_seq}
        subjects = (subjects,) if isinstance(subjects, str) else tuple(subjects)
        try:
            query = LogQuery(**asked, subjects=subjects, model=model, task=task, run_id=run_id)
            query.patterns(self.app)
            if follow and until is not None:
                raise BadQuery("follow", "what has an end (`until`) cannot be followed")
        except BadQuery as error:
            raise AnswerFailed(Failed(code="invalid", text=error.text, path=f"$.{error.path}")) from None
        span = await self.span(query)
        async for found in matching(self.bus, self.app, query, span, follow=follow):
            for one in found.messages:
                yield LogEntry(one.seq, one.at_ms, one.subject, _event(one), one.payload)

    async def span(self, query: LogQuery) -> Span:
        """The positions that a query's times stand for. Raises NotAllowed, at once, for who may not read the log."""
        self._refused.clear()
        asking = asyncio.ensure_future(span_of(self.bus, self.app, query))
        refused = asyncio.ensure_future(self._refused.wait())
        try:
            await asyncio.wait((asking, refused), return_when=asyncio.FIRST_COMPLETED)
            if not asking.done():
                raise NotAllowed(NOT_ALLOWED)
            return asking.result()
        finally:
            asking.cancel()
            refused.cancel()


def _ids(scope: Scope, who: str | None) -> dict[str, Any]:
    return {} if scope == "installation" or who is None else {f"{scope}_id": who}


def _consent_name(verb: str, scope: Scope) -> str:
    """For everybody only the operator may, on a subject that no other component can publish to."""
    return f"consent.{verb}.installation" if scope == "installation" else f"consent.{verb}"


def _ask_of(cls: type[A], prompt: Prompt, fields: dict[str, Any]) -> A:
    said = turns(prompt) if isinstance(prompt, str) else list(prompt)
    return _made(cls, messages=msgspec.to_builtins(said), **fields)


def _made(cls: type[A], **fields: Any) -> A:
    """An ask of plain values. Raises AnswerFailed `invalid` with the path."""
    try:
        return made_of(cls, fields)
    except WireError as error:
        text = f"{error.text} {ADVICE['invalid']}"
        raise AnswerFailed(Failed(code="invalid", text=text, path=error.path)) from None


def _change(received: Received) -> Change | None:
    """An event with its position; None for one that a newer writer wrote."""
    event = _event(received)
    return None if event is None else Change(received.seq, event)


def _event(received: Received) -> Event | None:
    try:
        message = decode(received.payload)
    except WireError:
        return None
    return message if isinstance(message, Event) else None


def _unix_ms(path: str, at: datetime | None) -> int:
    """0: none. Raises AnswerFailed `invalid`: nobody knows which hour a time without a zone means."""
    if at is None:
        return 0
    if at.tzinfo is None:
        text = f"`{path}` needs a time zone, for example datetime.now(UTC)"
        raise AnswerFailed(Failed(code="invalid", text=text, path=f"$.{path}"))
    return max(1, int(at.timestamp() * 1000))
