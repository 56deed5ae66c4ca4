"""Answers without a roster: a status, a word for machines and a sentence, none of which quotes anything."""

from __future__ import annotations

import logging
import re
import traceback
import uuid
from collections.abc import Mapping
from typing import TYPE_CHECKING

from starlette.responses import JSONResponse

from runway_pipelines.errors import RunwayError
from runway_pipelines.systems.disk import machine_trouble, temporary_folder

if TYPE_CHECKING:
    from starlette.exceptions import HTTPException
    from starlette.requests import Request
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from runway_pipelines.partner_tenants.keys import PartnerTenant
    from runway_pipelines.stream.runs import RunTenant

log = logging.getLogger(__name__)


class Refusal(Exception):
    """The request ends with this answer."""

    def __init__(self, status: int, error: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(error)
        self.status = status
        self.error = error
        self.message = message
        self.headers = headers


def unauthorized() -> Refusal:
    """The same answer for every reason: without a good token, nobody learns anything about runs."""
    return Refusal(
        401,
        "unauthorized",
        "A bearer token for this run is required.",
        {"WWW-Authenticate": 'Bearer error="invalid_token"'},
    )


def tenant_of(run: RunTenant) -> PartnerTenant:
    """The run's tenant; raises `Refusal` if it can have no roster, or has none."""
    if run.unusable is not None:
        raise Refusal(409, "unusable_code", f"The run's tenant can have no cross-year roster: {run.unusable}.")
    if run.tenant is None:
        raise Refusal(409, "cross_year_matching_is_off", "The run's tenant has no cross-year roster.")
    return run.tenant


def forbidden() -> Refusal:
    """A good token opens its own run. The answer does not tell whether the run that was asked for exists."""
    return Refusal(
        403,
        "token_of_another_run",
        "The bearer token is for another run.",
        {"WWW-Authenticate": 'Bearer error="insufficient_scope"'},
    )


def refused(request: Request, refusal: Exception) -> JSONResponse:
    """Handles `Refusal`."""
    said: Refusal = refusal  # type: ignore[assignment]
    return _answer(said.status, said.error, said.message, said.headers)


def unrouted(request: Request, error: Exception) -> JSONResponse:
    """Handles Starlette's 404 and 405."""
    refusal: HTTPException = error  # type: ignore[assignment]
    word = re.sub(r"\W+", "_", refusal.detail.lower())
    return _answer(refusal.status_code, word, f"{refusal.detail}.", refusal.headers)


def failed(request: Request | None, error: Exception) -> JSONResponse:
    """A 500 whose reference leads to the reason in the log: the reason names accounts, so it stays there."""
    path = "a request" if request is None else request.url.path
    reference = uuid.uuid4().hex[:12]
    error = error if isinstance(error, RunwayError) else machine_trouble(error, temporary_folder()) or error
    if isinstance(error, RunwayError):
        log.error("%s failed: %s (reference %s)", path, error, reference)
    else:
        # Its text may quote a row or a token; its traceback does not.
        place = "".join(traceback.format_tb(error.__traceback__))
        log.error("%s failed: unexpected %s (reference %s) at\n%s", path, type(error).__name__, reference, place)
    return _answer(500, _word(error), f"The server's log says why, under the reference {reference}.", None)


def _word(error: Exception) -> str:
    """The error's class in snake case; clients read ``credentials_`` for a partner's ``secret_``."""
    if not isinstance(error, RunwayError):
        return "defect"
    word = re.sub(r"(?<!^)(?=[A-Z])", "_", type(error).__name__).lower()
    return word.replace("secret_", "credentials_")


def _answer(status: int, error: str, message: str, headers: Mapping[str, str] | None) -> JSONResponse:
    return JSONResponse(
        {"error": error, "message": message}, status, headers={"Cache-Control": "no-store", **(headers or {})}
    )


class Guard:
    """The outermost layer: keeps exceptions from uvicorn, which would log their texts.

    Before the first byte the answer is a 500; after it, the response stays incomplete and uvicorn hangs up.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        scope["app"] = self  # without it, Starlette's router answers 404 and 405 itself, as text
        is_started = False

        async def note(message: Message) -> None:
            nonlocal is_started
            is_started = True
            await send(message)

        try:
            await self._app(scope, receive, note)
        except Exception as error:  # noqa: BLE001
            answer = failed(None, error)
            if not is_started:
                await answer(scope, receive, send)
