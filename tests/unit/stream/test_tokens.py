"""What a token must hold to open one run, as far as it needs no server."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import jwt
import pytest

from runway_pipelines.stream.runs import find_run
from runway_pipelines.stream.tokens import TokenRefused, TokenRules

KEY = b"0123456789abcdef" * 2
RULES = TokenRules("earthbeam", "runId")


def bearer(runway_run_id: object, **claims: object) -> str:
    standard = {"runId": runway_run_id, "aud": "earthbeam", "exp": datetime.now(UTC) + timedelta(minutes=1)}
    return f"Bearer {jwt.encode(standard | claims, KEY, algorithm='HS256')}"


@pytest.mark.parametrize("claimed", [7, "7"])
def test_a_run_id_may_be_a_number_or_its_text(claimed: object) -> None:
    RULES.check(bearer(claimed), "7", [KEY])


@pytest.mark.parametrize("claimed", [True, 7.0, "07", " 7", "７", "7\ud800", "\ud800", {"7": 7}, 10**300])
def test_anything_else_is_another_run_or_none(claimed: object) -> None:
    with pytest.raises(TokenRefused):
        RULES.check(bearer(claimed), "7", [KEY])


@pytest.mark.parametrize("runway_run_id", ["01", "0", "0000000001", "", "-1", "1 ", "１", "2147483648", "11111111111"])
def test_a_run_has_one_spelling(runway_run_id: str) -> None:
    assert find_run(None, runway_run_id) is None  # type: ignore[arg-type]
