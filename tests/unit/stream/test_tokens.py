"""Who may pull which run, and the keys that tokens are verified with."""

from __future__ import annotations

import base64
import json
import threading
import traceback
from datetime import UTC, datetime, timedelta

import jwt
import pytest

from runway_pipelines.errors import ConfigurationError, Unavailable
from runway_pipelines.stream.runs import find_run
from runway_pipelines.stream.tokens import READ_AGAIN_SECONDS, SecretKeys, TokenRefused, TokenRules, token_keys
from runway_pipelines.systems.aws.secret_versions import SecretVersion
from tests.waiting import PATIENCE_SECONDS, join

KEY = b"0123456789abcdef" * 2
RULES = TokenRules("", "runId")


def bearer(runway_run_id: object, **claims: object) -> str:
    standard = {"runId": runway_run_id, "exp": datetime.now(UTC) + timedelta(minutes=1)}
    return f"Bearer {jwt.encode(standard | claims, KEY, algorithm='HS256')}"


@pytest.mark.parametrize("claimed", [7, "7"])
def test_a_run_id_may_be_a_number_or_text(claimed: object) -> None:
    RULES.check(bearer(claimed), "7", [KEY])


@pytest.mark.parametrize("claimed", [True, 7.0, "07", " 7", "７", "7\ud800", "\ud800", {"7": 7}, 10**300])
def test_any_other_claim_is_refused(claimed: object) -> None:
    with pytest.raises(TokenRefused):
        RULES.check(bearer(claimed), "7", [KEY])


@pytest.mark.parametrize("runway_run_id", ["01", "0", "0000000001", "", "-1", "1 ", "１", "2147483648", "11111111111"])
def test_a_run_id_has_one_spelling(runway_run_id: str) -> None:
    assert find_run(None, runway_run_id) is None  # type: ignore[arg-type]


OLD, NEW, NEWER = "old " * 10, "new " * 10, "newer " * 10


class Stages:
    """One secret's stages in Secrets Manager."""

    def __init__(self, **texts: str) -> None:
        self.texts = texts
        self.reads = 0
        self.is_down = False

    def __call__(self, name: str, stage: str) -> SecretVersion | None:
        self.reads += 1
        if self.is_down:
            raise Unavailable(expected="a secret", came="nothing", remedy="try again")
        return SecretVersion(name, stage, self.texts[stage]) if stage in self.texts else None


def test_the_current_and_the_previous_key_are_valid() -> None:
    keys = SecretKeys("key", Stages(AWSCURRENT=NEW, AWSPREVIOUS=OLD), encoding="text")
    assert keys() == (NEW.strip().encode(), OLD.strip().encode())


def test_the_keys_are_read_again_after_a_minute_and_not_before() -> None:
    stages, now = Stages(AWSCURRENT=NEW), [0.0]
    keys = SecretKeys("key", stages, encoding="text", clock=lambda: now[0])
    first = keys()
    stages.texts = {"AWSCURRENT": NEWER, "AWSPREVIOUS": NEW}
    assert keys() == first
    now[0] += READ_AGAIN_SECONDS
    assert keys() == (NEWER.strip().encode(), *first)
    assert stages.reads == 4


def test_the_last_keys_stay_valid_while_the_service_is_down() -> None:
    stages, now = Stages(AWSCURRENT=NEW), [0.0]
    keys = SecretKeys("key", stages, encoding="text", clock=lambda: now[0])
    first = keys()
    stages.is_down = True
    now[0] += READ_AGAIN_SECONDS
    assert keys() == first


@pytest.mark.parametrize("texts", [{}, {"AWSCURRENT": "short"}])
def test_without_a_usable_key_nothing_starts(texts: dict[str, str]) -> None:
    with pytest.raises(ConfigurationError) as refused:
        token_keys("key", None, Stages(**texts), encoding="text")
    assert "short" not in str(refused.value)


def test_a_key_in_the_settings_must_be_long_enough_and_is_not_shown() -> None:
    secrets = Stages()
    assert token_keys(None, NEW, secrets, encoding="base64")() == (NEW.strip().encode(),)
    for key in (None, "c4n4ry"):
        with pytest.raises(ConfigurationError) as refused:
            token_keys(None, key, secrets, encoding="base64")
        assert "c4n4ry" not in str(refused.value)


def test_once_there_is_a_key_nobody_waits_for_a_service_that_hangs() -> None:
    hangs, asked, now = threading.Event(), threading.Event(), [0.0]

    class Hanging(Stages):
        def __call__(self, name: str, stage: str) -> SecretVersion | None:
            if self.is_down:
                asked.set()
                hangs.wait()
            return super().__call__(name, stage)

    stages = Hanging(AWSCURRENT=NEW)
    keys = SecretKeys("key", stages, encoding="text", clock=lambda: now[0])
    first = keys()
    stages.is_down = True
    now[0] += READ_AGAIN_SECONDS
    reader = threading.Thread(target=keys)
    reader.start()
    assert asked.wait(PATIENCE_SECONDS)
    assert keys() == first
    hangs.set()
    join(reader)


def test_the_placeholder_that_a_secret_was_created_with_is_not_a_key() -> None:
    keys = SecretKeys("key", Stages(AWSCURRENT=NEW, AWSPREVIOUS="change me"), encoding="text")
    assert keys() == (NEW.strip().encode(),)


BYTES = bytes(range(0xC8, 0xC8 + 33))  # no text in any encoding, and with + and / in base64


@pytest.mark.parametrize(
    "text",
    [
        base64.b64encode(BYTES).decode(),
        base64.b64encode(BYTES).decode() + "\n",
        base64.b64encode(BYTES + b"!").decode().rstrip("="),
        base64.urlsafe_b64encode(BYTES).decode(),
        json.dumps(base64.b64encode(BYTES).decode()),  # the application reads a secret as JSON, where it is JSON
        base64.encodebytes(BYTES * 3).decode(),  # on several lines
    ],
)
def test_the_key_is_what_the_applications_decoder_makes_of_the_secret(text: str) -> None:
    (key,) = token_keys("key", None, Stages(AWSCURRENT=text), encoding="base64")()
    assert key in (BYTES, BYTES + b"!", BYTES * 3)


@pytest.mark.parametrize(
    "text", ["c4n4ry, a pass phrase of 32 bytes or more", '{"key": "c4n4ryc4n4ryc4n4ryc4n4ryc4n4ry"}', "c4n4r"]
)
def test_a_secret_that_is_not_base64_is_refused_and_not_shown(text: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        token_keys("key", None, Stages(AWSCURRENT=text), encoding="base64")
    said = str(refused.value)
    assert "base64" in said
    assert "RUNWAY_STREAM_TOKEN_SECRET_ENCODING" in said
    assert "c4n4r" not in "".join(traceback.format_exception(refused.value))


def test_a_key_before_that_was_no_base64_is_none() -> None:
    current = base64.b64encode(BYTES).decode()
    keys = token_keys(
        "key", None, Stages(AWSCURRENT=current, AWSPREVIOUS="a pass phrase, of another time"), encoding="base64"
    )
    assert keys() == (BYTES,)


@pytest.mark.parametrize("not_before", [float("nan"), float("inf"), True, "1", [], 10**400])
def test_a_time_before_which_a_token_is_not_good_is_a_time(not_before: object) -> None:
    with pytest.raises(TokenRefused):
        RULES.check(bearer(7, nbf=not_before), "7", [KEY])


def test_the_local_tokens_are_as_the_applications() -> None:
    claims = jwt.decode(RULES.mint(7, KEY, valid_for=timedelta(days=1)), KEY, algorithms=["HS256"])
    assert claims.keys() == {"runId", "type", "iat", "exp"}
    assert claims["type"] == "access"
