"""Keys are the contract's to the letter; documents are read back as written, and a damaged one is called that."""

import json
from dataclasses import MISSING, asdict, fields
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runway_pipelines.errors import InvalidKey, StoredObjectDamaged
from runway_pipelines.rosters.manifest import (
    TREND,
    Earlier,
    Manifest,
    Pointer,
    Signature,
    index_key,
    manifest_key,
    pointer_key,
    snapshot_key,
    snapshots_prefix,
    stable_key,
)
from runway_pipelines.systems.snowflake.connection import Place
from tests.factories import TENANT, manifest, pointer

HASH = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
KEY = "a/key"


def test_keys_follow_the_contract() -> None:
    assert stable_key(TENANT, 2026) == "__rosters/acme/district-12/2026/studentEducationOrganizationAssociations.jsonl"
    assert snapshots_prefix(TENANT) == "__roster_snapshots/acme/district-12/"
    assert snapshot_key(TENANT, HASH) == f"__roster_snapshots/acme/district-12/{HASH}.jsonl"
    assert manifest_key(TENANT, HASH) == f"__roster_snapshots/acme/district-12/{HASH}.manifest.json"
    assert pointer_key(TENANT) == "__roster_snapshots/acme/district-12/current.json"
    assert index_key("acme") == "__roster_snapshots/acme/index.json"


@pytest.mark.parametrize("partner_id", ["..", "a/b", "", "a\n"])
def test_an_index_has_no_key_for_an_unusable_partner(partner_id: str) -> None:
    with pytest.raises(InvalidKey):
        index_key(partner_id)


texts = st.text(st.characters(codec="utf-8"), max_size=20)
counts = st.integers(0, 2**53)
numbers_by_name = st.dictionaries(texts, counts, max_size=4)
seconds = st.floats(0, 1e6, allow_nan=False)
maybe_counts = st.none() | counts
OF_TYPE = {
    "str": texts,
    "int": counts,
    "float": seconds,
    "Mapping[str, int]": numbers_by_name,
    "str | None": st.none() | texts,
    "int | None": maybe_counts,
    "tuple[tuple[str, int], ...]": st.lists(st.tuples(texts, counts), max_size=3).map(tuple),
    "Signature | None": st.none() | st.builds(Signature, texts, texts, texts),
    "Place | None": st.none() | st.builds(Place, texts, texts, texts),
    "tuple[Earlier, ...]": st.lists(st.builds(Earlier, texts, counts), max_size=3).map(tuple),
}
manifests = st.builds(Manifest, **{field.name: OF_TYPE[str(field.type)] for field in fields(Manifest)})
moments = st.datetimes(timezones=st.just(UTC)).map(datetime.isoformat)
pointers = st.builds(
    Pointer, **{field.name: OF_TYPE[str(field.type)] for field in fields(Pointer)} | {"query_started_at": moments}
)


@given(manifests)
def test_a_manifest_is_read_back_as_it_was_written(written: Manifest) -> None:
    assert Manifest.from_json(KEY, written.to_json()) == written


@given(pointers)
def test_a_pointer_is_read_back_as_it_was_written(written: Pointer) -> None:
    assert Pointer.from_json(KEY, written.to_json()) == written


@pytest.mark.parametrize("document", [manifest(), pointer()], ids=["manifest", "pointer"])
def test_a_document_is_json_that_people_can_read(document: Manifest | Pointer) -> None:
    text = document.to_json().decode()
    assert json.loads(text) == json.loads(json.dumps(asdict(document)))
    assert text.count("\n") > len(fields(document))
    assert text.endswith("}\n")


def test_the_manifest_has_the_numbers_of_the_contract_and_the_pointer_its_members() -> None:
    assert {field.name for field in fields(Pointer)} >= {"sha256", "verified_at", "secret_version_id", "run_id"}
    assert {field.name for field in fields(Manifest)} >= {
        *("partner_id", "tenant_code", "rows", "students", "lines", "bytes", "sha256", "students_by_id_system"),
        *("colliding_codes", "students_by_school_year", "query_id", "secret_version_id", "run_id", "created_at"),
        *("previous_sha256", "students_added", "students_removed", "students_changed"),
    }


@pytest.mark.parametrize("document", [manifest(), pointer()], ids=["manifest", "pointer"])
def test_members_of_a_later_version_are_ignored(document: Manifest | Pointer) -> None:
    later = asdict(document) | {"members_of_tomorrow": [1], "schema_version": 2}
    assert type(document).from_json(KEY, json.dumps(later).encode()) == document


def test_a_pointer_of_0_1_0_is_not_pinned_and_has_nothing_before_it() -> None:
    members = asdict(pointer())
    del members["previous_sha256"], members["pinned"]
    assert Pointer.from_json(KEY, json.dumps(members).encode()) == pointer(previous_sha256=None, pinned=None)


def test_a_first_snapshots_manifest_may_lack_the_counts_of_changes() -> None:
    members = asdict(manifest())
    for name in ("previous_sha256", "students_added", "students_removed", "students_changed"):
        del members[name]
    assert Manifest.from_json(KEY, json.dumps(members).encode()) == manifest()


NOT_DOCUMENTS = [b"", b"null", b"7", b"[]", b'["sha256"]', b'"sha256"', b"{", b"{}", b"\xff", b'{"sha256": "x"}']


@pytest.mark.parametrize("kind", [Manifest, Pointer])
@pytest.mark.parametrize("body", [*NOT_DOCUMENTS, pointer().to_json()[:-20], manifest().to_json()[:100]])
def test_a_damaged_document_is_reported_by_its_key(kind: type[Manifest] | type[Pointer], body: bytes) -> None:
    with pytest.raises(StoredObjectDamaged, match=f"a {kind.__name__.lower()} in {KEY}; got {len(body)} bytes"):
        kind.from_json(KEY, body)


@pytest.mark.parametrize("missing", [field.name for field in fields(Pointer) if field.default is MISSING])
def test_a_pointer_without_a_member_is_damaged(missing: str) -> None:
    members = asdict(pointer())
    del members[missing]
    with pytest.raises(StoredObjectDamaged):
        Pointer.from_json(KEY, json.dumps(members).encode())


@pytest.mark.parametrize("wrong", [{"sha256": None}, {"query_started_at": None}, {"run_id": ["a"]}], ids=str)
def test_a_pointer_with_a_member_of_another_type_is_damaged(wrong: dict[str, Any]) -> None:
    with pytest.raises(StoredObjectDamaged):
        Pointer.from_json(KEY, json.dumps(asdict(pointer()) | wrong).encode())


@pytest.mark.parametrize("wrong", ["yesterday", "2026-01-15T02:00:00", ""])
def test_a_pointer_with_an_invalid_query_time_is_damaged(wrong: str) -> None:
    with pytest.raises(StoredObjectDamaged):
        Pointer.from_json(KEY, pointer(query_started_at=wrong).to_json())


@pytest.mark.parametrize(
    "wrong", [{"students_by_id_system": None}, {"students_by_id_system": {"Local": "x"}}, {"students": "many"}], ids=str
)
def test_a_manifest_with_a_member_of_another_type_is_damaged(wrong: dict[str, Any]) -> None:
    with pytest.raises(StoredObjectDamaged):
        Manifest.from_json(KEY, json.dumps(asdict(manifest()) | wrong).encode())


moments = st.datetimes(datetime(2020, 1, 1), datetime(2030, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001
offsets = st.integers(-14 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))


@given(moments, moments, offsets)
def test_a_pointer_is_newer_than_a_query_that_started_strictly_before_its_own(
    published: datetime, ours: datetime, offset: timezone
) -> None:
    there = pointer(query_started_at=published.astimezone(offset).isoformat())
    assert there.is_newer_than(ours) == (published > ours)
    assert not there.is_newer_than(published)
    assert there.is_newer_than(published - timedelta(microseconds=1))


def test_a_trend_has_the_snapshots_before_once_each_and_no_more_than_a_month_of_nights() -> None:
    first = manifest(sha256="a" * 64, students=100, created_at="2026-11-01T02:00:00+00:00")
    assert first.trend_before(first.sha256) == (), "the same roster once more is no new point"
    assert first.trend_before("b" * 64) == (("2026-11-01", 100),)
    long = manifest(sha256="a" * 64, students=7, trend=tuple(("2026-10-01", n) for n in range(TREND)))
    assert long.trend_before("b" * 64) == (*long.trend[1:], long.point)
