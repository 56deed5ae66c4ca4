"""MongoDB's client, against a responder that is none: what is looked up, over which TLS, and what an answer leads to.

No MongoDB can be had from the packages of a test machine: docs/data-contracts.md says so.
"""

from __future__ import annotations

import json
import logging
import stat
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import boto3
import pytest

from runway_pipelines.errors import AuthenticationRefused, ConfigurationError, Permanent, SecretMissing, Unavailable
from runway_pipelines.systems.certificates import write_ca_file
from runway_pipelines.systems.mongo import client as mongo
from runway_pipelines.systems.mongo.client import MongoResource
from tests.integration.mongo_responder import Responder, mongo_responder
from tests.integration.world import World
from tests.servers.certificates import Authority, new_authority
from tests.servers.tls_front import TlsFront, tls_front
from tests.waiting import PATIENCE_SECONDS

PROJECT, USER, PASSWORD, REPLICA_SET = "chat-api", "chat", "c4n4ry-pa55", "rs0"


@dataclass
class Store:
    """The responder behind TLS, found by mirror's names."""

    responder: Responder
    front: TlsFront
    authority: Authority


@pytest.fixture
def store(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    monkeypatch.setattr(mongo, "CONNECT_MS", PATIENCE_SECONDS * 1000)
    monkeypatch.setattr(mongo, "ANSWER_MS", PATIENCE_SECONDS * 1000)
    authority = new_authority(tmp_path / "tls")
    with (
        mongo_responder(USER, PASSWORD, REPLICA_SET) as responder,
        tls_front(responder.port, authority.issue("localhost")) as front,
    ):
        responder.port = front.port  # what it calls itself is where it is reached
        put_secret("/mirror/current/chat-api-mongo-password", {"username": USER, "password": PASSWORD})
        ca = put_secret("mongo-ca", {"ca_cert": authority.certificate.read_text()})
        for part, value in {
            "endpoint": "localhost",
            "port": str(front.port),
            "replica-set-name": REPLICA_SET,
            "ca-secret-arn": ca,
        }.items():
            put_parameter(f"/mirror/current/mongodb-shared/{part}", value)
        yield Store(responder, front, authority)


@pytest.fixture
def brief_search(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """For a server that is never found: the driver looks for as long as it may."""
    monkeypatch.setattr(mongo, "CONNECT_MS", 1000)


def put_secret(name: str, members: dict[str, str]) -> str:
    client = boto3.client("secretsmanager")
    try:
        answer = client.put_secret_value(SecretId=name, SecretString=json.dumps(members))
    except client.exceptions.ResourceNotFoundException:
        answer = client.create_secret(Name=name, SecretString=json.dumps(members))
    return str(answer["ARN"])


def put_parameter(path: str, value: str) -> None:
    boto3.client("ssm").put_parameter(Name=path, Value=value, Type="String", Overwrite=True)


@pytest.fixture
def resource() -> Iterator[MongoResource]:
    one = MongoResource(env="mirror", project=PROJECT)
    yield one
    one.close()


def test_it_logs_in_to_its_own_database_and_pings(store: Store, resource: MongoResource) -> None:
    assert not resource.is_connected
    resource.open()
    assert resource.is_connected
    pings = store.responder.pings
    assert resource.ping() is True
    assert store.responder.pings == pings + 1
    assert set(store.responder.logins) == {(USER, "chat_api_db")}
    assert resource.database().name == "chat_api_db"
    resource.open()
    resource.close()
    resource.close()
    assert not resource.is_connected
    assert resource.ping() is True


def test_a_ping_says_no_instead_of_raising_and_connected_stays_a_flag(store: Store, resource: MongoResource) -> None:
    resource.open()
    store.responder.ping_code = 11600
    assert resource.ping() is False
    assert resource.is_connected
    store.responder.ping_code = None
    assert resource.ping() is True


def test_a_ping_says_no_where_the_cas_file_cannot_be_written(
    store: Store, resource: MongoResource, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "absent"))
    assert resource.ping() is False
    assert not resource.is_connected


@pytest.mark.parametrize("code", [18, 13])
def test_a_refusal_to_let_in_is_final(store: Store, resource: MongoResource, code: int) -> None:
    if code == 18:
        store.responder.login_code = code
    else:
        store.responder.ping_code = code
    with pytest.raises(AuthenticationRefused) as refused:
        resource.open()
    assert refused.value.code == str(code)
    assert "c4n4ry" not in str(refused.value)
    assert not resource.is_connected
    assert len(store.responder.logins) == 1
    assert resource.ping() is False


def test_a_wrong_password_is_final_and_is_not_said(store: Store, resource: MongoResource) -> None:
    put_secret("/mirror/current/chat-api-mongo-password", {"username": USER, "password": "another-c4n4ry"})
    with pytest.raises(AuthenticationRefused) as refused:
        resource.open()
    assert "c4n4ry" not in f"{refused.value}{vars(refused.value)}"


@pytest.mark.slow
@pytest.mark.usefixtures("brief_search")
def test_a_server_that_is_not_there_is_tried_three_times(store: Store, resource: MongoResource) -> None:
    put_parameter("/mirror/current/mongodb-shared/port", "1")
    started = time.monotonic()
    with pytest.raises(Unavailable, match="replica set's name"):
        resource.open()
    assert time.monotonic() - started >= 3 + 3  # three times a second of looking, and the pauses between


@pytest.mark.usefixtures("brief_search")
def test_a_replica_set_of_another_name_is_not_taken(store: Store) -> None:
    put_parameter("/mirror/current/mongodb-shared/replica-set-name", "another")
    with pytest.raises(Unavailable):
        MongoResource(env="mirror", project=PROJECT, attempts=1).open()
    assert store.responder.logins == []


@pytest.mark.usefixtures("brief_search")
def test_a_server_that_the_ca_does_not_vouch_for_is_not_spoken_to(
    store: Store, resource: MongoResource, tmp_path: Path
) -> None:
    put_secret("mongo-ca", {"ca_cert": new_authority(tmp_path / "other").certificate.read_text()})
    with pytest.raises(Permanent, match="its CA did not issue"):
        resource.open()
    assert store.responder.logins == []


def test_the_cas_file_is_gone_when_the_client_is_made(
    store: Store, resource: MongoResource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = set(tmp_path.iterdir())
    resource.open()
    assert set(tmp_path.iterdir()) == before
    resource._client.admin.command("ping")


def test_a_cas_file_is_its_owners_alone_and_a_stale_one_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "ca.pem"
    for text in ("one", "two"):
        write_ca_file(path, text)
        assert path.read_text() == text
        assert stat.S_IMODE(path.stat().st_mode) == 0o400


def test_staging_is_found_and_warned_of(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    ca = boto3.client("ssm").get_parameter(Name="/mirror/current/mongodb-shared/ca-secret-arn")["Parameter"]["Value"]
    put_secret("staging/mongodb-shared/chat-api-password", {"username": USER, "password": PASSWORD})
    for part, value in {
        "mongodb-hosts": f"localhost:{store.front.port}",
        "mongodb-replica-set-name": REPLICA_SET,
        "mongodb-ca-secret-arn": ca,
    }.items():
        put_parameter(f"/shared/infra/staging/{part}", value)
    one = MongoResource(env="staging", project=PROJECT)
    with caplog.at_level(logging.WARNING):
        assert one.ping()
    one.close()
    assert [record.message for record in caplog.records if "deprecated" in record.message]


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"env": "dev", "project": PROJECT}, ConfigurationError),
        ({"env": None, "project": PROJECT}, ConfigurationError),
        ({"env": "mirror", "project": None}, ConfigurationError),
        ({"env": "mirror", "project": "nobody"}, SecretMissing),
    ],
)
def test_what_it_cannot_be_found_by_is_said(
    store: Store, fields: dict[str, str | None], error: type[Exception]
) -> None:
    one = MongoResource(**fields)
    with pytest.raises(error):
        one.open()
    assert one.ping() is False


def test_without_the_driver_the_extra_is_named(
    store: Store, resource: MongoResource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pymongo", None)
    with pytest.raises(ConfigurationError, match=r"runway-pipelines\[mongo\]"):
        resource.open()
