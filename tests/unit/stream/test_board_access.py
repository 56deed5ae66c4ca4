"""Who may see the board: whoever has the token, and nobody who has a part of it."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runway_pipelines.errors import ConfigurationError
from runway_pipelines.stream.board_access import checked_token, opens

TOKEN = "kJ8f-2hQz_7Lw0PpVbN4tA"


def basic(text: str) -> str:
    return "Basic " + base64.b64encode(text.encode()).decode()


@pytest.mark.parametrize(
    "authorization",
    [f"Bearer {TOKEN}", f"bearer  {TOKEN} ", basic(f":{TOKEN}"), basic(f"ann:{TOKEN}"), basic(f"ü:{TOKEN}")],
)
def test_the_token_opens_it_as_a_bearer_or_as_a_password(authorization: str) -> None:
    assert opens(authorization, TOKEN)


@pytest.mark.parametrize(
    "authorization",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        TOKEN,
        f"Token {TOKEN}",
        f"Bearer {TOKEN[:-1]}",
        f"Bearer {TOKEN}x",
        f"Bearer {TOKEN.lower()}",
        "Bearer " + "x" * 10_000,
        "Bearer ü",
        "Basic",
        "Basic %%%",
        basic(TOKEN),
        basic(f"{TOKEN}:"),
        basic(f"a:b:{TOKEN}"),
    ],
)
def test_nothing_else_does(authorization: str | None) -> None:
    assert not opens(authorization, TOKEN)


@given(st.text(max_size=60))
def test_no_text_raises(text: str) -> None:
    for authorization in (text, f"Bearer {text}", f"Basic {text}"):
        assert not opens(authorization, TOKEN)


@pytest.mark.parametrize("token", ["", "short", "x" * 19, "x" * 19 + "ü", " " + "x" * 20, "x" * 20 + "\n"])
def test_a_token_that_could_be_guessed_or_not_be_typed_is_refused_without_being_quoted(token: str) -> None:
    with pytest.raises(ConfigurationError, match="RUNWAY_BOARD_TOKEN") as refused:
        checked_token(token)
    assert not token.strip() or token.strip() not in str(refused.value)
    assert checked_token("x" * 20) == "x" * 20
