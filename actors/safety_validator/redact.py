"""Take what was found out of a text, so that neither it nor any decoded view of it is left."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from understudy.actors.safety_validator.scan import Finding, ScanError

MAX_ROUNDS = 8
"""One is enough unless taking one thing away uncovers another (pieces that now stand together)."""


def redact(text: str, findings: Sequence[Finding], scan: Callable[[str], Sequence[Finding]]) -> str:
    """The text with `[secret]`, `[email]`, ... (the finding's kind) in place of each finding.

    `scan` is the scanner that found them; it is asked again until it finds nothing. Raises `ScanError` when it still
    finds something after `MAX_ROUNDS`: such a text must not go out.
    """
    for _ in range(MAX_ROUNDS):
        if not findings:
            return text
        text = _replaced(text, findings)
        findings = scan(text)
    if findings:
        raise ScanError(
            f"still {len(findings)} findings after {MAX_ROUNDS} rounds of redaction", "redaction_unfinished"
        )
    return text


def _replaced(text: str, findings: Sequence[Finding]) -> str:
    pieces, at = list[str](), 0
    for one in sorted(findings):
        if one.start >= at:
            pieces += (text[at : one.start], f"[{one.kind}]")
        at = max(at, one.end)
    return "".join((*pieces, text[at:]))
