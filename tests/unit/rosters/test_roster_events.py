"""What a roster's page says of it, beside its numbers."""

import pytest

from runway_pipelines.rosters.events import changes_table
from runway_pipelines.rosters.manifest import Manifest
from tests.factories import manifest


@pytest.mark.parametrize(
    ("of", "said"),
    [
        (manifest(previous_sha256=None), "the first snapshot"),
        (manifest(previous_sha256="p", students_added=None), "not compared: the previous snapshot could not be read"),
    ],
)
def test_a_first_snapshot_and_one_that_could_not_be_compared_are_told_apart(of: Manifest, said: str) -> None:
    assert str(changes_table(of).value).startswith(said)
