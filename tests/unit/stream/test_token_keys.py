"""The key of the tokens: of the settings, or of a secret that rotates."""

import threading

import pytest
from pydantic import SecretStr

from runway_pipelines.errors import ConfigurationError, Unavailable
from runway_pipelines.settings import Settings, Stream
from runway_pipelines.stream.token_keys import READ_AGAIN_SECONDS, SecretKeys, token_keys
from runway_pipelines.systems.aws.secret_versions import SecretVersion
from tests.waiting import PATIENCE_SECONDS, join

OLD, NEW, NEWER = "old " * 10, "new " * 10, "newer " * 10


class Stages:
    """Secrets Manager, as far as one secret's stages go."""

    def __init__(self, **texts: str) -> None:
        self.texts = texts
        self.reads = 0
        self.is_down = False

    def __call__(self, name: str, stage: str) -> SecretVersion | None:
        self.reads += 1
        if self.is_down:
            raise Unavailable(expected="a secret", came="nothing", remedy="try again")
        return SecretVersion(name, stage, self.texts[stage]) if stage in self.texts else None


def test_the_current_and_the_previous_key_are_good() -> None:
    keys = SecretKeys("key", Stages(AWSCURRENT=NEW, AWSPREVIOUS=OLD))
    assert keys() == (NEW.strip().encode(), OLD.strip().encode())


def test_they_are_read_again_after_a_minute_and_not_before() -> None:
    stages, now = Stages(AWSCURRENT=NEW), [0.0]
    keys = SecretKeys("key", stages, clock=lambda: now[0])
    first = keys()
    stages.texts = {"AWSCURRENT": NEWER, "AWSPREVIOUS": NEW}
    assert keys() == first
    now[0] += READ_AGAIN_SECONDS
    assert keys() == (NEWER.strip().encode(), *first)
    assert stages.reads == 4


def test_what_was_read_stays_good_while_the_service_is_down() -> None:
    stages, now = Stages(AWSCURRENT=NEW), [0.0]
    keys = SecretKeys("key", stages, clock=lambda: now[0])
    first = keys()
    stages.is_down = True
    now[0] += READ_AGAIN_SECONDS
    assert keys() == first


@pytest.mark.parametrize("texts", [{}, {"AWSCURRENT": "short"}])
def test_without_a_usable_key_nothing_starts(texts: dict[str, str]) -> None:
    settings = Settings(stream=Stream(token_secret="key"))
    with pytest.raises(ConfigurationError) as refused:
        token_keys(settings, Stages(**texts))
    assert "short" not in str(refused.value)


def test_a_key_of_the_settings_must_be_long_enough_and_is_not_shown() -> None:
    secrets = Stages()
    assert token_keys(Settings(stream=Stream(token_key=SecretStr(NEW))), secrets)() == (NEW.strip().encode(),)
    for key in (None, SecretStr("c4n4ry")):
        with pytest.raises(ConfigurationError) as refused:
            token_keys(Settings(stream=Stream(token_key=key)), secrets)
        assert "c4n4ry" not in str(refused.value)


def test_nobody_waits_for_a_service_that_hangs_once_there_is_a_key() -> None:
    hangs, asked, now = threading.Event(), threading.Event(), [0.0]

    class Hanging(Stages):
        def __call__(self, name: str, stage: str) -> SecretVersion | None:
            if self.is_down:
                asked.set()
                hangs.wait()
            return super().__call__(name, stage)

    stages = Hanging(AWSCURRENT=NEW)
    keys = SecretKeys("key", stages, clock=lambda: now[0])
    first = keys()
    stages.is_down = True
    now[0] += READ_AGAIN_SECONDS
    reader = threading.Thread(target=keys)
    reader.start()
    assert asked.wait(PATIENCE_SECONDS)
    assert keys() == first
    hangs.set()
    join(reader)


def test_what_the_secret_was_created_with_before_its_first_key_is_no_key() -> None:
    keys = SecretKeys("key", Stages(AWSCURRENT=NEW, AWSPREVIOUS="change me"))
    assert keys() == (NEW.strip().encode(),)
