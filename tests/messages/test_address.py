"""A provider's address: its parts, and what is refused without being repeated."""

from __future__ import annotations

import pytest

from understudy.messages.address import target


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("http://localhost/v1", (False, "localhost", 80, "localhost", "/v1")),
        ("http://localhost:80", (False, "localhost", 80, "localhost", "")),
        ("https://localhost/", (True, "localhost", 443, "localhost", "")),
        ("https://LOCALHOST:8443/a/b/", (True, "localhost", 8443, "localhost:8443", "/a/b")),
        ("http://[::1]:8000/v1", (False, "::1", 8000, "[::1]:8000", "/v1")),
    ],
)
def test_addresses(url: str, found: tuple[object, ...]) -> None:
    assert target(url) == found


@pytest.mark.parametrize(
    "url",
    [
        *("", "localhost:80", "ftp://localhost", "http://", "http:///v1", "http://localhost:99999", "http://[::1/v1"),
        *("http://localhost:0/v1", "http://me:secret", "http://localhost:secret/v1"),
        *("http://me:secret@localhost/v1", "http://localhost/v1?k=secret", "http://localhost/v1#secret"),
        *("http://localhost/v1\r\nX: secret", "http://localhost/v 1", "http://localhost/é", "http://localhost/\tv1"),
    ],
)
def test_addresses_that_cannot_be_used(url: str) -> None:
    with pytest.raises(ValueError, match="http://host:port/v1") as caught:
        target(url)
    assert "secret" not in str(caught.value)
