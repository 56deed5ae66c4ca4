"""The local LML with a bounded memory: ``python -m benchmarks.identity_lml --originals N [--port N]``.

Library n gets the answer of the original (n - 1) % N + 1, whose artist and title it must have. Originals are answered
and validated once, so that the benchmark measures asking, not drawing numbers.
"""

from __future__ import annotations

import argparse
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response

from runway_pipelines.local.lml_server import LmlServer, serve


def original_of(library_id: int, originals: int) -> int:
    """The original of a copy; an original is its own."""
    return (library_id - 1) % originals + 1


class PreparedLml(LmlServer):
    """Gives copies the answers of their originals. PUT /_latency says how many seconds an answer takes from now on."""

    def __init__(self, originals: int) -> None:
        super().__init__()
        self._originals = originals

    def app(self) -> Starlette:
        app = super().app()
        app.add_route("/_latency", self._set_latency, methods=["PUT"])
        return app

    async def _set_latency(self, request: Request) -> Response:
        self._latency_seconds = float(await request.json())
        return Response(status_code=204)

    def _prepare(self, each: dict[str, Any], include_tracks: bool) -> bytes:
        original = original_of(each["library_id"], self._originals)
        result = super()._prepare(each | {"library_id": original}, include_tracks)
        return result.replace(b'"library_id":%d,' % original, b'"library_id":%d,' % each["library_id"], 1)


def main() -> None:
    """Serve until told to stop."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--originals", type=int, required=True)
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one, which the readiness line names")
    options = parser.parse_args()
    serve(PreparedLml(options.originals).app(), options.port)


if __name__ == "__main__":
    main()
