"""``/board``: the page that the pipeline left in the bucket, for whoever shows the board's own token."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.responses import Response

from runway_pipelines.rosters.board_page import CONTENT_SECURITY_POLICY
from runway_pipelines.rosters.manifest import BOARD_KEY
from runway_pipelines.stream.board_access import checked_token, opens
from runway_pipelines.stream.refusals import Refusal

if TYPE_CHECKING:
    from starlette.requests import Request

    from runway_pipelines.stream.limits import BlockingCalls
    from runway_pipelines.stream.metrics import Metrics
    from runway_pipelines.systems.aws.object_store import ObjectStore

PATH = "/board"
# The page is made elsewhere, so the server repeats the page's policy. A frame or a cache could show it to others.
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": f"{CONTENT_SECURITY_POLICY}; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
}


class BoardRoute:
    """Reads the page anew for each request: it is one small object, and nobody has to know when it was made."""

    def __init__(self, store: ObjectStore, metrics: Metrics, call: BlockingCalls, token: str) -> None:
        """Raises `ConfigurationError` for a token that could be guessed."""
        self._store = store
        self._metrics = metrics
        self._call = call
        self._token = checked_token(token)

    async def answer(self, request: Request) -> Response:
        """The page; raises `Refusal` without the token, and before the first page was made."""
        if not opens(request.headers.get("authorization"), self._token):
            self._metrics.refused.labels("board").inc()
            raise Refusal(
                401,
                "unauthorized",
                "The board's token is required: as a bearer, or as the password.",
                {"WWW-Authenticate": 'Basic realm="Roster board", charset="UTF-8"'},
            )
        stored = await self._call(self._store.read, BOARD_KEY)
        if stored is None:
            raise Refusal(
                404,
                "no_board_yet",
                "The board was not made yet: roster_board_sensor makes it within a tick once Dagster's daemon runs.",
            )
        return Response(stored.body, media_type="text/html", headers=HEADERS)
