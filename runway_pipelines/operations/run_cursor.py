"""Which ended runs have been looked at: pure.

No timestamp separates these runs from the others. The clock of a run's own process stamps its end, which is stored a
moment later, so runs do not appear in the order of their ends; several end at one instant; and a tag updates a run long
after its end. The cursor therefore goes by the end, not the update, and remembers each run it looked at by its id,
above a floor that stays `OVERLAP_SECONDS` behind the newest of them. The clock of the sensor's own process only holds
the floor back. If the floor followed that clock, and it were a year fast for one tick, operators would hear nothing for
a year.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Self

import orjson

# How late a run's end may appear: AWS refuses requests signed by a clock that is five minutes off, so a working process
# is off by less, and storing takes seconds.
OVERLAP_SECONDS = 600.0


@dataclass(frozen=True)
class RunCursor:
    """Runs that ended by ``floor`` (epoch seconds) are done, and so are the later ones in ``seen`` (id to end)."""

    floor: float
    seen: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str | None) -> Self | None:
        """Read the result of `to_json`; None for any other text, or none."""
        try:
            document = orjson.loads(text or "")
            return cls(float(document["floor"]), {str(run): float(end) for run, end in document["seen"].items()})
        except (ValueError, KeyError, TypeError, AttributeError):
            return None

    def to_json(self) -> str:
        """As Dagster keeps it."""
        return orjson.dumps({"floor": self.floor, "seen": dict(self.seen)}).decode()

    def without_future(self, now: float) -> Self:
        """The same, unless a fast clock set the floor: then it is `OVERLAP_SECONDS` before now."""
        return self if self.floor <= now + OVERLAP_SECONDS else type(self)(now - OVERLAP_SECONDS, self.seen)

    def is_new(self, run_id: str, ended: float) -> bool:
        """Whether the run that ended then has not been looked at."""
        return ended > self.floor and run_id not in self.seen

    def advanced(self, looked_at: Mapping[str, float], left: Iterable[float], now: float) -> Self:
        """The cursor after a tick: the runs it ``looked_at`` (id to end), and the ends of those it ``left``."""
        seen = {**self.seen, **looked_at}
        newest = max(seen.values(), default=self.floor)
        floor = max(self.floor, min([now, newest, *left]) - OVERLAP_SECONDS)
        return type(self)(floor, {run_id: ended for run_id, ended in seen.items() if ended > floor})
