"""What a pattern cannot say: entropy, placeholders, check digits, ranges. Each works on the bytes a rule took."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from math import log2
from typing import Any, cast

import re2

WORDS = (
    b"your my the a an api key keys token secret password passwd pass user username name here insert enter put place"
    b" holder placeholder replace replaceme me with this that goes example sample dummy fake test demo changeme change"
    b" none null todo foo bar baz value string access client private account id auth bearer redacted hidden passphrase"
    b" pwd abc 123 1234 12345 xyz real actual openai anthropic code sk live secretkey apikey mypassword mysecret"
).split()
_LATIN1 = cast(Any, re2).Options()
_LATIN1.encoding = cast(Any, re2).Options.Encoding.LATIN1
PLACEHOLDER = cast(
    Any, re2
).compile(
    rb"(?i)(?:"
    rb"[<\[{(]{1,3}[a-z _./:-]{0,80}[>\]})]{1,3}"  # <YOUR_KEY>, [secret], {{ token }}
    rb"|\$\{.*\}|\$\(.*|\$\{\{.*|\{\{.*\}\}"  # ${VAR}, $(command
    rb"|%[a-z_]{2,40}%"
    rb"|(?-i:\$[A-Z_]{2,60})"
    rb"|(?:sk|pk|key|api|proj|ant|pat)?(?:[-_ .:]*(?:" + b"|".join(WORDS) + rb"))+[-_ .:]*"
    rb")",
    _LATIN1,
)


N_LOG_N = (0.0, *(n * log2(n) for n in range(1, 1024)))


def entropy(value: bytes) -> float:
    """Shannon entropy in bits per byte, of the first 1,023; 0 for nothing."""
    value = value[: len(N_LOG_N) - 1]
    size = len(value)
    return log2(size) - sum([N_LOG_N[n] for n in map(value.count, set(value))]) / size if size else 0.0


def varied(value: bytes, bits: float) -> bool:
    """Whether the entropy is at least `bits`; told without counting where the number of distinct bytes says enough."""
    value = value[: len(N_LOG_N) - 1]
    size, distinct = len(value), len(set(value))
    least = log2(size) - N_LOG_N[size - distinct + 1] / size if size else 0.0  # all but one byte stand there once
    return least >= bits or entropy(value) >= bits


def placeholder(value: bytes) -> bool:
    """Whether the whole value stands for a secret instead of being one: `xxxx`, `<YOUR_KEY>`, `your-api-key-here`.

    Only the whole value counts, so no word inside a real key makes it harmless.
    """
    if value[:1] not in OPENERS and value.lower().translate(None, OF_WORDS):
        return len(set(value.lower()) - SIGNS) <= 2
    return len(set(value.lower()) - SIGNS) <= 2 or PLACEHOLDER.fullmatch(value) is not None


OPENERS = (b"<", b"[", b"{", b"(", b"$", b"%")
SIGNS = frozenset(b"-_.*~:=+/ ")
OF_WORDS = b"".join({*WORDS, b"-_ .:"})
"""A value with any other byte is made of no such words; it saves asking RE2."""


def digits_in(value: bytes) -> int:
    """How many decimal digits."""
    return len(value) - len(value.translate(None, DIGITS))


DIGITS, LETTERS = b"0123456789", b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"


def mixed(value: bytes) -> bool:
    """Not a word: digits beside letters, capitals inside, or signs that words do not hold."""
    letters = len(value) - len(value.translate(None, LETTERS))
    if not letters:
        return False
    if digits_in(value):
        return True
    if letters >= 6 and re.search(rb"[a-z][^a-z]{0,3}[A-Z]", value) and len(re.findall(rb"[A-Z]", value)) >= 2:
        return True
    return re.search(rb"[!@#$%^&*+=~?]", value.rstrip(b"!?.*")) is not None


def random(value: bytes) -> bool:
    """Drawn rather than named: two digits beside letters, or capitals in more places than camel case puts them."""
    digits = digits_in(value)
    if digits >= 2:
        return len(value.translate(None, LETTERS)) < len(value)
    turns = len(re.findall(rb"[a-z0-9][A-Z]", value))
    return (digits == 1 and turns >= 2) or turns * 7 >= len(value)


def drawn(value: bytes) -> bool:
    """As `random`, but one digit is enough among small letters: for values of one certain length."""
    return random(value) or (digits_in(value) == 1 and value.islower())


def passphrase(value: bytes) -> bool:
    """Four words or more with a sign between them, or no word at all."""
    return len(re.findall(rb"[A-Za-z0-9]{2,}", value)) >= 4 or mixed(value)


def words(value: bytes) -> bool:
    """12, 15, 18, 21 or 24 words, as BIP-39 has them, most of them not a sentence's small words."""
    found = re.findall(rb"[a-z]+", value.lower())
    small = sum(one in SMALL for one in found)
    return len(found) >= 12 and small <= len(found) // 6


SMALL = frozenset(
    b"the and that this with for not are was were have has had but you your they them from when what all one can will"
    b" just like about because which there been would could should then than very".split()
)


def _digits(value: bytes) -> list[int]:
    return [one - 48 for one in value if 48 <= one <= 57]


def luhn(value: bytes) -> bool:
    """A payment card: 13 to 19 digits, first one 2 to 6, with Luhn's check digit (ISO/IEC 7812-1)."""
    digits = _digits(value)
    if not 13 <= len(digits) <= 19 or not 2 <= digits[0] <= 6:
        return False
    total = sum(digits[-1::-2]) + sum(sum(divmod(2 * one, 10)) for one in digits[-2::-2])
    return total % 10 == 0


IBAN_CHARS = {
    "AD": 24, "AE": 23, "AL": 28, "AT": 20, "AZ": 28, "BA": 20, "BE": 16, "BG": 22, "BH": 22, "BR": 29, "BY": 28,
    "CH": 21, "CR": 22, "CY": 28, "CZ": 24, "DE": 22, "DK": 18, "DO": 28, "EE": 20, "EG": 29, "ES": 24, "FI": 18,
    "FO": 18, "FR": 27, "GB": 22, "GE": 22, "GI": 23, "GL": 18, "GR": 27, "GT": 28, "HR": 21, "HU": 28, "IE": 22,
    "IL": 23, "IQ": 23, "IS": 26, "IT": 27, "JO": 30, "KW": 30, "KZ": 20, "LB": 28, "LC": 32, "LI": 21, "LT": 20,
    "LU": 20, "LV": 21, "LY": 25, "MC": 27, "MD": 24, "ME": 22, "MK": 19, "MR": 27, "MT": 31, "MU": 30, "NL": 18,
    "NO": 15, "PK": 24, "PL": 28, "PS": 29, "PT": 25, "QA": 29, "RO": 24, "RS": 22, "SA": 24, "SC": 31, "SE": 24,
    "SI": 19, "SK": 24, "SM": 27, "ST": 25, "SV": 28, "TL": 23, "TN": 24, "TR": 26, "UA": 29, "VA": 22, "VG": 24,
    "XK": 20,
}  # fmt: skip
"""Length per country, after the IBAN registry of SWIFT (ISO 13616)."""


def iban(value: bytes) -> bool:
    """An IBAN: its country's length and the remainder 1 of 97 (ISO 13616, ISO 7064)."""
    text = value.decode("latin-1").replace(" ", "").upper()
    if IBAN_CHARS.get(text[:2]) != len(text):
        return False
    return int("".join(str(int(one, 36)) for one in text[4:] + text[:4])) % 97 == 1


def ssn(value: bytes) -> bool:
    """A number that the US Social Security Administration may have given: no 000, 666, 9xx; no 00; no 0000."""
    digits = bytes(one for one in value if 48 <= one <= 57)
    area, group, serial = digits[:3], digits[3:5], digits[5:]
    return (
        len(digits) == 9 and area not in (b"000", b"666") and area[:1] != b"9" and group != b"00" and serial != b"0000"
    )


def address(value: bytes) -> bool:
    """An IPv4 or IPv6 address that can tell a person: no private, loopback or otherwise reserved one."""
    try:
        return ipaddress.ip_address(value.decode("latin-1")).is_global
    except ValueError:
        return False


def phone(value: bytes) -> bool:
    """8 to 15 digits (ITU-T E.164), not all the same."""
    digits = _digits(value)
    return 8 <= len(digits) <= 15 and len(set(digits)) > 1


def position(value: bytes) -> bool:
    """Latitude and longitude within their ranges."""
    latitude, longitude = (abs(float(one)) for one in re.findall(rb"-?[0-9]+\.[0-9]+", value)[:2])
    return latitude <= 90 and longitude <= 180


CHECKS: dict[str, Callable[[bytes], bool]] = {
    "address": address,
    "drawn": drawn,
    "iban": iban,
    "luhn": luhn,
    "mixed": mixed,
    "passphrase": passphrase,
    "phone": phone,
    "position": position,
    "random": random,
    "ssn": ssn,
    "words": words,
}
"""The names that `check` may have in a pack."""
