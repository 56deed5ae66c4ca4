"""Which files wait, which are requested, and which are old: over a bucket in memory."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from runway_pipelines.partner_tenants.keys import PartnerTenant
from runway_pipelines.students.automation import MOST_REQUESTS, SensorCursor, Tick, in_turn, run_key
from runway_pipelines.students.files import (
    CANDIDATES,
    CandidateFile,
    FileFolder,
    Report,
    delete_answers,
    listed_files,
    parse_key,
    partner_prefix,
    read_report,
    waiting_files,
    write_answer,
    write_report,
)
from runway_pipelines.students.pruning import old_folders
from runway_pipelines.systems.aws.object_store import ObjectStore
from tests.memory_store import Killed, MemoryS3, memory_store

NORTH = PartnerTenant("acme", "north")
FOLDER = FileFolder(NORTH, "act 2026-11")


@pytest.fixture
def s3() -> MemoryS3:
    return MemoryS3()


@pytest.fixture
def store(s3: MemoryS3) -> ObjectStore:
    return memory_store(s3)


def put(s3: MemoryS3, folder: FileFolder, content: bytes = b"{}\n") -> None:
    s3.put_object("memory", folder.key(CANDIDATES), content, "application/x-ndjson")


def answer(store: ObjectStore, file: CandidateFile) -> None:
    resolutions, review = write_answer(store, file.folder, [b"{}\n", b"{}\n"], [])
    write_report(store, file.folder, Report(file.etag, file.size, "run", "2026-11-28", resolutions, review))


def test_a_key_is_a_folder_of_a_tenant_or_nothing() -> None:
    key = FOLDER.key(CANDIDATES)
    assert key == "__resolutions/acme/north/act 2026-11/candidates.jsonl"
    assert parse_key(key) == (FOLDER, CANDIDATES)
    for wrong in (
        "__resolutions/acme/north/candidates.jsonl",
        "__resolutions/acme/north/act/deeper/candidates.jsonl",
        "__resolutions/ac me/north/act/candidates.jsonl",
        "__resolutions/acme/nor\nth/act/candidates.jsonl",
        "__resolutions/acme/north/../candidates.jsonl",
        "__rosters/acme/north/act/candidates.jsonl",
    ):
        assert parse_key(wrong) is None


def test_a_file_waits_until_a_report_names_its_version(s3: MemoryS3, store: ObjectStore) -> None:
    put(s3, FOLDER)
    put(s3, FileFolder(PartnerTenant("acme", "north-2"), "act"))
    (file,) = waiting_files(store, NORTH)
    assert file.folder == FOLDER
    answer(store, file)
    assert waiting_files(store, NORTH) == []
    report = read_report(store, FOLDER)
    assert report is not None and report.resolutions is not None and report.resolutions.lines == 2
    put(s3, FOLDER, b"others\n")
    (other,) = waiting_files(store, NORTH)
    assert other.identity != file.identity
    answer(store, other)
    s3.objects[FOLDER.key("report.json")] = (b"torn", {})
    assert waiting_files(store, NORTH) == [other]


def test_whatever_change_is_the_last_one_the_file_waits_or_its_answers_are_whole() -> None:
    for dies_before in range(1, 6):
        s3 = MemoryS3()
        store = memory_store(s3)
        put(s3, FOLDER)
        answer(store, waiting_files(store, NORTH)[0])
        put(s3, FOLDER, b"others\n")
        s3.dies_before = s3.changes + dies_before
        before = dict(s3.objects)
        (file,) = waiting_files(store, NORTH)
        try:
            answer(store, file)
        except Killed:
            assert waiting_files(store, NORTH) == [file]
            assert read_report(store, FOLDER) is None or s3.objects == before
        else:
            assert waiting_files(store, NORTH) == []


def test_a_refused_file_keeps_no_answer_of_an_earlier_version(s3: MemoryS3, store: ObjectStore) -> None:
    put(s3, FOLDER)
    answer(store, waiting_files(store, NORTH)[0])
    delete_answers(store, FOLDER)
    assert list(s3.objects) == [FOLDER.key(CANDIDATES)]


def test_old_folders_go_whole_and_the_candidates_first(s3: MemoryS3, store: ObjectStore) -> None:
    put(s3, FOLDER)
    answer(store, waiting_files(store, NORTH)[0])
    s3.objects["__resolutions/mistyped.jsonl"] = (b"names", {})
    now = datetime.now(UTC)
    assert list(old_folders(store, now - timedelta(days=1))) == []
    folders = list(old_folders(store, now + timedelta(days=1)))
    assert [keys[0] for keys in folders] == [FOLDER.key(CANDIDATES), "__resolutions/mistyped.jsonl"]
    assert sorted(key for keys in folders for key in keys) == sorted(s3.objects)


def files(tenants: int, of_each: int = 2) -> Iterator[CandidateFile]:
    for number in range(tenants):
        for name in range(of_each):
            yield CandidateFile(
                FileFolder(PartnerTenant("acme", f"t{number:03d}"), str(name)),
                "etag",
                1,
                datetime(2026, 3, 1, tzinfo=UTC),
            )


def test_a_tick_requests_a_run_for_each_tenant_and_leaves_the_rest_for_the_next() -> None:
    everybody = list(files(MOST_REQUESTS + 3))
    known = frozenset(file.folder.tenant.key for file in everybody) - {"acme/t000"}
    first, second, third = Tick(), Tick(), Tick()
    seen = first.look(everybody, frozenset(), known, MOST_REQUESTS)
    assert len(first.requested) == MOST_REQUESTS and len(seen) == 2 * MOST_REQUESTS
    assert (first.left, first.unknown) == (4, 2)
    seen = second.look(everybody, seen, known, MOST_REQUESTS)
    assert len(second.requested) == 2
    third.look(everybody, seen, known, MOST_REQUESTS)
    assert third.requested == {} and third.unknown == 2, "who becomes a partition is requested then"


def test_what_is_no_longer_listed_is_forgotten() -> None:
    everybody = list(files(3))
    known = frozenset(file.folder.tenant.key for file in everybody)
    seen = Tick().look(everybody, frozenset(), known, MOST_REQUESTS)
    assert Tick().look(everybody[:2], seen, known, MOST_REQUESTS) == {file.identity for file in everybody[:2]}


def test_a_cursor_comes_back_as_it_was_and_anything_else_is_an_empty_one() -> None:
    cursor = SensorCursor({"acme": frozenset({"a", "b"}), "borealis": frozenset()}, "borealis")
    assert SensorCursor.parse(cursor.to_json()) == SensorCursor({"acme": frozenset({"a", "b"})}, "borealis")
    for text in (None, "", "nonsense", "[]", '{"requested": 7, "next": ""}'):
        assert SensorCursor.parse(text) == SensorCursor()


def test_each_partner_has_its_turn_after_a_tick_whose_time_was_up() -> None:
    assert in_turn(["cascade", "acme", "borealis"], "borealis") == ["borealis", "cascade", "acme"]
    assert in_turn(["acme"], "gone") == ["acme"]


def test_a_run_key_names_the_versions_in_whatever_order() -> None:
    two = list(files(1))
    assert run_key(NORTH, two) == run_key(NORTH, two[::-1]) != run_key(NORTH, two[:1])
    assert run_key(NORTH, two[:1]) == f"acme/north:{two[0].identity}"


def test_the_listing_of_a_partner_has_no_other_partners_files(s3: MemoryS3, store: ObjectStore) -> None:
    for partner_id in ("acme", "acme-2"):
        put(s3, FileFolder(PartnerTenant(partner_id, "north"), "act"))
    assert [each.candidates.folder.tenant.partner_id for each in listed_files(store, partner_prefix("acme"))] == [
        "acme"
    ]
