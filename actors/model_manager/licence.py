"""Which class a licence belongs to, by its SPDX id, its name, or by how its text begins. Pure.

Sources: the SPDX licence list for ids; titles as the licences' own texts have them. What is not known for certain is
`unknown`: a wrong class would let a model in that an operator meant to keep out. Restricted are those that forbid
fields of use or commerce, community licences of models among them; they are read first, as many name a permissive one.
A permissive name must be all that is said: what is added to it may take back what it gives. So must any id: of an
expression (`AND`, `WITH`, `OR`) nothing is known.
"""

from __future__ import annotations

import re

from understudy.messages.generate import LicenceClass

_EXPRESSION = re.compile(r"\S+( (AND|WITH|OR) \S+)+")
_TITLES: tuple[tuple[LicenceClass, str], ...] = (
    ("proprietary", r"^proprietary\b|^commercial\b|^all rights reserved\b"),
    (
        "restricted",
        r"community licen[sc]e|non-?commercial|-nc\b|^cc[- ]by-n[cd]|commons clause|acceptable use|research license|"
        r"^llama ?[0-9]|^gemma\b|openrail|\brail\b|terms of use|^other\b.*research",
    ),
    ("copyleft", r"^(a?gpl|lgpl|mpl|epl|eupl|cc-by-sa)\b|gnu (affero |lesser )?general public license|"
                 r"mozilla public license|attribution-sharealike"),
    (
        "permissive",
        r"^(apache[- ]?2(\.0)?|apache license(,? v(ersion )?)? ?2(\.0)?|(the )?mit( license)?|isc( license)?|"
        r"0?bsd([- ][0-9][- ]clause)?( license)?|(the )?unlicense|cc0(-1\.0)?|cc-by(-[0-9.]+)?|zlib)$",
    ),
    (
        "permissive",
        r"^apache license version 2\.0, january 2004\b|"
        r"^(the )?(mit license (\(mit\) )?)?(copyright .{1,200})?permission is hereby granted, free of charge|"
        r"^(bsd [0-9]-clause license )?(copyright .{1,200})?redistribution and use in source and binary forms",
    ),
)  # fmt: skip
_PATTERNS: tuple[tuple[LicenceClass, re.Pattern[str]], ...] = tuple(
    (word, re.compile(pattern, re.IGNORECASE)) for word, pattern in _TITLES
)


def class_of(licence: str) -> LicenceClass:
    """The class; `unknown` where neither id nor title says."""
    text = " ".join(licence.split())
    if _EXPRESSION.fullmatch(text):
        return "unknown"
    for word, pattern in _PATTERNS:
        if pattern.search(text):
            return word
    return "unknown"
