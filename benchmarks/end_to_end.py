"""One tenant from the local Snowflake to the file and to S3, beside the floor, pandas and Runway's own way.

The floor runs the same statement over the same session and throws the rows away: nobody can be faster than that.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson
import pyarrow.parquet as pq

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
    server_cpu,
    server_processes,
    spread,
    timed,
)
from runway_pipelines.credentials.sessions import PartnerSessions
from runway_pipelines.local.big_tenant import big_tenant_tables
from runway_pipelines.local.dataset import ASSOCIATIONS, IDENTIFICATION_CODES, SCHEMAS
from runway_pipelines.local.partners import Tenant
from runway_pipelines.local.stack import EmbeddedStack
from runway_pipelines.partner_tenants.keys import PartnerTenant
from runway_pipelines.resources.snowflake import EduSession, Selection
from runway_pipelines.rosters.manifest import stable_key
from runway_pipelines.rosters.query import ROSTER_SQL
from runway_pipelines.rosters.refresh import RefreshContext, Status, extract_roster, refresh_tenant

STUDENTS = 200_000
REPEATS = 5
REPEATS_OF_S3 = 3
REPEATS_OF_RUNWAY = 3
REPEATS_OF_PANDAS = 2  # 7 s each
GOAL_TIMES_THE_FLOOR = 1.5
GOAL_RUNWAYS_WAY_TO_OURS = 10
PARTNER = partner_with((Tenant("big", STUDENTS),))
TENANT = PartnerTenant(PARTNER.partner_id, "big")
LOG = logging.getLogger("benchmarks")
FLOOR, S3_FLOOR, EXTRACT, FIRST, UNCHANGED, PANDAS, RUNWAY = (
    "floor: the rows, thrown away",
    "floor of S3: boto3 uploads and copies the file",
    "ours: extract to a file",
    "ours: extract and publish, first snapshot",
    "ours: extract and publish, no change",
    "pandas: fetch_pandas_all, groupby, to_json",
    "Runway's way: Node.js driver, JSON.stringify",
)
# Runway's package.json asks for version 3 of the driver.
_NODE_PACKAGE = "snowflake-sdk@3"
_NODE_FOLDER = CHECKOUT / ".runway" / "benchmarks" / "node"


def run() -> Iterator[Report]:
    """The table."""
    with stack_with(PARTNER) as stack:
        _write_warehouse(stack)
        servers = {"snowflake": server_processes(stack.state_dir)["snowflake"]}
        results: dict[str, dict[str, Any]] = {}
        engine = in_own_process(statement_alone, warehouse=str(stack.warehouse_dir))
        for name, contend in _contenders(stack).items():
            with server_cpu(servers) as spent:
                results[name] = contend()
            results[name]["server_cpu_seconds"] = spent["snowflake"]
    yield _report(results, engine)


def _contenders(stack: EmbeddedStack) -> dict[str, Callable[[], dict[str, Any]]]:
    def to(name: str) -> str:
        return str(stack.state_dir / f"{name}.jsonl")

    place = {"host": stack.snowflake_host, "port": stack.snowflake_port, "key": str(key_file(stack, PARTNER))}
    return {
        FLOOR: lambda: in_own_process(floor),
        EXTRACT: lambda: in_own_process(extract, file=to("extract")),
        S3_FLOOR: lambda: in_own_process(s3_floor, file=to("extract")),
        FIRST: lambda: in_own_process(publication, unchanged=False),
        UNCHANGED: lambda: in_own_process(publication, unchanged=True),
        PANDAS: lambda: in_own_process(pandas_way, file=to("pandas"), **place),
        RUNWAY: lambda: _runway_way_if_there_is_one(stack, to("runway")),
    }


def _report(results: dict[str, dict[str, Any]], engine: dict[str, Any]) -> Report:
    report = Report(
        "end_to_end",
        f"end_to_end: {STUDENTS:,} students out of the local Snowflake",
        (
            "",
            "seconds",
            "of it the answer*",
            "after it",
            "CPU s of the client",
            "students/s",
            "peak memory, MB",
            "times the floor",
        ),
    )
    middles = {name: median(result["seconds"]) for name, result in results.items() if "seconds" in result}
    after = {name: middles[name] - median(results[name].get("answer", [0])) for name in middles}
    for name, result in results.items():
        if "failure" in result:
            report.rows.append((name, "-", "-", "-", "-", "-", "-", "-"))
            report.notes.append(f"{name}: not measured: {result['failure']}")
            continue
        report.rows.append(
            (
                name,
                spread(result["seconds"]),
                f"{median(result['answer']):.2f}" if "answer" in result else "-",
                f"{after[name]:.2f}",
                f"{median(result['cpu_seconds']):.2f}",
                f"{STUDENTS / middles[name]:,.0f}",
                f"{result['peak_memory'] / MEGABYTE:.0f}",
                f"{middles[name] / middles[FLOOR]:.2f}",
            )
        )
        if "content" in result and result["content"] != results[EXTRACT]["content"]:
            report.wrong.append(f"{name} gives another content than {EXTRACT}")
    statement = median(engine["seconds"])
    share = statement / middles[EXTRACT]
    report.notes.append(
        "* From the request until the driver has the whole answer: the local server sends it in one piece "
        f"(Snowflake: in chunks). In its engine the statement takes {statement:.2f} s: {share:.0%} of our extract."
    )
    report.numbers = {"students": STUDENTS, "statement_alone": engine, "contenders": results}
    _add_goals(report, results, middles)
    return report


def _add_goals(report: Report, results: dict[str, dict[str, Any]], middles: dict[str, float]) -> None:
    goals: dict[str, Any] = {}
    for name, lowest, text in (
        (EXTRACT, middles[FLOOR], "the floor"),
        (FIRST, middles[FLOOR] + middles[S3_FLOOR], "both floors together"),
    ):
        times = middles[name] / lowest
        met = times <= GOAL_TIMES_THE_FLOOR
        goals[name] = {"times_its_floor": times, "met": met}
        report.notes.append(
            f"Goal: at most {GOAL_TIMES_THE_FLOOR} times {text}. {name}: {times:.2f}, {'met' if met else 'NOT met'}."
        )
    if RUNWAY in middles:
        times = middles[RUNWAY] / middles[EXTRACT]
        met = times >= GOAL_RUNWAYS_WAY_TO_OURS
        # The local server spends seconds on making JSON of its rows, which is not Runway's doing: hence CPU as well.
        of_cpu = median(results[RUNWAY]["cpu_seconds"]) / median(results[EXTRACT]["cpu_seconds"])
        goals[RUNWAY] = {"times_ours": times, "times_our_cpu": of_cpu, "met": met}
        report.notes.append(
            f"Goal: Runway's way takes {GOAL_RUNWAYS_WAY_TO_OURS} times as long as our extract: {times:.1f} times, "
            f"{'met' if met else 'NOT met'}; it takes {of_cpu:.1f} times the CPU and "
            f"{results[RUNWAY]['peak_memory'] / results[EXTRACT]['peak_memory']:.1f} times the memory."
        )
    report.numbers["goals"] = goals


def statement_alone(warehouse: str) -> dict[str, Any]:
    """The statement in the local server's own engine, without its protocol. In a process of its own, as all below."""
    import warnings

    from runway_pipelines.local.snowflake_accounts import Account

    warnings.filterwarnings("ignore")
    account = Account(Path(warehouse) / PARTNER.account.upper(), threads=2)
    connection = account.connect(PARTNER.database, PARTNER.schema, autocommit=True)
    cursor = connection.cursor()
    return timed(lambda: cursor.execute(ROSTER_SQL, {"tenant_code": TENANT.tenant_code}), REPEATS)


def floor() -> dict[str, Any]:
    """Run the statement and drop each batch."""
    with _session() as (session, answers):

        def drain() -> None:
            selection = session.select(ROSTER_SQL, {"tenant_code": TENANT.tenant_code}, query_tag="benchmark")
            for _ in selection.batches:
                pass

        return {**timed(drain, REPEATS), "answer": answers[1:]}


def extract(file: str) -> dict[str, Any]:
    """`extract_roster` into a file."""
    extracts = []
    with _session() as (session, answers):

        def work() -> None:
            with Path(file).open("wb") as output:
                extracts.append(extract_roster(session, TENANT, output, run_id="benchmark", log=LOG))

        runs = timed(work, REPEATS)
    if extracts[-1].digest.sha256 != _sha256(file) or extracts[-1].counts.students != STUDENTS:
        raise ValueError("the file is not what the extract says")
    return {**runs, "answer": answers[1:], "content": _content(file)}


def s3_floor(file: str) -> dict[str, Any]:
    """The same bytes into the same bucket, and copied there, as boto3 does it: no lock, no check, no pointer."""
    with roster_services() as services:
        client, bucket = services.store.client, services.store.bucket_name

        def work() -> None:
            client.upload_file(file, bucket, "floor/snapshot")
            client.copy({"Bucket": bucket, "Key": "floor/snapshot"}, bucket, "floor/stable")

        runs = timed(work, REPEATS_OF_S3)
        services.store.delete(["floor/snapshot", "floor/stable"])
    return runs


def publication(*, unchanged: bool) -> dict[str, Any]:
    """`refresh_tenant`: the extract, the lock in Postgres, S3; a first snapshot, or one that is there already."""
    statuses: list[Status] = []
    answers = _note_answers()
    with roster_services() as services:
        sessions = PartnerSessions(PARTNER.partner_id, services.secrets, services.snowflake, size=1, query_tag="bench")
        context = RefreshContext(
            store=services.store,
            database=services.database,
            run_id="benchmark",
            thresholds=services.policy.thresholds,
            lock_wait_seconds=60,
            log=LOG,
        )

        def work() -> None:
            statuses.append(refresh_tenant(context, sessions, TENANT, (SCHOOL_YEAR,)).status)

        forget_rosters(services)
        runs = timed(work, REPEATS_OF_S3, before=None if unchanged else lambda: forget_rosters(services))
        sessions.close()
        digest = _ContentDigest()
        for line in services.store.lines(stable_key(TENANT, SCHOOL_YEAR)):
            digest.add(line)
    expected = Status.UNCHANGED if unchanged else Status.NEW
    if set(statuses[1:]) != {expected}:
        raise ValueError(f"expected {expected}, came {statuses}")
    return {**runs, "answer": answers[1:], "content": digest.hexdigest()}


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
        cursor.execute(ROSTER_SQL, {"tenant_code": TENANT.tenant_code})
        answers.append(time.perf_counter() - started)
        frame = cursor.fetch_pandas_all()
        if not (frame["TENANT_CODE"] == TENANT.tenant_code).all():
            raise ValueError("a row of another tenant")
        frame["CODE"] = [
            {"studentIdentificationSystemDescriptor": system, "identificationCode": code}
            if isinstance(system, str) and isinstance(code, str) and not rank
            else None
            for system, code, rank in zip(frame["ID_SYSTEM"], frame["ID_CODE"], frame["COLLISION_RANK"], strict=True)
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
                    for ed_org, kind in zip(records["ED_ORG_ID"].tolist(), records["ED_ORG_TYPE"], strict=True)
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
        "modules": str(_node_modules()),
        "url": f"http://{stack.snowflake_host}:{stack.snowflake_port}",
        "account": PARTNER.account,
        "user": PARTNER.user,
        "database": PARTNER.database,
        "schema": PARTNER.schema,
        "keyFile": str(key_file(stack, PARTNER)),
        "statement": ROSTER_SQL.replace("%(tenant_code)s", "?"),
        "binds": [TENANT.tenant_code] * ROSTER_SQL.count("%(tenant_code)s"),
        "file": file,
        "repeats": REPEATS_OF_RUNWAY,
    }
    script = Path(__file__).with_name("runway_way.cjs")
    # The whole answer is one text, of which the driver makes an object for each row.
    command = ["node", "--max-old-space-size=4096", str(script), orjson.dumps(options).decode()]
    process = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=stack.state_dir, env=_node_environment()
    )
    if process.returncode:
        raise ContenderFailed((process.stderr.strip() or process.stdout.strip())[-500:])
    result: dict[str, Any] = orjson.loads(process.stdout.splitlines()[-1])
    return {**result, "content": _content(file)}


def _node_environment() -> dict[str, str]:
    import os

    return {**os.environ, "SNOWFLAKE_DISABLE_PLATFORM_DETECTION": "true"}


def _node_modules() -> Path:
    """The folder with the driver in it, installed at first use; raises `ContenderFailed` when it cannot be had."""
    if not (_NODE_FOLDER / "node_modules" / "snowflake-sdk").exists():
        npm = shutil.which("npm")
        if not shutil.which("node") or not npm:
            raise ContenderFailed("there is no Node.js here")
        _NODE_FOLDER.mkdir(parents=True, exist_ok=True)
        (_NODE_FOLDER / "package.json").write_text('{"private": true}\n')
        command = [npm, "install", "--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error", _NODE_PACKAGE]
        try:
            subprocess.run(command, cwd=_NODE_FOLDER, check=True, capture_output=True, timeout=120)
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
            raise ContenderFailed(f"npm could not install {_NODE_PACKAGE}") from None
    return _NODE_FOLDER


@contextmanager
def _session() -> Iterator[tuple[EduSession, list[float]]]:
    """A session as the pipeline opens it, and the seconds that each of its answers takes."""
    answers = _note_answers()
    with roster_services() as services:
        sessions = PartnerSessions(PARTNER.partner_id, services.secrets, services.snowflake, size=1, query_tag="bench")
        with sessions.session() as session:
            yield session, answers
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


class _ContentDigest:
    """A digest of what the lines say, however they are written."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()

    def add(self, line: bytes) -> None:
        self._digest.update(orjson.dumps(orjson.loads(line), option=orjson.OPT_APPEND_NEWLINE))

    def hexdigest(self) -> str:
        return self._digest.hexdigest()


def _content(file: str) -> str:
    digest = _ContentDigest()
    with Path(file).open("rb") as lines:
        for line in lines:
            digest.add(line)
    return digest.hexdigest()


def _sha256(file: str) -> str:
    with Path(file).open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _write_warehouse(stack: EmbeddedStack) -> None:
    folder = warehouse_folder(stack, PARTNER)
    with (
        pq.ParquetWriter(folder / f"{ASSOCIATIONS}.parquet", SCHEMAS[ASSOCIATIONS]) as associations,
        pq.ParquetWriter(folder / f"{IDENTIFICATION_CODES}.parquet", SCHEMAS[IDENTIFICATION_CODES]) as codes,
    ):
        for rows, code_rows in big_tenant_tables(STUDENTS, tenant_code=TENANT.tenant_code):
            associations.write_batch(rows)
            codes.write_batch(code_rows)
