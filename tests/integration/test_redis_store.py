"""Redis, for real: an ACL user over verified TLS, and a rate that several processes share."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import boto3
import dagster as dg
import pytest

from runway_pipelines.errors import (
    AuthenticationRefused,
    ConfigurationError,
    Permanent,
    SecretMissing,
    Unavailable,
)
from runway_pipelines.systems import store_resource
from runway_pipelines.systems.lml.limiter import CallLimiter
from runway_pipelines.systems.redis.client import RedisResource
from tests.integration.world import World
from tests.servers.certificates import new_authority
from tests.servers.redis import RedisServer, redis_binary, start_redis
from tests.servers.tls_front import TlsFront, tls_front
from tests.waiting import PATIENCE_SECONDS

pytestmark = pytest.mark.skipif(redis_binary() is None, reason="there is no redis-server: apt-get install redis-server")

SERVICE, USER, PASSWORD = "pipelines", "pipelines", "c4n4ry-pa55"
REGION = "us-west-2"
# What docs/data-contracts.md asks for, and nothing more.
RULES = "~runway:* +ping +eval +evalsha +script|load +time +get +set"


@dataclass
class Store:
    """A running Redis behind TLS."""

    state: Path
    server: RedisServer
    front: TlsFront
    ca_file: Path

    def restart(self) -> None:
        self.server.stop()
        self.server = start_redis(self.state, username=USER, password=PASSWORD, rules=RULES)
        self.front.upstream_port = self.server.port


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    state = tmp_path_factory.mktemp("redis")
    server = start_redis(state, username=USER, password=PASSWORD, rules=RULES)
    authority = new_authority(state / "tls")
    with tls_front(server.port, authority.issue("localhost", "127.0.0.1")) as front:
        store = Store(state, server, front, authority.certificate)
        yield store
    store.server.stop()


@pytest.fixture
def store(running: Store, world: World) -> Iterator[Store]:
    put_secret(port=running.front.port)
    yield running
    if not running.server.child.is_running():
        running.restart()


@pytest.fixture
def endless_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever tries to connect once more waits longer than a test may take."""
    monkeypatch.setattr(store_resource, "FIRST_WAIT_SECONDS", 3600.0)


def put_secret(**members: object) -> None:
    """The service's secret in mirror, whose TLS is on by default."""
    client = boto3.client("secretsmanager", region_name=REGION)
    text = json.dumps({"username": USER, "password": PASSWORD, "endpoint": "localhost"} | members)
    name = f"mirror/redis/{SERVICE}"
    try:
        client.put_secret_value(SecretId=name, SecretString=text)
    except client.exceptions.ResourceNotFoundException:
        client.create_secret(Name=name, SecretString=text)


def resource(store: Store, **options: object) -> RedisResource:
    return RedisResource(
        **({"env": "mirror", "service": SERVICE, "region": REGION, "ca_file": str(store.ca_file)} | options)
    )


def limiter(store: Store, rate: float = 20, name: str = "test", **options: object) -> CallLimiter:
    return CallLimiter(name=name, calls_per_second=rate, redis=resource(store, attempts=1, **options))


def test_it_is_found_and_let_in_over_verified_tls(store: Store) -> None:
    before = store.front.connections
    one = resource(store)
    assert one.ping() is True
    one.open()
    assert store.front.connections == before + 1
    one.close()
    one.close()
    assert one.ping() is True
    one.close()


def test_the_endpoint_may_be_the_environments(store: Store) -> None:
    put_secret(endpoint=None, port=store.front.port)
    with pytest.raises(SecretMissing, match="parameter /shared/infra/mirror/redis-endpoint"):
        resource(store).open()
    boto3.client("ssm", region_name=REGION).put_parameter(
        Name="/shared/infra/mirror/redis-endpoint", Value="localhost", Type="String"
    )
    assert resource(store).ping()


@pytest.mark.usefixtures("endless_retries")
@pytest.mark.parametrize("ca", ["another authority's", "the system's"])
def test_a_server_that_nobody_vouches_for_is_not_spoken_to(
    store: Store, tmp_path: Path, ca: str, caplog: pytest.LogCaptureFixture
) -> None:
    other = str(new_authority(tmp_path).certificate) if ca == "another authority's" else None
    with pytest.raises(Permanent, match="certificate that no trusted authority issued"):
        resource(store, ca_file=other).open()
    assert resource(store, ca_file=other).ping() is False


def test_another_name_than_the_certificates_is_not_spoken_to(store: Store, tmp_path: Path) -> None:
    authority = new_authority(tmp_path / "tls")
    with tls_front(store.server.port, authority.issue("elsewhere.internal")) as front:
        put_secret(port=front.port)
        with pytest.raises(Permanent, match="certificate"):
            resource(store, ca_file=str(authority.certificate)).open()


@pytest.mark.usefixtures("endless_retries")
@pytest.mark.parametrize("members", [{"password": "wrong-c4n4ry"}, {"username": "stranger"}, {"username": "default"}])
def test_a_refused_login_is_final_and_says_no_secret(store: Store, members: dict[str, str]) -> None:
    put_secret(port=store.front.port, **members)
    before = store.front.connections
    with pytest.raises(AuthenticationRefused) as refused:
        resource(store).open()
    assert store.front.connections - before == 1
    assert "c4n4ry" not in f"{refused.value}{vars(refused.value)}"


def test_what_the_acl_does_not_allow_is_a_refusal(store: Store) -> None:
    one = resource(store)
    with pytest.raises(Permanent, match="NOPERM"):
        one.call(lambda client: client.set("others:key", "1"))
    with pytest.raises(Permanent, match="NOPERM"):
        one.call(lambda client: client.flushall())
    one.close()


@pytest.mark.slow
def test_a_server_that_is_not_there_is_tried_three_times(store: Store) -> None:
    store.server.stop()
    started = time.monotonic()
    with pytest.raises(Unavailable):
        resource(store).open()
    assert time.monotonic() - started >= 3
    assert resource(store, attempts=1).ping() is False


def test_a_restarted_server_is_found_again_by_the_same_client(store: Store) -> None:
    one = resource(store)
    assert one.ping()
    store.restart()
    assert one.ping()
    one.close()


def test_without_the_driver_the_extra_is_named(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "redis", None)
    with pytest.raises(ConfigurationError, match=r"runway-pipelines\[redis\]"):
        resource(store).open()


@pytest.mark.slow
def test_calls_are_spread_evenly_over_processes(store: Store) -> None:
    """Two processes at 20 a second: 40 calls take 2 s, and no second has more than 20 (and the one that began it).

    By Redis' clock before and after a moment was taken, for nobody knows when in between: however slow this machine is,
    the later bounds are no earlier, and the earlier ones no later, than the moments themselves.
    """
    program = (
        "import sys, time\n"
        "from runway_pipelines.systems.lml.limiter import CallLimiter\n"
        "from runway_pipelines.systems.redis.client import RedisResource\n"
        f"redis = RedisResource(env='mirror', service='{SERVICE}', region='{REGION}', ca_file={str(store.ca_file)!r})\n"
        "one = CallLimiter(name='spread', calls_per_second=20, redis=redis)\n"
        "redis.open()\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        "def now():\n"
        "    seconds, microseconds = redis.call(lambda client: client.time())\n"
        "    return seconds + microseconds / 1e6\n"
        "for _ in range(20):\n"
        "    before = now(); wait = one.reserve(); print(before + wait, now() + wait, flush=True); time.sleep(wait)\n"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    said = [line.split() for each in processes for line in each.communicate(timeout=PATIENCE_SECONDS)[0].splitlines()]
    earliest, latest = (sorted(float(line[place]) for line in said) for place in (0, 1))
    assert len(said) == 40
    assert latest[-1] - earliest[0] >= 1.94
    assert all(latest[index + 20] - earliest[index] >= 0.99 for index in range(len(said) - 20))


def test_moments_are_taken_in_turn_and_forgotten_when_nobody_asks(store: Store) -> None:
    one = limiter(store, rate=0.01, name="turn")
    waits = [one.reserve() for _ in range(5)]
    assert waits[0] == 0
    assert 300 < waits[-1] <= 400
    quick = limiter(store, rate=100, name="quick")
    for _ in range(3):
        assert quick.reserve() == 0
        time.sleep(0.02)


def test_limits_of_different_names_do_not_meet(store: Store) -> None:
    assert [limiter(store, rate=1, name=name).reserve() for name in ("one", "two")] == [0, 0]


def test_a_clock_that_was_set_back_holds_nobody_up(store: Store) -> None:
    one = limiter(store, rate=10, name="clock")
    assert one.redis is not None
    ahead = f"{(time.time() + 3600) * 1_000_000:.0f}"
    one.redis.call(lambda client: client.set("runway:calls:clock", ahead))
    assert one.reserve() == 0
    assert one.reserve() <= 0.1


def test_without_redis_each_limits_itself_with_one_warning_and_finds_back(
    store: Store, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = limiter(store, rate=0.01, name="down")
    one.reserve()
    store.server.stop()
    with caplog.at_level(logging.WARNING):
        waits = [one.reserve() for _ in range(4)]
    assert waits[0] == 0
    assert 200 < waits[-1] <= 300
    warnings = [record.message for record in caplog.records if "limits its own calls" in record.message]
    assert len(warnings) == 1
    store.restart()
    monkeypatch.setattr("runway_pipelines.systems.lml.limiter.time.monotonic", lambda: time.perf_counter() + 1e6)
    one.reserve()
    assert one.redis is not None
    assert one.redis.call(lambda client: client.get("runway:calls:down")) is not None


@pytest.mark.parametrize("trouble", ["no such secret", "a refused login", "no driver", "no permission"])
def test_no_trouble_with_redis_ever_fails_a_caller(
    store: Store, trouble: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    one = limiter(store, name="trouble", **({"service": "nobody"} if trouble == "no such secret" else {}))
    if trouble == "a refused login":
        put_secret(port=store.front.port, password="wrong")
    if trouble == "no driver":
        monkeypatch.setitem(sys.modules, "redis", None)
    if trouble == "no permission":
        monkeypatch.setattr("runway_pipelines.systems.lml.limiter.KEY", "others:{name}")
    with caplog.at_level(logging.WARNING):
        assert [one.reserve() >= 0 for _ in range(3)] == [True] * 3
    assert len([record for record in caplog.records if "limits its own calls" in record.message]) == 1


def test_without_a_rate_there_is_no_limit_and_nobody_is_asked(store: Store) -> None:
    before = store.front.connections
    one = CallLimiter(name="free", redis=resource(store))
    assert {one.reserve() for _ in range(100)} == {0.0}
    assert store.front.connections == before


def test_the_connections_end_with_the_run(store: Store) -> None:
    kept: list[CallLimiter] = []

    @dg.op
    def work(one: CallLimiter) -> None:
        kept.append(one)
        one.reserve()

    @dg.job(resource_defs={"one": limiter(store, name="run")})
    def run() -> None:
        work()

    assert run.execute_in_process().success
    assert kept[0].redis is not None
    assert kept[0].redis._client is None
