"""Postgres for root in folders that only root may enter: it runs elsewhere, and nothing is opened to others."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from runway_pipelines.local import clean as clean_module
from runway_pipelines.local.clean import remove_state
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
def test_in_roots_private_home_the_stack_starts_keeps_its_data_and_opens_nothing(closed: Path) -> None:
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


def test_the_next_start_finds_its_data_and_another_checkout_gets_its_own(closed: Path) -> None:
    closed.mkdir()
    other = closed.with_name("other")
    other.mkdir()
    place = find_place(closed)
    assert find_place(closed) == place
    assert find_place(other).data != place.data
    assert find_place(other).program == place.program


def test_deleted_data_are_made_anew(closed: Path) -> None:
    closed.mkdir()
    first = find_place(closed).data
    first.parent.rmdir()
    assert find_place(closed).data.parent.is_dir()
    assert (closed / "postgres").readlink() != first


@pytest.fixture
def roots_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Root's folder, elsewhere: nothing is there yet."""
    folder = tmp_path / "roots"
    monkeypatch.setattr(clean_module, "ROOTS_FOLDERS", (str(folder),))
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


@pytest.mark.parametrize("target", ["/etc/passwd", "{roots}/../postgres", "{roots}/data-1/../..", "{roots}/x/postgres"])
def test_a_link_to_anywhere_else_is_refused_and_never_followed_by_clean(
    target: str, closed: Path, roots_folder: Path
) -> None:
    closed.mkdir()
    (closed / "postgres").symlink_to(target.format(roots=roots_folder))
    (roots_folder / "x" / "postgres").mkdir(parents=True)
    with pytest.raises(LocalServerError, match="Remove the link"):
        find_place(closed)
    remove_state(closed)
    assert not closed.exists()
    assert (roots_folder / "x" / "postgres").exists()


def test_the_copy_of_the_program_goes_with_the_last_data(closed: Path, roots_folder: Path) -> None:
    closed.mkdir()
    other = closed.with_name("other")
    other.mkdir()
    place = find_place(closed)
    find_place(other)
    remove_state(closed)
    assert place.program.exists()
    remove_state(other)
    assert [path.name for path in roots_folder.iterdir()] == ["lock"]


def test_a_killed_starts_half_copy_is_removed(closed: Path, roots_folder: Path) -> None:
    closed.mkdir()
    (roots_folder / "new-killed").mkdir(parents=True)
    place = find_place(closed)
    assert (place.program / "bin" / "postgres").stat().st_mode & stat.S_IXOTH
    assert not (roots_folder / "new-killed").exists()


def test_the_error_says_what_to_do_when_no_folder_can_be_made(
    closed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed.mkdir()
    monkeypatch.setattr(clean_module, "ROOTS_FOLDERS", (str(tmp_path / "missing" / "folder"),))
    with pytest.raises(LocalServerError, match="Use a checkout in a folder that everybody may pass through"):
        find_place(closed)
