"""Which ended runs have been looked at: pure.

No timestamp separates those that have from those that have not. A run's end is stamped by the clock of its own process
and stored a moment later, so runs do not come into sight in the order of their ends; several end at one instant; and a
tag that is put on a run updates it long after it ended. So it is the end that counts, not the update, and above a
floor that stays `OVERLAP_SECONDS` behind, each run that was looked at is remembered by its id.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Self

import orjson

# How late a run's end may come into sight: AWS refuses what a clock signs that is five minutes off, so no process that
# works is more, and storing takes seconds.
OVERLAP_SECONDS = 600.0


@dataclass(frozen=True)
class RunCursor:
    """All that ended at or before ``floor`` (epoch seconds) is done; of what ended later, ``seen``: run id to end."""

    floor: float
    seen: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str | None) -> Self | None:
        """What `to_json` made; None for nothing, or for a text that is no cursor."""
        try:
            document = orjson.loads(text or "")
            return cls(float(document["floor"]), {str(run): float(end) for run, end in document["seen"].items()})
        except (ValueError, KeyError, TypeError, AttributeError):
            return None

    def to_json(self) -> str:
        """As Dagster keeps it."""
        return orjson.dumps({"floor": self.floor, "seen": dict(self.seen)}).decode()

    def is_new(self, run_id: str, ended: float) -> bool:
        """Whether the run that ended then has not been looked at."""
        return ended > self.floor and run_id not in self.seen

    def advanced(self, looked_at: Mapping[str, float], left: Iterable[float], now: float) -> Self:
        """The cursor after a tick that looked at some runs (id to end) and left others for later (their ends)."""
        floor = max(self.floor, min([now, *left]) - OVERLAP_SECONDS)
        seen = {**self.seen, **looked_at}
        return type(self)(floor, {run_id: ended for run_id, ended in seen.items() if ended > floor})
