"""What judges text before it leaves this machine. Today a library, not yet an actor: there is no `core.py`.

    secrets = scanner("secrets")     # or "pii": a pack of rules, packs/*.toml
    secrets.warm_up()
    findings = secrets.scan(text)    # rule id, kind, offsets in the raw text; never the text itself
    clean = redact(text, findings, secrets.scan)

Pure: no clock, no luck, no log, no file but the packs. Whoever calls it on the way out must take any exception as "no".
"""

from understudy.actors.safety_validator.redact import redact
from understudy.actors.safety_validator.rules import PackError
from understudy.actors.safety_validator.scan import Finding, ScanError, Scanner, scanner

__all__ = ["Finding", "PackError", "ScanError", "Scanner", "redact", "scanner"]
