"""A snapshot as a table for analysts: every code of every record once, as text, in a file of its owner's."""

import hashlib
import stat
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runway_pipelines.errors import Permanent, StoredObjectDamaged
from runway_pipelines.rosters.frames import COLUMNS, load_roster, roster_frame, save_roster
from runway_pipelines.rosters.manifest import pointer_key, snapshot_key
from runway_pipelines.systems.aws.object_store import ObjectStore
from tests.factories import TENANT, pointer, roster_lines

STUDENTS = [
    ("0001", 9, [("Local", "0012"), ("Local", "0013"), ("State", "007")]),
    ("0001", 10, []),  # a student's codes are on each of its records
    ("2", 9, []),
    ("é,\n\"'\\", 9, [("uri://x#NA", "NA1")]),
]
LINES = roster_lines(STUDENTS)
SHA256 = hashlib.sha256(b"".join(LINES)).hexdigest()
OTHER_SHA256 = hashlib.sha256(b"".join(LINES[-1:])).hexdigest()
ROWS = [
    *(("0001", ed_org, "School", *code) for ed_org in ("9", "10") for code in STUDENTS[0][2]),
    ("2", "9", "School", None, None),
    ("é,\n\"'\\", "9", "School", "uri://x#NA", "NA1"),
]


def rows_of(frame: pd.DataFrame) -> list[tuple[str | None, ...]]:
    return [tuple(None if pd.isna(value) else value for value in row) for row in frame.itertuples(index=False)]


@pytest.fixture
def published(store: ObjectStore) -> ObjectStore:
    """A store with a published roster, and another snapshot of it."""
    store.overwrite(pointer_key(TENANT), pointer(sha256=SHA256).to_json())
    store.overwrite(snapshot_key(TENANT, SHA256), b"".join(LINES))
    store.overwrite(snapshot_key(TENANT, OTHER_SHA256), b"".join(LINES[-1:]))
    return store


def test_every_code_of_every_record_is_one_row_with_its_leading_zeros() -> None:
    # 2 records with 3 codes of 2 systems take 2 lines each, which repeat the code of the other system.
    assert len(LINES) == 6
    frame = roster_frame(LINES)
    assert tuple(frame.columns) == COLUMNS
    assert {str(dtype) for dtype in frame.dtypes} == {"string"}
    assert sorted(rows_of(frame), key=repr) == sorted(ROWS, key=repr)


texts = st.text(st.characters(codec="utf-8"), min_size=1, max_size=5)
# None is a placeholder, and none is the id of another code in the consumers' eyes.
codes = st.lists(
    st.tuples(st.sampled_from(["Local", "State"]), texts.map(lambda text: f"C{text}C")), max_size=4, unique=True
)


@given(st.dictionaries(texts.filter(lambda text: text == text.lower()), codes, max_size=4))
def test_any_rosters_codes_come_back_once_each(students: dict[str, list[tuple[str, str]]]) -> None:
    # A code that two students share is in no line.
    holders = [code for own in students.values() for code in own]
    expected = set()
    for student, own in students.items():
        left = [code for code in own if holders.count(code) == 1]
        expected |= {(student, "9", "School", *code) for code in left} or {(student, "9", "School", None, None)}
    rows = rows_of(roster_frame(roster_lines((student, 9, own) for student, own in students.items())))
    assert len(rows) == len(set(rows))
    assert set(rows) == expected


def test_an_empty_roster_is_an_empty_table_of_text_columns() -> None:
    frame = roster_frame([])
    assert tuple(frame.columns) == COLUMNS
    assert len(frame) == 0
    assert {str(dtype) for dtype in frame.dtypes} == {"string"}


def test_the_published_roster_is_loaded_unless_another_snapshot_is_named(published: ObjectStore) -> None:
    assert len(load_roster(published, TENANT)) == len(ROWS)
    assert len(load_roster(published, TENANT, OTHER_SHA256)) == 1


def test_a_tenant_without_a_roster_is_named_with_what_to_materialize(store: ObjectStore, tmp_path: Path) -> None:
    target = tmp_path / "roster.csv"
    for ask in (lambda: load_roster(store, TENANT), lambda: save_roster(store, TENANT, target)):
        with pytest.raises(Permanent, match="a published roster of acme/district-12; got none"):
            ask()
    assert not target.exists()


def test_a_damaged_pointer_is_named(published: ObjectStore) -> None:
    published.overwrite(pointer_key(TENANT), b"{")
    with pytest.raises(StoredObjectDamaged, match=r"current\.json"):
        load_roster(published, TENANT)


def test_a_snapshot_that_is_not_there_leaves_no_file(published: ObjectStore, tmp_path: Path) -> None:
    target = tmp_path / "roster.jsonl"
    with pytest.raises(Permanent, match="NoSuchKey"):
        save_roster(published, TENANT, target, "0" * 64)
    assert not target.exists()


def test_a_csv_file_holds_the_table(published: ObjectStore, tmp_path: Path) -> None:
    target = tmp_path / "roster.csv"
    assert save_roster(published, TENANT, target) == 3
    read = pd.read_csv(target, dtype="string", keep_default_na=False, na_values=[""])
    assert rows_of(read) == rows_of(load_roster(published, TENANT))


def test_a_parquet_file_holds_the_table(published: ObjectStore, tmp_path: Path) -> None:
    target = tmp_path / "roster.parquet"
    assert save_roster(published, TENANT, target) == 3
    pd.testing.assert_frame_equal(pd.read_parquet(target), load_roster(published, TENANT), check_dtype=False)


@pytest.mark.parametrize("name", ["roster.jsonl", "roster", "roster.txt"])
def test_any_other_file_holds_the_stored_bytes(name: str, published: ObjectStore, tmp_path: Path) -> None:
    target = tmp_path / name
    assert save_roster(published, TENANT, target) == 3
    assert target.read_bytes() == b"".join(LINES)
    assert save_roster(published, TENANT, target, OTHER_SHA256) == 1
    assert target.read_bytes() == LINES[-1]


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".jsonl"])
@pytest.mark.parametrize("before", [None, 0o666, 0o644], ids=["new", "0666", "0644"])
def test_only_the_owner_can_read_the_file_even_one_that_was_there(
    suffix: str, before: int | None, published: ObjectStore, tmp_path: Path
) -> None:
    target = tmp_path / f"roster{suffix}"
    if before is not None:
        target.touch()
        target.chmod(before)
    save_roster(published, TENANT, target)
    assert stat.S_IMODE(target.stat().st_mode) == 0o600


def test_nobody_else_can_read_a_new_file_even_for_a_moment(
    published: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    modes: list[int] = []
    replace = Path.replace

    def spy(file: Path, target: Path) -> Path:
        modes.append(stat.S_IMODE(file.stat().st_mode))
        return replace(file, target)

    monkeypatch.setattr(Path, "replace", spy)
    save_roster(published, TENANT, tmp_path / "roster.jsonl")
    assert modes == [0o600]
