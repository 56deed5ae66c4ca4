"""How results look in a terminal: tables for people. For machines, commands print JSON instead."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from runway_pipelines.doctor import Finding
    from runway_pipelines.rosters.manifest import Manifest

console = Console()
STATUS_STYLES = {"ok": "green", "warning": "yellow", "failed": "bold red", "skipped": "dim"}


def findings_table(findings: Iterable[Finding]) -> Table:
    """What the doctor found, with the fix for what failed."""
    table = Table(title="What the pipeline depends on", title_justify="left")
    for name in ("what", "result", "detail"):
        table.add_column(name, overflow="fold")
    for finding in findings:
        detail = Text(finding.detail)
        if finding.fix:
            detail.append(f"\nTo do: {finding.fix}.", style="bold")
        style = STATUS_STYLES[finding.status]
        table.add_row(Text(f"{finding.subject}: {finding.check}"), Text(finding.status, style=style), detail)
    return table


def keys_table(rows: Iterable[Mapping[str, Any]]) -> Table:
    """The partners' keys: lines of `KeyReport.document`."""
    table = Table(title="Partners' keys, as DESC USER shows their fingerprints", title_justify="left")
    for name in ("partner", "current key", "previous key", "age", "last rotation"):
        table.add_column(name, overflow="fold")
    for row in rows:
        age, rotated = row["age_days"], row["rotated_days_ago"]
        table.add_row(
            row["partner"],
            row["fingerprint"] or Text(row["trouble"], style="bold red"),
            row["previous_fingerprint"] or "none",
            "" if age is None else Text(f"{age} days", style="" if row["is_fine"] else "bold red"),
            "never" if rotated is None else f"{rotated} days ago",
        )
    return table


def history_table(manifests: list[Manifest], published_sha256: str) -> Table:
    """A tenant's snapshots, the published one marked."""
    history = Table(title="Snapshots, newest first", title_justify="left")
    for name in ("created", "sha256", "students", "rows", "added", "removed", "changed"):
        history.add_column(name)
    for manifest in manifests:
        mark = " (published)" if manifest.sha256 == published_sha256 else ""
        changes = (manifest.students_added, manifest.students_removed, manifest.students_changed)
        history.add_row(
            manifest.created_at,
            manifest.sha256[:12] + mark,
            str(manifest.students),
            str(manifest.lines),
            *("-" if count is None else str(count) for count in changes),
        )
    return history
