"""How a next step is worded for its reader. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import quote

from runway_pipelines.operations.wording import hosted, runbook_path

COMMAND = "runway-pipelines"
COMMAND_LINE = "command line"  # on record in place of a run's id


@dataclass(frozen=True)
class Advice:
    """How to word a next step for its reader: what to type for the command, and where Dagster and the docs are."""

    command: str = COMMAND
    dagster_url: str | None = None
    docs_url: str | None = None
    ui: str = "the Dagster UI"

    def page(self, asset: str, partition: str) -> str:
        """Where an asset's partition is shown: an address, or words if Dagster's address is not known."""
        if self.dagster_url is None:
            return f"{asset}, partition {partition}, in {self.ui}"
        return f"{self.dagster_url.rstrip('/')}/assets/{asset}?view=partitions&partition={quote(partition, safe='')}"

    def runbook(self, section: str) -> str:
        """A section of the operations page."""
        path = runbook_path(section)
        return path if self.docs_url is None else hosted(path, self.docs_url)

    def adapted(self, text: str) -> str:
        """Our text with its commands as the reader types them; adapting it again changes nothing."""
        more = self.command.removeprefix(COMMAND)
        return re.sub(rf"\b{COMMAND}(?= )(?!{re.escape(more)} )", lambda _: self.command, text) if more else text
