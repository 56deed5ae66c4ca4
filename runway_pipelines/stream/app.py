"""The stream as an ASGI application: its routes, its authorization, and what lives as long as the process."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from functools import partial
from importlib.resources import files
from threading import Thread
from typing import TYPE_CHECKING

from starlette.exceptions import HTTPException
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, Router

from runway_pipelines.errors import RunwayError
from runway_pipelines.stream.board_route import PATH as BOARD_PATH
from runway_pipelines.stream.board_route import BoardRoute
from runway_pipelines.stream.choosing import SourceChooser
from runway_pipelines.stream.limits import BlockingCalls, Places, in_thread
from runway_pipelines.stream.metrics import CONTENT_TYPE, Metrics
from runway_pipelines.stream.persons_cache import PersonsCache
from runway_pipelines.stream.pools import EVICTION_SECONDS, PartnerPools
from runway_pipelines.stream.refusals import Guard, Refusal, failed, forbidden, refused, unauthorized, unrouted
from runway_pipelines.stream.resolution_route import ResolutionRoute
from runway_pipelines.stream.roster_route import RosterRoute
from runway_pipelines.stream.runs import (
    API_PREFIX,
    CROSS_YEAR_PATH,
    RESOLUTIONS_PATH,
    ROSTER_PATH,
    RunTenant,
    find_run,
    job_payload,
)
from runway_pipelines.stream.streaming import Patience
from runway_pipelines.stream.tokens import TokenKeys, TokenOfAnotherRun, TokenRefused, TokenRules, token_keys
from runway_pipelines.systems.aws.secrets_manager import read_secret
from runway_pipelines.systems.core_files import forbid_core_files
from runway_pipelines.systems.snowflake.resource import snowflake_resource

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from runway_pipelines.rosters.services import RosterServices
    from runway_pipelines.settings import Settings

log = logging.getLogger(__name__)
_OPENAPI = files("runway_pipelines.stream").joinpath("openapi.json").read_bytes()


def build_app(settings: Settings, services: RosterServices) -> ASGIApp:
    """The application for these settings; raises `ConfigurationError` if no token could be verified."""
    key = settings.stream.token_key.get_secret_value() if settings.stream.token_key else None
    read = partial(read_secret, services.secrets.client)
    keys = token_keys(settings.stream.token_secret, key, read, encoding=settings.stream.token_secret_encoding)
    return StreamApi(settings, services, keys).app()


class StreamApi:
    """The routes, and what they share."""

    def __init__(self, settings: Settings, services: RosterServices, keys: TokenKeys) -> None:
        self._services = services
        self._base_url = settings.stream.url
        self._keys = keys
        self._call = BlockingCalls()
        self._rules = TokenRules(settings.stream.token_audience, settings.stream.token_run_claim)
        self._pools = PartnerPools(
            services.secrets,
            services.snowflake,
            size=settings.stream.sessions_per_partner,
            acquire_seconds=settings.stream.acquire_seconds,
        )
        self._persons = PersonsCache(timedelta(minutes=settings.resolution.persons_minutes))
        self._metrics = Metrics(
            sessions_in_use=lambda: self._pools.count(lambda pool: pool.sessions_in_use),
            sessions_idle=lambda: self._pools.count(lambda pool: pool.sessions_idle),
            persons_bytes=lambda: self._persons.nbytes,
        )
        patience = Patience(settings.stream.stall_seconds, settings.stream.least_bytes_per_second)
        chooser = SourceChooser(
            services.store,
            self._pools,
            self._metrics,
            fresh_for=timedelta(hours=settings.stream.snapshot_hours),
            guards=services.policy.guards.guards,
        )
        self._rosters = RosterRoute(
            chooser,
            services.store,
            self._pools,
            self._metrics,
            self._call,
            Places(settings.stream.most_pulls, settings.stream.most_pulls_per_partner),
            patience,
            acquire_seconds=settings.stream.acquire_seconds,
            fillers=settings.rosters.fillers,
        )
        if settings.resolution.partners:
            forbid_core_files()
        self._resolutions = ResolutionRoute(
            self._pools,
            self._persons,
            self._metrics,
            self._call,
            patience,
            is_on=settings.resolution.partners.__contains__,
            acquire_seconds=settings.stream.acquire_seconds,
        )
        token = settings.stream.board_token.get_secret_value() if settings.stream.board_token else ""
        self._board = BoardRoute(services.store, self._metrics, self._call, token) if token else None

    def app(self) -> ASGIApp:
        """The routes, inside the layers that count answers and contain exceptions."""
        router = Router(
            [
                *(  # GET, and HEAD, which Starlette adds
                    Route(prefix + path, endpoint, methods=["GET"])
                    for prefix in (API_PREFIX, "")
                    for path, endpoint in ((ROSTER_PATH, self._roster), (CROSS_YEAR_PATH, self._cross_year))
                ),
                *(Route(prefix + RESOLUTIONS_PATH, self._resolve, methods=["POST"]) for prefix in (API_PREFIX, "")),
                Route("/healthz", self._health, methods=["GET"]),
                Route("/readyz", self._readiness, methods=["GET"]),
                Route("/metrics", self._metrics_text, methods=["GET"]),
                Route("/openapi.json", self._document, methods=["GET"]),
                *([Route(BOARD_PATH, self._board_page, methods=["GET"])] if self._board else []),
            ],
            redirect_slashes=False,
            lifespan=self._lifespan,
        )
        handlers = {Refusal: refused, HTTPException: unrouted, RunwayError: failed}
        # Not the class Starlette: its outermost layer answers, and then lets the exception through.
        return _Counted(Guard(ExceptionMiddleware(router, handlers=handlers)), self._metrics)

    async def _roster(self, request: Request) -> Response:
        return await self._rosters.answer(request, await self._authorized_run(request))

    async def _resolve(self, request: Request) -> Response:
        return await self._resolutions.answer(request, await self._authorized_run(request))

    async def _cross_year(self, request: Request) -> Response:
        run = await self._authorized_run(request)
        # A proxy may pass on only one of the two addresses, so answer with the one that this request came by.
        prefix = API_PREFIX if request.url.path.startswith(f"{API_PREFIX}/") else ""
        base_url = self._base_url or str(request.base_url).rstrip("/") + prefix
        payload = await self._call(lambda: job_payload(self._pools.can_connect, run, base_url=base_url))
        return JSONResponse(payload, headers={"Cache-Control": "no-store"})

    async def _authorized_run(self, request: Request) -> RunTenant:
        """The path's run, if the request's token is for it."""
        runway_run_id = request.path_params["run_id"]
        keys = await self._call(self._keys)
        try:
            self._rules.check(request.headers.get("authorization"), runway_run_id, keys)
        except TokenRefused as refusal:
            self._metrics.refused.labels(refusal.reason).inc()
            raise forbidden() if isinstance(refusal, TokenOfAnotherRun) else unauthorized() from None
        run = await self._call(find_run, self._services.database, runway_run_id)
        if run is None:
            raise Refusal(404, "unknown_run", "There is no such run.")
        return run

    async def _board_page(self, request: Request) -> Response:
        assert self._board is not None  # noqa: S101 - there is no route without it
        return await self._board.answer(request)

    async def _health(self, request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def _readiness(self, request: Request) -> Response:
        """Whether a pull could be answered; both systems are asked now, concurrently."""
        database, bucket = await asyncio.gather(
            self._state("the database", self._reach_database), self._state("the bucket", self._services.store.reach)
        )
        is_ready = database == bucket == "ok"
        return JSONResponse({"database": database, "bucket": bucket}, 200 if is_ready else 503)

    async def _state(self, what: str, reach: Callable[[], None]) -> str:
        try:
            await self._call(reach)
        except RunwayError as error:
            log.warning("not ready: %s: %s", what, error)
            return "failed"
        return "ok"

    def _reach_database(self) -> None:
        with self._services.database.connection() as connection:
            connection.execute("select 1")

    async def _metrics_text(self, request: Request) -> Response:
        return Response(self._metrics.text(), headers={"Content-Type": CONTENT_TYPE})

    async def _document(self, request: Request) -> Response:
        return Response(_OPENAPI, media_type="application/json")

    def _evict(self) -> None:
        self._persons.evict()
        self._pools.evict_idle()

    @asynccontextmanager
    async def _lifespan(self, app: Router) -> AsyncIterator[None]:
        """Evict idle sessions and old persons while the server runs; drain the pools once nothing is in flight."""
        # Imported early: the first warehouse pull would wait for it.
        Thread(target=snowflake_resource, name="import", daemon=True).start()
        evicting = asyncio.create_task(_every(EVICTION_SECONDS, self._evict))
        try:
            yield
        finally:
            evicting.cancel()
            with suppress(asyncio.CancelledError):
                await evicting
            await in_thread(self._pools.close)  # not queued behind calls that hang


class _Counted:
    """Counts answers by route and status; unknown paths share one label."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._requests = metrics.requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def count(message: Message) -> None:
            if message["type"] == "http.response.start":
                route = getattr(scope.get("endpoint"), "__name__", "none").strip("_")
                self._requests.labels(route, message["status"]).inc()
            await send(message)

        await self._app(scope, receive, count)


async def _every(seconds: float, work: Callable[[], object]) -> None:
    while True:
        await asyncio.sleep(seconds)
        try:
            await in_thread(work)
        except Exception as error:  # noqa: BLE001 - the next eviction must still happen
            log.error("evicting idle sessions failed: %s", type(error).__name__)
