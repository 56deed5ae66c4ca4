"""The stream's Prometheus metrics: sources, outcomes, sizes and times; no partner, tenant or student."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)

CONTENT_TYPE = CONTENT_TYPE_LATEST
_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)


class Metrics:
    """The metrics of one server."""

    def __init__(
        self,
        *,
        sessions_in_use: Callable[[], int],
        sessions_idle: Callable[[], int],
        persons_bytes: Callable[[], int] = lambda: 0,
    ) -> None:
        # The time at which a counter began is useless, and doubles the text.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._registry = CollectorRegistry()
        named: Any = {"namespace": "roster_stream", "registry": self._registry}
        self.requests = Counter("requests", "Requests by route and status.", ("route", "status"), **named)
        self.refused = Counter("refused_tokens", "Requests without a valid token, by reason.", ("reason",), **named)
        self.pulls = Counter("pulls", "Rosters that began, by source and ending.", ("source", "ended"), **named)
        self.bytes = Counter("sent_bytes", "Bytes of rosters handed to clients.", ("source",), **named)
        self.damaged = Counter(
            "damaged_snapshots",
            "Pulls that met a damaged snapshot: found by its bytes (torn), or known from an earlier one.",
            ("met",),
            **named,
        )
        self.in_flight = Gauge("pulls_in_flight", "Pulls whose thread is working or waiting.", **named)
        self.first_byte = Histogram(
            "first_byte_seconds", "From the request to the first byte.", ("source",), buckets=_SECONDS, **named
        )
        self.seconds = Histogram("pull_seconds", "From the request to its end.", ("source",), buckets=_SECONDS, **named)
        self.resolutions = Counter("resolutions", "Files of candidates, by ending.", ("ended",), **named)
        self.resolution_seconds = Histogram(
            "resolution_seconds", "From the request to its end.", buckets=_SECONDS, **named
        )
        persons = Gauge("persons_bytes", "Memory of the students that are kept for the next file.", **named)
        persons.set_function(persons_bytes)
        sessions = Gauge("snowflake_sessions", "Open Snowflake sessions.", ("state",), **named)
        sessions.labels("in_use").set_function(sessions_in_use)
        sessions.labels("idle").set_function(sessions_idle)

    def text(self) -> bytes:
        """All of them, in Prometheus' text format."""
        return generate_latest(self._registry)
