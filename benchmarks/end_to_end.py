"""One tenant from the local Snowflake to the file and to S3, beside the floor, pandas and Runway's own way.

The floor runs the same statement over the same session and throws the rows away: nobody can be faster than that.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import pyarrow.parquet as pq

from benchmarks.big_tenant import big_tenant_tables
from benchmarks.local_partner import (
    CHECKOUT,
    SCHOOL_YEAR,
    forget_rosters,
    key_file,
    partner_with,
    roster_services,
    stack_with,
    warehouse_folder,
)
from benchmarks.measure import (
    MEGABYTE,
    ContenderFailed,
    Report,
    in_own_process,
    median,
    peak_memory,
    reset_peak_memory,
    spread,
    timed,
    timed_in_turn,
)
from benchmarks.peers import statement_with_binds
from runway_pipelines.credentials.sessions import PartnerSessions
from runway_pipelines.local.dataset import ASSOCIATIONS, IDENTIFICATION_CODES, SCHEMAS
from runway_pipelines.local.partners import Partner, Tenant
from runway_pipelines.local.stack import EmbeddedStack
from runway_pipelines.partner_tenants.keys import PartnerTenant
from runway_pipelines.rosters.manifest import stable_key
from runway_pipelines.rosters.outcome import Extract, RefreshContext, TenantStatus
from runway_pipelines.rosters.query import ROSTER_SQL, roster_parameters
from runway_pipelines.rosters.refresh import extract_roster, refresh_tenant
from runway_pipelines.rosters.services import RosterServices
from runway_pipelines.systems.snowflake.client import EduSession, Selection

STUDENTS = 200_000
REPEATS = 5
REPEATS_OF_PUBLICATION = 3
REPEATS_OF_RUNWAY = 3
REPEATS_OF_PANDAS = 2  # 7 s each
GOAL_TIMES_THE_FLOOR = 1.5
GOAL_RUNWAYS_WAY_TO_OURS = 10
GOAL_COST_OF_FILLERS = 1.25
GOAL_MEMORY_OF_ONE = 150 * MEGABYTE
PARTNER = partner_with((Tenant("big", STUDENTS),))
TENANT = PartnerTenant(PARTNER.partner_id, "big")
LOG = logging.getLogger("benchmarks")
FLOOR, EXTRACT, WITHOUT_FILLERS, S3_FLOOR, FIRST, UNCHANGED, PANDAS, RUNWAY = (
    "floor: the rows, thrown away",
    "ours: a file",
    "ours: a file without fillers",
    "floor of S3: boto3, upload and copy",
    "ours: published, first snapshot",
    "ours: published, no change",
    "pandas: a file",
    "Runway's way, Node.js: a file",
)
# Runway's package.json asks for version 3 of the driver.
_NODE_PACKAGE = "snowflake-sdk@3"
_NODE_FOLDER = CHECKOUT / ".runway" / "benchmarks" / "node"


def run() -> Iterator[Report]:
    """The table."""
    with stack_with(PARTNER) as stack:
        write_warehouse(stack, PARTNER, TENANT, STUDENTS)
        engine = in_own_process(statement_alone, warehouse=str(stack.warehouse_dir))
        file = str(stack.state_dir / "roster.jsonl")
        extraction = in_own_process(extract, file=file)
        publication = in_own_process(publish, file=file)
        place = {"host": stack.snowflake_host, "port": stack.snowflake_port, "key": str(key_file(stack, PARTNER))}
        results = {
            FLOOR: extraction[FLOOR],
            EXTRACT: extraction[EXTRACT],
            WITHOUT_FILLERS: extraction[WITHOUT_FILLERS],
            S3_FLOOR: publication[S3_FLOOR],
            FIRST: publication[FIRST],
            UNCHANGED: publication[UNCHANGED],
            PANDAS: in_own_process(pandas_way, file=str(stack.state_dir / "pandas.jsonl"), **place),
            RUNWAY: _runway_way_if_there_is_one(stack, str(stack.state_dir / "runway.jsonl")),
        }
        memory = {name: in_own_process(memory_of_one, name=name, file=file) for name in (FLOOR, EXTRACT)}
    yield _report(results, engine, lowest_of_publication=median(publication[FLOOR]["seconds"]))
    yield _memory_report(memory)


def _report(results: dict[str, dict[str, Any]], engine: dict[str, Any], *, lowest_of_publication: float) -> Report:
    report = Report(
        "end_to_end",
        f"end_to_end: {STUDENTS:,} students out of the local Snowflake",
        ("", "seconds", "answer*", "after it", "client's CPU s", "students/s", "peak MB", "times the floor"),
        numbers={"students": STUDENTS, "statement_alone": engine, "contenders": results},
    )
    middles = {name: median(result["seconds"]) for name, result in results.items() if "seconds" in result}
    for name, result in results.items():
        if "failure" in result:
            report.rows.append((name, *["-"] * 7))
            report.notes.append(f"{name}: not measured: {result['failure']}")
            continue
        answer = median(result["answer"]) if "answer" in result else None
        report.rows.append(
            (
                name,
                spread(result["seconds"]),
                "-" if answer is None else f"{answer:.2f}",
                "-" if answer is None else f"{middles[name] - answer:.2f}",
                f"{median(result['cpu_seconds']):.2f}",
                f"{STUDENTS / middles[name]:,.0f}",
                f"{result['peak_memory'] / MEGABYTE:.0f}" if "peak_memory" in result else "-",
                f"{middles[name] / middles[FLOOR]:.2f}",
            )
        )
        same = WITHOUT_FILLERS if name in (PANDAS, RUNWAY) else name if name == WITHOUT_FILLERS else EXTRACT
        if result.get("content", results[same]["content"]) != results[same]["content"]:
            report.wrong.append(f"{name} has another content than {same}")
    statement = median(engine["seconds"])
    report.notes.append(
        "* From the request until the driver has the whole answer. In the local server's engine the statement alone "
        f"takes {statement:.2f} s, {statement / middles[EXTRACT]:.0%} of our file's time; the answer comes in one "
        "piece (Snowflake's in chunks), of which each driver keeps copies: hence the memory."
    )
    _add_goals(report, results, middles, lowest_of_publication)
    return report


def _add_goals(
    report: Report, results: dict[str, dict[str, Any]], middles: dict[str, float], lowest_of_publication: float
) -> None:
    goals: dict[str, Any] = {}
    for name, lowest, text in (
        (EXTRACT, middles[FLOOR], "the floor"),
        (FIRST, lowest_of_publication + middles[S3_FLOOR], "both floors, measured in turn with it"),
    ):
        times = middles[name] / lowest
        met = times <= GOAL_TIMES_THE_FLOOR
        goals[name] = {"times_its_floor": times, "met": met}
        report.notes.append(
            f"Goal: at most {GOAL_TIMES_THE_FLOOR} times {text}. {name}: {times:.2f}, {'met' if met else 'NOT met'}."
        )
    cost = middles[EXTRACT] / middles[WITHOUT_FILLERS]
    goals[WITHOUT_FILLERS] = {"fillers_cost": cost, "met": cost <= GOAL_COST_OF_FILLERS}
    report.notes.append(
        f"Goal: with fillers at most {GOAL_COST_OF_FILLERS} times as long as without them: {cost:.2f}, "
        f"{'met' if cost <= GOAL_COST_OF_FILLERS else 'NOT met'}."
    )
    if RUNWAY in middles:
        times = middles[RUNWAY] / middles[EXTRACT]
        met = times >= GOAL_RUNWAYS_WAY_TO_OURS
        # The local server spends a second on making JSON of its rows, which is not Runway's doing: hence CPU as well.
        of_cpu = median(results[RUNWAY]["cpu_seconds"]) / median(results[EXTRACT]["cpu_seconds"])
        goals[RUNWAY] = {"times_ours": times, "times_our_cpu": of_cpu, "met": met}
        report.notes.append(
            f"Goal: Runway's way takes {GOAL_RUNWAYS_WAY_TO_OURS} times as long as our file: {times:.1f} times, "
            f"{'met' if met else 'NOT met'}; it takes {of_cpu:.1f} times the CPU and "
            f"{results[RUNWAY]['peak_memory'] / results[EXTRACT]['peak_memory']:.1f} times the memory."
        )
    report.numbers["goals"] = goals


def _memory_report(memory: dict[str, dict[str, Any]]) -> Report:
    report = Report(
        "end_to_end_memory",
        f"end_to_end: peak memory above an idle process with its session open, {STUDENTS:,} students",
        ("", "idle, MB", "one roster, MB more", "a second one, MB more"),
        numbers=memory,
    )
    for name, result in memory.items():
        report.rows.append((name, *(f"{each / MEGABYTE:.0f}" for each in (result["idle"], *result["above"]))))
    is_met = memory[EXTRACT]["above"][0] <= GOAL_MEMORY_OF_ONE
    report.numbers["goal_met"] = is_met
    report.notes.append(
        f"Goal: {GOAL_MEMORY_OF_ONE / MEGABYTE:.0f} MB for one roster: {'met' if is_met else 'NOT met'}. The driver's "
        "threads leave the C library's heaps in pieces, so a second roster takes more."
    )
    return report


def memory_of_one(name: str, file: str) -> dict[str, Any]:
    """How far the floor, or a file, raises the memory of a process that did nothing before; then once more."""
    with roster_services() as services, _sessions(services) as sessions, sessions.session() as session:
        for _ in session.select("select 1 as one", {}, query_tag="benchmark").batches:
            pass
        idle = reset_peak_memory()
        above = []
        for _ in range(2):
            if name == FLOOR:
                _drain(session)
            else:
                with Path(file).open("wb") as output:
                    extract_roster(session, TENANT, output, run_id="benchmark", log=LOG)
            above.append(peak_memory() - idle)
    return {"idle": idle, "above": above}


def statement_alone(warehouse: str) -> dict[str, Any]:
    """The statement in the local server's own engine, without its protocol. In a process of its own, as all below."""
    import warnings

    from runway_pipelines.local.snowflake_accounts import Account

    warnings.filterwarnings("ignore")
    account = Account(Path(warehouse) / PARTNER.account.upper(), threads=2, spill=None)
    connection = account.connect(PARTNER.database, PARTNER.schema, autocommit=True)
    cursor = connection.cursor()
    return timed(lambda: cursor.execute(ROSTER_SQL, _parameters()), REPEATS)


def extract(file: str) -> dict[str, Any]:
    """The floor and `extract_roster` into a file, in turn; the floor's memory is taken before the first file."""
    extracts: list[Extract] = []
    with roster_services() as services, _sessions(services) as sessions, sessions.session() as session:
        answers = _note_answers()

        def to_file(fillers: bool = True) -> None:
            with Path(file if fillers else f"{file}.without").open("wb") as output:
                extracts.append(extract_roster(session, TENANT, output, run_id="benchmark", log=LOG, fillers=fillers))

        _drain(session)
        peak_of_floor = peak_memory()
        answers.clear()
        works = {FLOOR: lambda: _drain(session), EXTRACT: to_file, WITHOUT_FILLERS: lambda: to_file(fillers=False)}
        runs = timed_in_turn(works, REPEATS)
    contents = {EXTRACT: _sha256(file), WITHOUT_FILLERS: _sha256(f"{file}.without")}
    if [each.digest.sha256 for each in extracts[-2:]] != list(contents.values()):
        raise ValueError("a file is not what the extract says")
    if extracts[-1].counts.students != STUDENTS:
        raise ValueError("the extract does not have all students")
    results = {FLOOR: {**runs[FLOOR], "answer": answers[3::3], "peak_memory": peak_of_floor}}
    for position, (name, content) in enumerate(contents.items()):
        answer = answers[4 + position :: 3]
        results[name] = {**runs[name], "answer": answer, "peak_memory": peak_memory(), "content": content}
    return results


def publish(file: str) -> dict[str, Any]:
    """The floor, S3's floor and `refresh_tenant` (the extract, the lock in Postgres, S3), in turn.

    A first snapshot, and then one that is there already.
    """
    statuses: list[TenantStatus] = []
    with roster_services() as services, _sessions(services) as sessions:
        answers = _note_answers()
        client, bucket = services.store.client, services.store.bucket_name
        context = RefreshContext(
            store=services.store,
            database=services.database,
            run_id="benchmark",
            thresholds=services.policy.thresholds,
            guards=services.policy.guards.guards,
            lock_wait_seconds=60,
            log=LOG,
        )

        def drain() -> None:
            with sessions.session() as session:
                _drain(session)

        def upload_and_copy() -> None:
            client.upload_file(file, bucket, "floor/snapshot")
            source = {"Bucket": bucket, "Key": "floor/snapshot"}
            client.copy_object(Bucket=bucket, Key="floor/stable", CopySource=source)

        def refresh() -> None:
            statuses.append(refresh_tenant(context, sessions, TENANT, (SCHOOL_YEAR,)).status)

        def first() -> None:
            forget_rosters(services)  # milliseconds
            refresh()

        works = {FLOOR: drain, S3_FLOOR: upload_and_copy, FIRST: first, UNCHANGED: refresh}
        runs: dict[str, dict[str, Any]] = {**timed_in_turn(works, REPEATS_OF_PUBLICATION)}
        digest = hashlib.sha256()
        for line in services.store.lines(stable_key(TENANT, SCHOOL_YEAR)):
            digest.update(line)
    if statuses != [TenantStatus.NEW, TenantStatus.UNCHANGED] * (REPEATS_OF_PUBLICATION + 1):
        raise ValueError(f"not new and unchanged in turn: {statuses}")
    for position, name in enumerate((FLOOR, FIRST, UNCHANGED)):
        runs[name] |= {"answer": answers[3 + position :: 3], "peak_memory": peak_memory()}
    runs[FIRST]["content"] = runs[UNCHANGED]["content"] = digest.hexdigest()
    return runs


def _parameters() -> dict[str, str | int]:
    return roster_parameters(TENANT.tenant_code, datetime.now(UTC).date())


def _drain(session: EduSession) -> None:
    selection = session.select(ROSTER_SQL, _parameters(), query_tag="benchmark")
    for _ in selection.batches:
        pass


def pandas_way(file: str, host: str, port: int, key: str) -> dict[str, Any]:
    """The same file as one would write it with data frames."""
    import pandas as pd
    import snowflake.connector
    from cryptography.hazmat.primitives import serialization

    private_key = serialization.load_pem_private_key(Path(key).read_bytes(), password=None)
    der = private_key.private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    connection = snowflake.connector.connect(
        account=PARTNER.account,
        user=PARTNER.user,
        private_key=der,
        database=PARTNER.database,
        schema=PARTNER.schema,
        host=host,
        port=port,
        protocol="http",
    )
    answers: list[float] = []

    def work() -> None:
        cursor = connection.cursor()
        started = time.perf_counter()
        cursor.execute(ROSTER_SQL, _parameters())
        answers.append(time.perf_counter() - started)
        frame = cursor.fetch_pandas_all()
        frame = frame[frame["ANNOUNCEMENT"].isna()]
        if not (frame["TENANT_CODE"] == TENANT.tenant_code).all():
            raise ValueError("a row of another tenant")
        frame["CODE"] = [
            {"studentIdentificationSystemDescriptor": system, "identificationCode": code}
            if isinstance(system, str) and isinstance(code, str)
            else None
            for system, code in zip(frame["ID_SYSTEM"], frame["ID_CODE"], strict=True)
        ]
        records = (
            frame.groupby(["STUDENT_UNIQUE_ID", "ED_ORG_ID"], sort=False)
            .agg({"ED_ORG_TYPE": "first", "CODE": list})
            .reset_index()
        )
        lines = pd.DataFrame(
            {
                "educationOrganizationReference": [
                    {"educationOrganizationId": ed_org, "link": {"rel": kind or "LocalEducationAgency"}}
                    for ed_org, kind in zip(
                        records["ED_ORG_ID"].astype("int64").tolist(), records["ED_ORG_TYPE"], strict=True
                    )
                ],
                "studentReference": [{"studentUniqueId": student} for student in records["STUDENT_UNIQUE_ID"]],
                "studentIdentificationCodes": [_code_arrays(codes) for codes in records["CODE"]],
            }
        ).explode("studentIdentificationCodes")
        lines.to_json(file, orient="records", lines=True, force_ascii=False)

    runs = timed(work, REPEATS_OF_PANDAS)
    connection.close()
    return {**runs, "answer": answers[1:], "content": _content(file)}


def _code_arrays(codes: list[dict[str, str] | None]) -> list[list[dict[str, str]]]:
    """The codes of each line of a record: the first of every system, then one line more for each further one."""
    firsts: dict[str, dict[str, str]] = {}
    further = []
    for code in codes:
        if code is None:
            continue
        system = code["studentIdentificationSystemDescriptor"]
        if firsts.setdefault(system, code) is not code:
            further.append((system, code))
    arrays = [list(firsts.values())]
    for system, code in further:
        arrays.append([code, *(first for other, first in firsts.items() if other != system)])
    return arrays


def _runway_way_if_there_is_one(stack: EmbeddedStack, file: str) -> dict[str, Any]:
    try:
        return _runway_way(stack, file)
    except ContenderFailed as failure:
        return {"failure": str(failure)}


def _runway_way(stack: EmbeddedStack, file: str) -> dict[str, Any]:
    options = {
        "modules": str(node_modules()),
        "url": f"http://{stack.snowflake_host}:{stack.snowflake_port}",
        "account": PARTNER.account,
        "user": PARTNER.user,
        "database": PARTNER.database,
        "schema": PARTNER.schema,
        "keyFile": str(key_file(stack, PARTNER)),
        **statement_with_binds(TENANT.tenant_code),
        "file": file,
        "repeats": REPEATS_OF_RUNWAY,
    }
    script = Path(__file__).with_name("runway_way.cjs")
    # The whole answer is one text, of which the driver makes an object for each row.
    command = ["node", "--max-old-space-size=4096", str(script), orjson.dumps(options).decode()]
    process = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=stack.state_dir, env=node_environment()
    )
    if process.returncode:
        raise ContenderFailed((process.stderr.strip() or process.stdout.strip())[-500:])
    result: dict[str, Any] = orjson.loads(process.stdout.splitlines()[-1])
    return {**result, "content": _sha256(file)}


def node_environment() -> dict[str, str]:
    """What Node.js gets: the driver must not look for a cloud's metadata service."""
    return {**os.environ, "SNOWFLAKE_DISABLE_PLATFORM_DETECTION": "true"}


def node_modules() -> Path:
    """The folder with the driver in it, installed at first use; raises `ContenderFailed` when it cannot be had."""
    npm = shutil.which("npm")
    if not npm or not shutil.which("node"):
        raise ContenderFailed("there is no Node.js with npm here")
    if not (_NODE_FOLDER / "node_modules" / "snowflake-sdk").exists():
        _NODE_FOLDER.mkdir(parents=True, exist_ok=True)
        (_NODE_FOLDER / "package.json").write_text('{"private": true}\n')
        command = [npm, "install", "--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error", _NODE_PACKAGE]
        try:
            subprocess.run(command, cwd=_NODE_FOLDER, check=True, capture_output=True, timeout=120)
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
            raise ContenderFailed(f"npm could not install {_NODE_PACKAGE}") from None
    return _NODE_FOLDER


@contextmanager
def _sessions(services: RosterServices) -> Iterator[PartnerSessions]:
    """Sessions as the pipeline opens them; one is enough."""
    sessions = PartnerSessions(PARTNER.partner_id, services.secrets, services.snowflake, size=1, query_tag="benchmark")
    try:
        yield sessions
    finally:
        sessions.close()


def _note_answers() -> list[float]:
    """Have every `EduSession.select` of this process add its seconds to the list that is returned."""
    answers: list[float] = []
    select = EduSession.select

    def noted(self: EduSession, *arguments: Any, **named: Any) -> Selection:
        started = time.perf_counter()
        selection = select(self, *arguments, **named)
        answers.append(time.perf_counter() - started)
        return selection

    EduSession.select = noted  # type: ignore[method-assign]
    return answers


def _content(file: str) -> str:
    """What `_sha256` of the same lines written compactly would be: data frames write them in another way."""
    digest = hashlib.sha256()
    with Path(file).open("rb") as lines:
        for line in lines:
            digest.update(orjson.dumps(orjson.loads(line), option=orjson.OPT_APPEND_NEWLINE))
    return digest.hexdigest()


def _sha256(file: str) -> str:
    with Path(file).open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def write_warehouse(stack: EmbeddedStack, partner: Partner, tenant: PartnerTenant, students: int) -> None:
    """The partner's tables, with that many students of the tenant."""
    folder = warehouse_folder(stack, partner)
    with (
        pq.ParquetWriter(folder / f"{ASSOCIATIONS}.parquet", SCHEMAS[ASSOCIATIONS]) as associations,
        pq.ParquetWriter(folder / f"{IDENTIFICATION_CODES}.parquet", SCHEMAS[IDENTIFICATION_CODES]) as codes,
    ):
        for rows, code_rows in big_tenant_tables(students, tenant_code=tenant.tenant_code):
            associations.write_batch(rows)
            codes.write_batch(code_rows)
