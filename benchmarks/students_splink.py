"""Splink's own linker with our model: it must find our weights, and it trains the model.

Splink is not needed to weigh pairs: `students.scoring_sql` makes one statement of the same model. This shows that both
mean the same by it.
"""

from __future__ import annotations

import contextlib
import io
import logging
import re
import time
import warnings
from collections.abc import Iterator
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

import duckdb
import msgspec

from benchmarks.students_world import TODAY, make_district, make_file, make_tables
from runway_pipelines.students import scoring
from runway_pipelines.students.memory_database import Means
from runway_pipelines.students.model import Model, shipped_model
from runway_pipelines.students.observables import Candidate, read_candidates
from runway_pipelines.students.persons import Persons, prepare_persons
from runway_pipelines.students.scoring_sql import MISTYPED, scoring_sql

SHIPPED = Path(str(files("runway_pipelines.students").joinpath("model.json")))
# m and u of what no training pair showed: one odd field must not veto a match by itself.
LEAST_M, LEAST_U = 1e-4, 1e-8
_SEED, _STUDENTS, _ROWS = 2, 30_000, 8_000  # of the development seeds
_MISTYPED = """
create macro one_edit(a, b) as length(a) >= 5 and length(b) >= 5 and a <> b and (
    levenshtein(a, b) = 1 or (levenshtein(a, b) = 2 and length(a) = length(b)
        and list_sort(string_split(a, '')) = list_sort(string_split(b, ''))));
create macro are_mistyped(a, b) as
    len(list_filter(a, lambda x: len(list_filter(b, lambda y: one_edit(x, y))) > 0)) > 0;
"""
_ROSTER = """
create table roster as from student join (
    select person, list(student_id) as student_ids from code group by person
) using (person);
"""
_SHARED = (
    "first_name", "initial", "initials", "last_name", "last_name_plain", "surname_tokens", "birth_date", "student_ids",
    "sex", "grade",
)  # fmt: skip


def weights_beside_splinks(candidates: tuple[Candidate, ...], persons: Persons) -> dict[str, Any]:
    """How far apart the weights of the same pairs are at most, and both ones' seconds for weighing."""
    model = shipped_model()
    with _database(candidates, persons, model) as database:
        started = time.perf_counter()
        prior = scoring.prior_bits(model, persons)
        scoring._pair(database, persons, model)
        database.execute(scoring_sql(model), {"prior": prior, "least": scoring.LEAST_WEIGHT})
        ours = time.perf_counter() - started
        linker = _linker(database, settings_of(model, 1 / (1 + 2**-prior)))
        started = time.perf_counter()
        with _quiet():
            pairs = linker.inference.predict().physical_name
        splinks = time.perf_counter() - started
        ((compared, furthest),) = database.execute(_COMPARED.format(pairs=pairs)).fetchall()
    return {"pairs": compared, "furthest": furthest, "seconds": ours, "splink_seconds": splinks}


_COMPARED = """
select count(*), max(abs(scored.weight - theirs.weight)) from scored join (
    select f.line, r.person, max(match_weight) as weight
    from {pairs} as p
    join a_file as f on f.unique_id in (p.unique_id_l, p.unique_id_r)
    join b_roster as r on r.unique_id in (p.unique_id_l, p.unique_id_r)
    group by all
) as theirs using (line, person)
"""


def train(path: Path) -> str:
    """Write a model that is trained on a development district; returns what was done."""
    district = make_district(_SEED, _STUDENTS)
    persons = prepare_persons(*make_tables(district, _SEED))
    candidates = read_candidates(make_file(district, _SEED, _ROWS, 1, everything=True).lines, TODAY).valid
    provenance = (
        f"m and u by Splink {version('splink')}'s expectation maximisation on the synthetic district of seed {_SEED} "
        f"with {_STUDENTS:,} students and {_ROWS:,} rows (`python -m benchmarks students --train`); m is at least "
        f"{LEAST_M:g} and u at least {LEAST_U:g}. What no pair showed is as it was."
    )
    model = trained(candidates, persons, provenance)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(model), indent=2) + b"\n")
    return f"{path}: trained on {_ROWS:,} rows; a random pair is one student with probability {model.prior:.2e}"


def trained(candidates: tuple[Candidate, ...], persons: Persons, provenance: str) -> Model:
    """The model with m and u as Splink estimates them, without looking at the truth."""
    from splink import block_on

    model = shipped_model()
    with _database(candidates, persons, model) as database, _quiet():
        linker = _linker(database, settings_of(model, model.prior))
        sure = [block_on("first_name", "last_name", "birth_date")]
        linker.training.estimate_probability_two_random_records_match(sure, recall=0.85)
        linker.training.estimate_u_using_random_sampling(max_pairs=2e6, seed=1)
        for rule in (
            block_on("birth_date", "last_name"),
            block_on("birth_date", "first_name"),
            block_on("first_name", "last_name"),
        ):
            linker.training.estimate_parameters_using_expectation_maximisation(rule)
        estimated = linker.misc.save_model_to_json()
    return _with_estimates(model, estimated, provenance)


def settings_of(model: Model, prior: float) -> dict[str, Any]:
    """Splink's settings that mean the same as our model."""
    return {
        "link_type": "link_only",
        "probability_two_random_records_match": prior,
        "blocking_rules_to_generate_predictions": [{"blocking_rule": rule, "sql_dialect": "duckdb"} for rule in _RULES],
        "comparisons": [
            {
                "output_column_name": comparison.name,
                "comparison_levels": [_level(level) for level in comparison.levels],
            }
            for comparison in model.comparisons
        ],
        "retain_intermediate_calculation_columns": False,
        "retain_matching_columns": False,
    }


_RULES = (
    'l."birth_date" = r."birth_date" and l."first_name" = r."first_name"',
    'l."birth_date" = r."birth_date" and l."last_name" = r."last_name"',
    'l."first_name" = r."first_name" and l."last_name" = r."last_name"',
    'l."birth_date" = r."birth_date" and l."initial" = r."initial"',
)


def _level(level: Any) -> dict[str, Any]:
    condition = "ELSE" if level.when is None else re.sub(r"\b([lr])\.(\w+)", r"\2_\1", level.when)
    if condition == MISTYPED:
        condition = "are_mistyped(student_ids_l, student_ids_r)"
    settings: dict[str, Any] = {"sql_condition": condition, "label_for_charts": level.name}
    if level.missing:
        return settings | {"is_null_level": True}
    settings |= {"m_probability": level.m, "u_probability": level.u}
    if level.frequency is not None:
        settings |= {"tf_adjustment_column": level.frequency, "tf_adjustment_weight": 1.0}
    return settings


def _with_estimates(model: Model, estimated: dict[str, Any], provenance: str) -> Model:
    comparisons = []
    for ours, theirs in zip(model.comparisons, estimated["comparisons"], strict=True):
        levels = [
            level
            if level.missing
            else msgspec.structs.replace(
                level,
                m=max(found.get("m_probability") or level.m, LEAST_M),  # what no pair showed stays as it was
                u=min(max(found.get("u_probability") or level.u, LEAST_U), 1 - LEAST_U),
            )
            for level, found in zip(ours.levels, theirs["comparison_levels"], strict=True)
        ]
        comparisons.append(msgspec.structs.replace(ours, levels=tuple(levels)))
    return msgspec.structs.replace(
        model,
        provenance=provenance,
        prior=estimated["probability_two_random_records_match"],
        comparisons=tuple(comparisons),
    )


@contextlib.contextmanager
def _database(candidates: tuple[Candidate, ...], persons: Persons, model: Model) -> Iterator[duckdb.DuckDBPyConnection]:
    """Our tables, and Splink's two of them: a file and a roster with the same columns."""
    database = duckdb.connect(":memory:", config={"threads": Means().threads})
    try:
        for name, table in scoring._tables(persons).items():
            database.register(name, table)
        scoring._load_candidates(database, candidates)
        scoring._load_ids(database, candidates)
        database.execute("create table pair as select variant from variant")
        scoring._look_at_students(database, persons, model)
        database.execute(_ROSTER)
        database.execute(_MISTYPED)
        shared = ", ".join(_SHARED)
        database.execute(
            f"create table a_file as select 'f' || line as unique_id, line, null::int as person, nicknames, school_id, "
            f"null::varchar[] as school_ids, {shared} from candidate"
        )
        database.execute(
            f"create table b_roster as select 'r' || variant as unique_id, null::int as line, person, "
            f"null::varchar[] as nicknames, null::varchar as school_id, school_ids, {shared} from roster"
        )
        yield database
    finally:
        database.close()


def _linker(database: duckdb.DuckDBPyConnection, settings: dict[str, Any]) -> Any:
    from splink import DuckDBAPI, Linker

    logging.getLogger("splink").setLevel(logging.ERROR)
    api = DuckDBAPI(connection=database)
    tables = [api.register(name, table_name=f"{name}_s", dataset_display_name=name) for name in ("a_file", "b_roster")]
    linker = Linker(tables, settings)
    for column in ("first_name", "last_name"):
        database.execute(
            f"create table frequency_of_{column} as select distinct {column}, {column}_frequency as tf_{column} "
            f"from roster where {column} is not null"
        )
        linker.table_management.register_term_frequency_lookup(api.register(f"frequency_of_{column}"), column)
    return linker


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield
