"""The runner's answers to orders to pull a model: progress at a bounded rate, then one end. Pure."""

from __future__ import annotations

from understudy.actors.runner.state import Pull, Settings, State
from understudy.messages.catalogue import RefreshCatalogue
from understudy.messages.pulls import (
    EndPull,
    PullEnded,
    PullFailed,
    PullFault,
    PullOrder,
    PullOver,
    PullProgress,
    PullSaid,
    StartPull,
)
from understudy.messages.step import Asked, Effect, Send, Unheard

MOST = 4
"""Pulls at once, of one provider."""
MOST_LAYERS = 1_000
EVERY_MS = 200.0
"""Progress in bytes is said no more often."""
REMIND_MS = 1_000.0
"""It is said at least so often, so that a caller who has left is noticed."""
UNHEARD_MS = 1_000.0
"""Nobody has heard it for so long: one who only lost the connection is back by then."""
MARK = ".vanished.pull-"
"""What stands before a pull's id in the subject that hears that nobody listens."""

AGAIN = "Asking again goes on where it stopped."
ADVICE: dict[PullFault, str] = {
    "unreachable": "Nobody answers at the provider's address: is the server running? " + AGAIN,
    "not_found": "No registry has a model of this name: look at its spelling and its tag.",
    "refused": "The server refused: its words say why.",
    "truncated": "The server's answer ended before `success`: look at its log and its disk. " + AGAIN,
    "stalled": "The server has said nothing for minutes: look at its log. " + AGAIN,
    "malformed": "What the server says is not Ollama's form: is its address that of an Ollama, without /v1?",
    "pulling": "It is being pulled already, or too many others are: wait for their end, or end them.",
    "unsupported": "This provider pulls no models.",
    "cancelled": "The provider's process stops. " + AGAIN,
}


def step(state: State, message: Asked | PullSaid | PullOver | Unheard, settings: Settings) -> list[Effect]:
    """All that is about pulls."""
    match message:
        case Asked(message=PullOrder() as order):
            return _ordered(state, order, message)
        case PullSaid():
            return _said(state, message)
        case PullOver():
            return _over(state, message, settings)
        case Unheard():
            return _unheard(state, message.subject.partition(MARK)[2], message.at_ms)
        case _:
            return []


def remind(state: State, now: float) -> list[Effect]:
    """With each heartbeat: what was said long ago is said again."""
    late = [pull_id for pull_id, pull in state.pulls.items() if now - pull.told_ms >= REMIND_MS]
    return [_tell(state, pull_id, now) for pull_id in late]


def stop(state: State) -> list[Effect]:
    """End them all: this process goes."""
    out: list[Effect] = []
    for pull_id in list(state.pulls):
        out += [EndPull(pull_id), _failed(state.pulls.pop(pull_id).reply, "cancelled")]
    return out


def _ordered(state: State, order: PullOrder, asked: Asked) -> list[Effect]:
    if not asked.reply:
        return []  # nobody could end it
    same = any(_tagged(pull.name) == _tagged(order.name) for pull in state.pulls.values())
    if not state.accepting or same or len(state.pulls) >= MOST:
        return [_failed(asked.reply, "pulling" if state.accepting else "cancelled")]
    state.pulls[asked.id] = Pull(order.name, asked.reply)
    return [_tell(state, asked.id, asked.at_ms), StartPull(asked.id, order.name, order.insecure)]


def _said(state: State, line: PullSaid) -> list[Effect]:
    pull = state.pulls.get(line.pull_id)
    if pull is None:
        return []
    before = pull.progress
    pull.progress = PullProgress(
        status=line.status, digest=line.digest, total_bytes=line.total_bytes, completed_bytes=line.completed_bytes
    )
    if line.digest and (line.digest in pull.layers or len(pull.layers) < MOST_LAYERS):
        pull.layers[line.digest] = line.total_bytes
    changed = (before.status, before.digest) != (line.status, line.digest)
    due = changed or line.at_ms - pull.told_ms >= EVERY_MS
    return [_tell(state, line.pull_id, line.at_ms)] if due else []


def _over(state: State, over: PullOver, settings: Settings) -> list[Effect]:
    """What the provider now has, its list has too: it is read at once."""
    pull = state.pulls.pop(over.pull_id, None)
    if pull is None:
        return []
    if over.fault is not None:
        return [_failed(pull.reply, over.fault, over.said)]
    weights = max(pull.layers, key=lambda digest: pull.layers[digest], default="")
    end = PullEnded(name=pull.name, digest=weights, bytes=sum(pull.layers.values()))
    refresh = RefreshCatalogue(provider=settings.provider)
    return [Send(pull.reply, end), Send(f"{state.app}.ask.catalogue.refresh", refresh)]


def _unheard(state: State, pull_id: str, now: float) -> list[Effect]:
    """The caller has left: closing the connection is what ends Ollama's pull, too."""
    pull = state.pulls.get(pull_id)
    if pull is None:
        return []
    if not pull.unheard_ms or now - pull.unheard_ms > 3 * REMIND_MS:  # heard in between
        pull.unheard_ms = now
        return []
    if now - pull.unheard_ms < UNHEARD_MS:
        return []
    del state.pulls[pull_id]
    return [EndPull(pull_id)]


def _tell(state: State, pull_id: str, now: float) -> Send:
    pull = state.pulls[pull_id]
    pull.told_ms = now
    return Send(pull.reply, pull.progress, reply=f"{state.inbox}{MARK}{pull_id}")


def _failed(reply: str, code: PullFault, said: str = "") -> Send:
    return Send(reply, PullFailed(code=code, text=f"{ADVICE[code]} It says: {said}" if said else ADVICE[code]))


def _tagged(name: str) -> str:
    """As Ollama takes it: in any case, and without a tag it is the latest."""
    lower = name.lower()
    return lower if ":" in lower.rpartition("/")[2] else f"{lower}:latest"
