"""How many requests to S3 a refresh costs: each is dearer than all that the guards compute."""

from __future__ import annotations

from tests.unit.rosters.publication_world import HALF, MORE, WHOLE, Step, kind_of, world_after

EACH_YEAR = ["HeadObject copy"] * 2


def asked(*before: Step, step: Step) -> list[str]:
    world = world_after(*before)
    world.s3.asked.clear()
    world.take(step)
    return [f"{operation} {kind_of(key)}" if key else operation for operation, key in world.s3.asked]


def test_a_night_without_a_change_reads_three_documents_looks_at_each_copy_and_lists_nothing() -> None:
    read = ["GetObject pointer", "GetObject hold", "GetObject manifest", "HeadObject snapshot", *EACH_YEAR]
    assert asked(WHOLE, step=WHOLE) == read


def test_a_new_roster_reads_the_published_one_and_no_manifest_of_its_own() -> None:
    read = asked(WHOLE, step=MORE)
    assert read[:4] == ["GetObject pointer", "GetObject hold", "GetObject manifest", "GetObject snapshot"]
    assert read.count("GetObject manifest") == 1
    assert read.count("list_multipart_uploads") == 1


def test_expectations_are_read_only_where_a_guard_fails() -> None:
    assert "GetObject expectations" not in asked(WHOLE, step=MORE)
    assert asked(WHOLE, step=HALF).count("GetObject expectations") == 1
