"""The stream as an ASGI application: its routes, who may ask, and what lives as long as the process does."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from functools import partial
from threading import Thread
from typing import TYPE_CHECKING

from starlette.exceptions import HTTPException
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, Router

from runway_pipelines.errors import RunwayError
from runway_pipelines.stream.blocking import BlockingCalls, in_thread
from runway_pipelines.stream.metrics import CONTENT_TYPE, Metrics
from runway_pipelines.stream.openapi import document
from runway_pipelines.stream.payload import CROSS_YEAR_PATH, ROSTER_PATH, job_payload
from runway_pipelines.stream.places import Places
from runway_pipelines.stream.pools import EVICTION_SECONDS, PartnerPools
from runway_pipelines.stream.refusals import Guard, Refusal, failed, refused, unauthorized, unrouted
from runway_pipelines.stream.roster_route import RosterRoute
from runway_pipelines.stream.runs import RunTenant, find_run
from runway_pipelines.stream.streaming import Patience
from runway_pipelines.stream.token_keys import TokenKeys, token_keys
from runway_pipelines.stream.tokens import TokenRefused, TokenRules
from runway_pipelines.systems.aws.secrets_manager import read_secret

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from runway_pipelines.rosters.services import RosterServices
    from runway_pipelines.settings import Settings

log = logging.getLogger(__name__)


def build_app(settings: Settings, services: RosterServices) -> ASGIApp:
    """The application for these settings; raises `ConfigurationError` where it could let nobody in."""
    return StreamApi(settings, services, token_keys(settings, partial(read_secret, services.secrets.client))).app()


class StreamApi:
    """What the routes share."""

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
        self._metrics = Metrics(
            sessions_in_use=lambda: self._pools.count(lambda pool: pool.sessions_in_use),
            sessions_idle=lambda: self._pools.count(lambda pool: pool.sessions_idle),
        )
        self._rosters = RosterRoute(
            services.store,
            self._pools,
            self._metrics,
            self._call,
            Places(settings.stream.most_pulls, settings.stream.most_pulls_per_partner),
            Patience(settings.stream.stall_seconds, settings.stream.least_bytes_per_second),
            fresh_for=timedelta(hours=settings.stream.snapshot_hours),
            acquire_seconds=settings.stream.acquire_seconds,
        )

    def app(self) -> ASGIApp:
        """The routes, within what counts and what keeps exceptions in."""
        router = Router(
            [
                Route(ROSTER_PATH, self._roster, methods=["GET"]),  # and HEAD, which Starlette adds
                Route(CROSS_YEAR_PATH, self._cross_year, methods=["GET"]),
                Route("/healthz", self._health, methods=["GET"]),
                Route("/readyz", self._readiness, methods=["GET"]),
                Route("/metrics", self._metrics_text, methods=["GET"]),
                Route("/openapi.json", self._document, methods=["GET"]),
            ],
            redirect_slashes=False,
            lifespan=self._lifespan,
        )
        handlers = {Refusal: refused, HTTPException: unrouted, RunwayError: failed}
        # Not the class Starlette, whose outermost layer answers by itself and then lets the exception through.
        return _Counted(Guard(ExceptionMiddleware(router, handlers=handlers)), self._metrics)

    async def _roster(self, request: Request) -> Response:
        return await self._rosters.answer(request, await self._authorized_run(request))

    async def _cross_year(self, request: Request) -> Response:
        run = await self._authorized_run(request)
        base_url = self._base_url or str(request.base_url)
        payload = await self._call(lambda: job_payload(self._pools.can_connect, run, base_url=base_url))
        return JSONResponse(payload, headers={"Cache-Control": "no-store"})

    async def _authorized_run(self, request: Request) -> RunTenant:
        """The run of the path, if the request's token is for it."""
        runway_run_id = request.path_params["run_id"]
        keys = await self._call(self._keys)
        try:
            self._rules.check(request.headers.get("authorization"), runway_run_id, keys)
        except TokenRefused as refusal:
            self._metrics.refused.labels(refusal.reason).inc()
            raise unauthorized() from None
        run = await self._call(find_run, self._services.database, runway_run_id)
        if run is None:
            raise Refusal(404, "unknown_run", "There is no such run.")
        return run

    async def _health(self, request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def _readiness(self, request: Request) -> Response:
        """Whether a pull could be answered: asked each time, both at once."""
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
        return JSONResponse(document())

    @asynccontextmanager
    async def _lifespan(self, app: Router) -> AsyncIterator[None]:
        """Evict idle sessions while the server runs; drain the pools when it has finished what was in flight."""
        Thread(target=_import_driver, name="import", daemon=True).start()
        evicting = asyncio.create_task(_every(EVICTION_SECONDS, self._pools.evict_idle))
        try:
            yield
        finally:
            evicting.cancel()
            with suppress(asyncio.CancelledError):
                await evicting
            await in_thread(self._pools.close)  # not behind calls that hang


class _Counted:
    """Counts answers by route and status; an unknown path is no label of its own."""

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
        except Exception as error:  # noqa: BLE001 - tomorrow's sessions must be evicted too
            log.error("idle sessions were not evicted: %s", type(error).__name__)


def _import_driver() -> None:
    """Eight CPU-seconds that the first pull of the warehouse would wait for."""
    import dagster_snowflake  # noqa: F401
