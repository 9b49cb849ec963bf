"""The HTTP service: any client of OpenAI's images API draws with the runs of this machine."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from fastapi import FastAPI, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from deployments.service import routes
from deployments.service.engine import QueueItem
from deployments.service.errors import ApiError, answer_in_openais_shape, documented
from deployments.service.middleware import Middleware
from deployments.service.options import ServiceOptions
from deployments.service.state import ServiceState, service_state
from deployments.service.tracing import TELEMETRY
from naruto_core.continuous_batching import Order
from naruto_core.errors import NarutoError
from naruto_core.settings import Settings

_log = logging.getLogger("naruto.service")


def create_app(settings: Settings, options: ServiceOptions) -> FastAPI:
    """The app; the record is opened now, models are loaded when it starts."""
    parts = service_state(settings, options)

    @asynccontextmanager
    async def living(_: FastAPI) -> AsyncIterator[None]:
        parts.engine.start()
        tasks = [asyncio.create_task(work(parts)) for work in (_warm, _sweep, _watch)]
        try:
            yield
        finally:
            parts.ready = False
            for task in tasks:
                task.cancel()
            if parts.watching:
                await asyncio.to_thread(parts.watching.stop)
            drained = await asyncio.to_thread(parts.engine.stop, options.drain_seconds)
            await parts.jobs.close()
            _log.info("stopped", extra={"drained": drained})

    app = FastAPI(
        title="naruto-sdxl", version="1", lifespan=living, openapi_url="/openapi.json", redoc_url=None,
        description="OpenAI's images API over the runs of this machine.", telemetry=TELEMETRY,
    )  # fmt: skip
    app.state.parts = parts
    app.include_router(routes.router)
    _add_health(app, parts)
    answer_in_openais_shape(app)
    app.add_middleware(Middleware, metrics=parts.metrics)
    return app


def _add_health(app: FastAPI, parts: ServiceState) -> None:
    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        """The process answers."""
        return {"status": "ok"}

    @app.get("/readyz", responses=documented(503))
    async def readyz() -> dict[str, str]:
        """The usual model is loaded and has drawn; pictures come without waiting for that."""
        if not parts.ready:
            raise ApiError(503, "The model is not loaded yet, or there is none.", code="not_ready", wait=2)
        return {"status": "ready"}

    @app.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    async def metrics() -> Response:
        """For Prometheus."""
        return Response(generate_latest(parts.metrics.registry), media_type=CONTENT_TYPE_LATEST)

    @app.get("/", include_in_schema=False)
    async def root() -> JSONResponse:
        return JSONResponse({"service": "naruto-sdxl", "docs": "/docs", "models": "/v1/models"})


async def _warm(parts: ServiceState) -> None:
    """Draw one step with the usual model as soon as there is one, so that the first request need not load it."""
    while not parts.ready:
        with suppress(ApiError):
            look = await asyncio.to_thread(parts.catalogue.look, None)
            loop, ended = asyncio.get_running_loop(), asyncio.Event()
            trouble: list[str] = []

            def done(_: object, loop: asyncio.AbstractEventLoop = loop, ended: asyncio.Event = ended) -> None:
                loop.call_soon_threadsafe(ended.set)

            def failed(why: str, trouble: list[str] = trouble, done: object = done) -> None:
                trouble.append(why)
                done(why)  # type: ignore[operator]

            side = look.section.resolution
            order = Order("", 0, "", 1, look.section.guidance_scale)
            parts.engine.submit([QueueItem(look, side, side, order, lambda _: None, done, failed)])
            await ended.wait()
            parts.ready = not trouble
            _log.info("ready" if parts.ready else "the usual model cannot be loaded", extra={"model": look.name})
        await asyncio.sleep(2)


async def _sweep(parts: ServiceState) -> None:
    while True:
        await asyncio.to_thread(parts.files.sweep)
        await asyncio.sleep(60)


async def _watch(parts: ServiceState) -> None:
    """Keep the measuring process alive, and tell Prometheus what was last said of the pictures."""
    while parts.watching:
        await asyncio.to_thread(parts.watching.keep_going)
        with suppress(NarutoError):
            parts.metrics.tell_drifts(await asyncio.to_thread(parts.served.drifts))
        await asyncio.sleep(30)
