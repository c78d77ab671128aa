"""`understudy erase` without a server: an id that no request can have is said to be wrong, by name."""

from __future__ import annotations

import pytest

from understudy.tools.cli import main


@pytest.mark.parametrize("wrong", ["", "a\nb", "x" * 201, "a\udcff"])
def test_an_id_that_no_request_can_have_is_refused(wrong: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["erase", "--conversation", wrong, "--nats", "nats://127.0.0.1:1"])
    assert ended.value.code == 1 and capsys.readouterr().err.startswith("invalid: --conversation: ")
