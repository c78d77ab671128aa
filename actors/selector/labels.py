"""What an answer is marked with, beside the caller's own labels: where its words went, and what it speaks of.

`external` and `redacted` are facts. The rest are rules over the words of the answer, as data, and no more than that:
they find what says openly what it is. Each is linear in the text, for it runs where all requests do. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from understudy.messages.generate import Attempt

CODE = re.compile(
    r"^[ \t]{0,40}(?:```|~~~|def \w{1,60}\(|class \w{1,60}[(:]|import \w|from \w[\w.]{0,60} import |#include ?<"
    r"|function \w{1,60}\(|(?:const|let) \w{1,60} = |SELECT .{1,200} FROM )",
    re.MULTILINE,
)
SIGNS = ("\\frac", "\\sqrt", "\\sum", "\\int", "\\cdot", "\\leq", "\\geq", "\\begin{align", "\\begin{equation", "$$")
EQUATION = re.compile(r"[0-9a-z)] ?[-+*/^] ?[0-9a-z(]{1,12} ?=|= ?-?[0-9a-z(]{1,12} ?[-+*/^] ?[0-9a-z(]", re.IGNORECASE)
HIGH_STAKES = (
    *(" dosage", " dose", "0 mg", "5 mg", "medication", "prescri", "antidepress", "antibiotic", "insulin", "overdose"),
    *("diagnos", "lawsuit", "attorney", "lawyer", " custody", "divorce", "legal advice", "legally binding", "subpoena"),
    *(" investing", "investment", "mortgage", "bankrupt", " pension", "tax return", "stock market", "life savings"),
)
"""Medicine, law and money, as parts of words in lower case."""
OF_MAKING = frozenset({"external", "redacted"})
"""Facts of where words went."""
OF_CONTENT = frozenset({"code", "mathematics", "high_stakes"})
"""What these say is told to the caller, and never stored."""
NOT_SENT = frozenset({"blocked", "busy", "no_responders", "refused_connection"})
"""Ends of an external attempt of which nothing left."""


def of_answer(text: str, attempts: Sequence[Attempt]) -> tuple[str, ...]:
    """Our labels, in the order of `privacy.OWN_LABELS`."""
    found = [label for label, says in _RULES if says(text)]
    redacted = any(one.outbound is not None and one.outbound.redacted for one in attempts)
    left = any(_left(one) for one in attempts)
    return (*(["external"] if left else []), *(["redacted"] if redacted and left else []), *found)


def _code(text: str) -> bool:
    return CODE.search(text) is not None


def _mathematics(text: str) -> bool:
    signs = ("\\" in text or "$$" in text) and any(sign in text for sign in SIGNS)
    return signs or ("=" in text and EQUATION.search(text) is not None)


def _high_stakes(text: str) -> bool:
    lowered = text.lower()
    return any(stem in lowered for stem in HIGH_STAKES)


_RULES = (("code", _code), ("mathematics", _mathematics), ("high_stakes", _high_stakes))


def _left(one: Attempt) -> bool:
    """Where nobody knows, as with a runner that died, it is taken to have."""
    if one.location != "external":
        return False
    if one.outbound is not None and (one.outbound.bytes or not one.outbound.consent):
        return one.outbound.bytes > 0  # its runner knows
    return one.outcome not in NOT_SENT
