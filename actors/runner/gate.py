"""The gate before anything leaves this machine: stages in a fixed order, of which the first that objects decides.

| stage | asks |
|---|---|
| consent | has somebody agreed, to this text, and nobody withdrawn? |
| policy | may the request leave this machine? |
| crisis | was it judged, where it must be, and below a crisis? |
| secrets | does it hold no key and no password? |
| pii | does it hold no personal data, or can they be taken out? |

Then it is labelled and written down (`Outbound`). Any exception is a refusal, and no stage after one runs. Requests
hold no images yet; the removal of their metadata belongs behind `pii` once they do.

All that leaves is looked at: every text of an order but those of `STAYS`, wherever it stands (turns, calls of tools and
their results, names and descriptions, schemas, stop strings, texts to embed, what is to be continued). JSON is read
both ways: as the text that it is, in which a value stands beside its name, and value by value, numbers too, as vendors
read it. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol, cast

import msgspec

from understudy.messages.consents import Consents
from understudy.messages.gate_plan import GatePlan
from understudy.messages.places import location_of
from understudy.messages.privacy import BlockReason
from understudy.messages.run import RunModel
from understudy.messages.safety import CRISIS_LEVEL

STAYS = ("type", "run_id", "model", "conversation", "user", "privacy", "location", "name", "context_tokens")
"""Fields of an order that no provider is sent, or that are the provider's own words (its name of the model)."""


def leaves(plan: GatePlan, run: RunModel) -> bool:
    """Does a call for this order leave this machine? The selector's word alone does not make a place local."""
    name = run.name or plan.names.get(run.model) or run.model
    return location_of(plan.declared, name, run.location) == "external"


class Blocked(Exception):
    """A stage objects."""

    def __init__(self, reason: BlockReason) -> None:
        super().__init__(reason)
        self.reason: BlockReason = reason


Level = int | Literal["unjudged", "nobody"]
"""What the judge said; `unjudged`: it was not asked, or did not answer in time; `nobody`: nobody answers."""


class Scanners(Protocol):
    """What finds secrets and personal data, and takes the latter out of a text."""

    def secrets(self, text: str) -> Sequence[Any]:
        """Findings. Raises whatever it raises."""
        ...

    def pii(self, text: str) -> Sequence[Any]:
        """Findings."""
        ...

    def redact(self, text: str, findings: Sequence[Any]) -> str:
        """The text without its personal data."""
        ...


class Case:
    """One order at the gate, and what the stages find out about it."""

    __slots__ = ("consent", "consents", "level", "plan", "redacted", "refuse_pii", "run", "scanners")

    def __init__(
        self,
        run: RunModel,
        *,
        plan: GatePlan | None = None,
        consents: Consents | None = None,
        level: Level = "unjudged",
        scanners: Scanners | None = None,
        refuse_pii: bool = True,
    ) -> None:
        self.run, self.plan, self.consents, self.level = run, plan, consents, level
        self.scanners, self.refuse_pii = scanners, refuse_pii
        self.consent = self.redacted = 0


Stage = Callable[[Case], None]


def walk(
    case: Case, stages: Sequence[Stage], failed: Callable[[Exception], None] = lambda _: None
) -> BlockReason | None:
    """None when all let it pass; else why not. Whatever a stage raises, which `failed` is told, nothing after it is
    asked."""
    try:
        for stage in stages:
            stage(case)
    except Blocked as blocked:
        return blocked.reason
    except Exception as error:  # noqa: BLE001 - a gate that fails is shut
        failed(error)
        return "gate_error"
    return None


# --- stages ----------------------------------------------------------------------------------------------------------


def consent(case: Case) -> None:
    """A probe is in our own words, on nobody's behalf: it rests on the installation's consent alone. Any other order
    names its user, else that user's "no" would be gone round by leaving the name out."""
    plan, run = _needed(case.plan), case.run
    if not (run.probe or run.user or plan.without_user):
        raise Blocked("no_consent")
    user, conversation = ("", "") if run.probe else (run.user, run.conversation)
    found = _needed(case.consents).given(plan.provider, plan.version, user, conversation)
    if found is None:
        raise Blocked("no_consent")
    case.consent = found


def policy(case: Case) -> None:
    """What the request, or for it the topology, says."""
    if case.run.privacy != "external_allowed" and not case.run.probe:
        raise Blocked("local_only")


def crisis(case: Case) -> None:
    """Our own words need no judge. Where nobody judges, the policy decides; a judge that fails is an error."""
    if case.run.probe:
        return
    if case.level == "nobody" and not _needed(case.plan).require_judge:
        return
    if not isinstance(case.level, int):
        raise Blocked("gate_error")
    if case.level >= CRISIS_LEVEL:
        raise Blocked("crisis")


def secrets(case: Case) -> None:
    """A key that leaves once is lost: nothing is taken out, the whole stays here."""
    scan = _needed(case.scanners).secrets
    if any(scan(text) for text in texts(case.run)):
        raise Blocked("secret")


def pii(case: Case) -> None:
    """Taken out where the policy says so and it can be done; what is sent then is another order."""
    scanners = _needed(case.scanners)
    if not any(scanners.pii(text) for text in texts(case.run)):
        return
    if case.refuse_pii:
        raise Blocked("pii")
    stays = {name: getattr(case.run, name) for name in STAYS if name != "type"}
    cleaned = _redacted(leaving(case.run), case, scanners)
    try:
        case.run = msgspec.convert({**cast(dict[str, Any], cleaned), **stays}, RunModel)
    except msgspec.ValidationError:  # a name, say, that can be no other
        raise Blocked("pii") from None
    if any(scanners.pii(text) for text in texts(case.run)):
        raise Blocked("pii")


BEFORE: tuple[Stage, ...] = (consent, policy)
JUDGED: tuple[Stage, ...] = (consent, policy, crisis)
CONTENT: tuple[Stage, ...] = (secrets, pii)


def _needed(value: Any) -> Any:
    """A stage that lacks what it decides by has not let anything pass."""
    if value is None:
        raise Blocked("gate_error")
    return value


# --- what leaves -----------------------------------------------------------------------------------------------------


def leaving(run: RunModel) -> dict[str, Any]:
    """The order as plain values, without what stays."""
    return {name: value for name, value in msgspec.to_builtins(run).items() if name not in STAYS}


def texts(run: RunModel) -> list[str]:
    """Every text in what leaves, names of the fields of schemas included."""
    body = leaving(run)
    found = _strings(body)
    for part in (body.get("tools"), body.get("format")):  # schemas are JSON that is no text yet
        if part:
            found += [msgspec.json.encode(part).decode(), *_numbers(part)]
    return found


def _strings(value: Any) -> list[str]:
    match value:
        case str():
            inner = _json(value) if value else None
            return [] if not value else [value] if inner is None else [value, *_strings(inner), *_numbers(inner)]
        case dict():
            found: list[str] = []
            for key, one in cast(dict[Any, Any], value).items():
                found += [*_strings(key), *_strings(one)]
            return found
        case list() | tuple():
            return [text for one in cast(list[Any], value) for text in _strings(one)]
        case _:
            return []


def _numbers(value: Any) -> list[str]:
    """Within JSON alone: those of the order itself (seed, token counts) are ours."""
    match value:
        case bool():
            return []
        case int() | float():
            return [str(value)]
        case dict():
            return [text for one in cast(dict[Any, Any], value).values() for text in _numbers(one)]
        case list() | tuple():
            return [text for one in cast(list[Any], value) for text in _numbers(one)]
        case _:
            return []


def _redacted(value: Any, case: Case, scanners: Scanners) -> Any:
    match value:
        case str():
            inner = _json(value) if value else None
            if inner is not None and any(scanners.pii(text) for text in _strings(value)):
                return msgspec.json.encode(_inside(inner, case, scanners)).decode()
            found = scanners.pii(value) if value and inner is None else ()
            case.redacted += len(found)
            return scanners.redact(value, found) if found else value
        case dict():
            return {key: _redacted(one, case, scanners) for key, one in cast(dict[Any, Any], value).items()}
        case list() | tuple():
            return [_redacted(one, case, scanners) for one in cast(list[Any], value)]
        case _:
            return value


def _json(text: str) -> Any:
    """The arguments and results of tools are JSON in a text, which must be some afterwards; None for any other.

    Raises RecursionError for what is nested too deep to be read here: somebody else may read deeper.
    """
    if text.lstrip()[:1] not in ("{", "["):
        return None
    try:
        return msgspec.json.decode(text)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None


def _inside(value: Any, case: Case, scanners: Scanners) -> Any:
    """Values of any kind: a telephone number may be written as a number, JSON within JSON as a text."""
    match value:
        case str():
            return _redacted(value, case, scanners)
        case int() | float() if not isinstance(value, bool):
            found = scanners.pii(str(value))
            case.redacted += len(found)
            return scanners.redact(str(value), found) if found else value
        case dict():
            return {key: _inside(one, case, scanners) for key, one in cast(dict[Any, Any], value).items()}
        case list():
            return [_inside(one, case, scanners) for one in cast(list[Any], value)]
        case _:
            return value
