"""Postgres for root, in folders that only root may pass: its user goes elsewhere, and nothing is opened."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from runway_pipelines.local import postgres_place
from runway_pipelines.local.postgres_place import find_place
from runway_pipelines.local.processes import LocalServerError
from runway_pipelines.local.stack import APP_DATABASE, EmbeddedStack

CLEAN = Path(__file__).parents[2] / "runway_pipelines" / "local" / "clean.py"

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root starts Postgres as another user")


@pytest.fixture
def closed(tmp_path: Path) -> Iterator[Path]:
    """A state folder below a folder of mode 0700, made under umask 077."""
    before = os.umask(0o077)
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    yield home / "state"
    os.umask(before)


def remember(stack: EmbeddedStack) -> int:
    """Add a row to the stack's database; returns how many there are."""
    with psycopg.connect(stack.postgres.dsn(APP_DATABASE)) as connection:
        connection.execute("create table if not exists visit (id int generated always as identity)")
        connection.execute("insert into visit default values")
        return int(connection.execute("select count(*) from visit").fetchone()[0])  # type: ignore[index]


def clean(state: Path, environment: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, CLEAN, state, environment], capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_in_a_home_that_only_root_may_enter_the_stack_starts_keeps_its_data_and_opens_nothing(closed: Path) -> None:
    for expected in (1, 2):
        with EmbeddedStack(closed) as stack:
            assert remember(stack) == expected
            running = clean(closed, closed)
            assert running.returncode == 1
            assert f"process {os.getpid()} uses {closed}" in running.stderr
    assert stat.S_IMODE(closed.parent.stat().st_mode) == 0o700
    data = (closed / "postgres").readlink()
    assert stat.S_IMODE(data.stat().st_mode) == 0o700

    assert clean(closed, closed.parent / "venv").returncode == 0
    assert not closed.exists()
    assert not data.parent.exists()


def test_the_next_start_finds_the_same_data_and_another_checkout_has_its_own(closed: Path) -> None:
    closed.mkdir()
    other = closed.with_name("other")
    other.mkdir()
    place = find_place(closed)
    assert find_place(closed) == place
    assert find_place(other).data != place.data
    assert find_place(other).program == place.program


def test_data_that_somebody_deleted_are_made_anew(closed: Path) -> None:
    closed.mkdir()
    first = find_place(closed).data
    first.parent.rmdir()
    assert find_place(closed).data.parent.is_dir()
    assert (closed / "postgres").readlink() != first


@pytest.fixture
def roots_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Root's folder, elsewhere: nothing is there yet."""
    folder = tmp_path / "roots"
    monkeypatch.setattr(postgres_place, "ROOTS_FOLDERS", (str(folder),))
    return folder


@pytest.mark.parametrize("prepared", ["another's", "writable", "a link"])
def test_a_folder_that_somebody_else_could_have_prepared_is_refused(
    prepared: str, closed: Path, roots_folder: Path, tmp_path: Path
) -> None:
    closed.mkdir()
    if prepared == "a link":
        (tmp_path / "theirs").mkdir()
        roots_folder.symlink_to(tmp_path / "theirs")
    else:
        roots_folder.mkdir()
        roots_folder.chmod(0o777 if prepared == "writable" else 0o755)
        os.chown(roots_folder, 65534 if prepared == "another's" else 0, -1)
    with pytest.raises(LocalServerError, match="is not a folder that root alone writes to"):
        find_place(closed)


def test_a_link_to_anywhere_else_is_refused(closed: Path) -> None:
    closed.mkdir()
    (closed / "postgres").symlink_to("/etc/passwd")
    with pytest.raises(LocalServerError, match="Remove the link"):
        find_place(closed)


def test_half_a_copy_that_a_killed_start_left_is_neither_used_nor_kept(closed: Path, roots_folder: Path) -> None:
    closed.mkdir()
    (roots_folder / "new-killed").mkdir(parents=True)
    place = find_place(closed)
    assert (place.program / "bin" / "postgres").stat().st_mode & stat.S_IXOTH
    assert not (roots_folder / "new-killed").exists()


def test_where_no_folder_can_be_made_it_is_said_what_to_do(
    closed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed.mkdir()
    monkeypatch.setattr(postgres_place, "ROOTS_FOLDERS", (str(tmp_path / "missing" / "folder"),))
    with pytest.raises(LocalServerError, match="Use a checkout in a folder that everybody may pass through"):
        find_place(closed)
