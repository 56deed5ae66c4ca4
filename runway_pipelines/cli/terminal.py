"""Tables for people in a terminal. For machines, commands print JSON instead."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from runway_pipelines.operations.wording import SHA256_SHOWN, minute

if TYPE_CHECKING:
    from runway_pipelines.doctor.findings import Finding
    from runway_pipelines.rosters.manifest import Manifest

console = Console()
STATUS_STYLES = {"ok": "green", "warning": "yellow", "failed": "bold red", "skipped": "dim"}


def say(text: str) -> None:
    """Print it as it is: a name or a reason may look like the terminal's markup."""
    console.print(text, soft_wrap=True, highlight=False, markup=False)


def findings_table(findings: Iterable[Finding]) -> Table:
    """The doctor's findings, with a fix for each failure."""
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
    """The partners' keys, a row for each `KeyReport.document`."""
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


def history_table(manifests: list[Manifest], current_sha256: str) -> Table:
    """A tenant's snapshots, with the current one marked. Fits 80 columns without cutting a digest."""
    history = Table(title="Snapshots, newest first", title_justify="left", show_edge=False, pad_edge=False)
    history.add_column("created (UTC)", no_wrap=True)
    history.add_column("sha256", overflow="fold", min_width=SHA256_SHOWN)  # in a narrow terminal the mark wraps
    for name in ("students", "lines", "added", "removed", "changed"):
        history.add_column(name, justify="right", no_wrap=True)
    for manifest in manifests:
        mark = " (current)" if manifest.sha256 == current_sha256 else ""
        changes = (manifest.students_added, manifest.students_removed, manifest.students_changed)
        history.add_row(
            minute(manifest.created_at),
            manifest.sha256[:SHA256_SHOWN] + mark,
            f"{manifest.students:,}",
            f"{manifest.lines:,}",
            *("-" if count is None else f"{count:,}" for count in changes),
        )
    return history
