"""Splink's own linker, given our model, finds our weights."""

from benchmarks.students_splink import weights_beside_splinks
from benchmarks.students_world import TODAY, make_district, make_file, make_tables
from runway_pipelines.students.observables import read_candidates
from runway_pipelines.students.persons import prepare_persons


def test_splinks_linker_finds_the_same_weights() -> None:
    district = make_district(seed=1, students=400)
    rows = make_file(district, seed=1, rows=200, noise=2, everything=True).lines
    found = weights_beside_splinks(read_candidates(rows, TODAY).valid, prepare_persons(*make_tables(district, 1)))
    assert found["pairs"] > 150
    assert found["furthest"] < 1e-6
