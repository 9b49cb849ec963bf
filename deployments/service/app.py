"""The FastAPI app: its routes, its health checks, and what runs beside them from start to shutdown."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

from fastapi import Depends, FastAPI, Response
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse, JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from deployments.service import routes
from deployments.service.engine import QueueItem
from deployments.service.errors import ApiError, add_error_handlers, error_responses
from deployments.service.keys import page_reader
from deployments.service.middleware import Middleware
from deployments.service.model_registry import ModelSpec
from deployments.service.options import ServiceOptions
from deployments.service.state import ServiceState, service_state
from deployments.service.tracing import TELEMETRY
from naruto_core.artifacts import Layout
from naruto_core.continuous_batching import Order
from naruto_core.errors import NarutoError
from naruto_core.settings import Settings
from naruto_core.store.deletion import prune_cache

_log = logging.getLogger("naruto.service")


def create_app(settings: Settings, options: ServiceOptions) -> FastAPI:
    """The app. Opens the database now, see `service_state`; models are loaded when the app starts."""
    state = service_state(settings, options)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        state.engine.start()
        loops = (_warm_up, _delete_expired_images, _prune, _supervise_quality_worker)
        tasks = [asyncio.create_task(loop(state)) for loop in loops]
        try:
            yield
        finally:
            state.ready = False
            for task in tasks:
                task.cancel()
            if state.quality_worker:
                await asyncio.to_thread(state.quality_worker.stop)
            drained = await asyncio.to_thread(state.engine.stop, options.drain_seconds)
            await state.jobs.close()
            _log.info("stopped", extra={"drained": drained})

    app = FastAPI(
        title="naruto-sdxl", version="1", lifespan=lifespan, openapi_url=None, docs_url=None, redoc_url=None,
        redirect_slashes=False,  # a redirect would go to the host that the client wrote
        description="OpenAI's images API for the runs of this machine.", telemetry=TELEMETRY,
    )  # fmt: skip
    app.state.service = state
    app.include_router(routes.router)
    _add_health_routes(app, state)
    _add_pages(app, state)
    add_error_handlers(app)
    app.add_middleware(Middleware, metrics=state.metrics)
    return app


def _add_health_routes(app: FastAPI, state: ServiceState) -> None:
    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        """The process answers."""
        return {"status": "ok"}

    @app.get("/readyz", responses=error_responses(503))
    async def readyz() -> dict[str, str]:
        """The default model is loaded and has drawn: a request does not wait for that any more."""
        if not state.ready:
            raise ApiError(503, "The model is not loaded yet, or there is none.", code="not_ready", wait=2)
        return {"status": "ready"}

    @app.get("/", include_in_schema=False)
    async def root() -> JSONResponse:
        return JSONResponse({"service": "naruto-sdxl", "docs": "/docs", "models": "/v1/models"})


def _add_pages(app: FastAPI, state: ServiceState) -> None:
    """Metrics and documentation; `page_reader` says who may read them."""
    needs_key = [Depends(page_reader)]
    responses = {200: {"content": {"text/plain": {}}}, **error_responses(401, 503)}

    @app.get("/metrics", response_class=Response, dependencies=needs_key, responses=responses)
    async def metrics() -> Response:
        """Metrics for Prometheus."""
        return Response(generate_latest(state.metrics.registry), media_type=CONTENT_TYPE_LATEST)

    @app.get("/openapi.json", include_in_schema=False, dependencies=needs_key)
    async def schema() -> JSONResponse:
        return JSONResponse(app.openapi())

    @app.get("/docs", include_in_schema=False, dependencies=needs_key)
    async def documentation() -> HTMLResponse:
        return get_swagger_ui_html(openapi_url="/openapi.json", title=app.title)


async def _warm_up(state: ServiceState) -> None:
    """Load the default model as soon as there is one, so that the first request does not wait for it."""
    while not state.ready:
        try:
            spec = await asyncio.to_thread(state.registry.spec, None)
            state.ready = await _draw_one_step(state, spec)
            message = "ready" if state.ready else "the default model cannot be loaded"
            _log.info(message, extra={"model": spec.name})
        except ApiError:
            pass  # there is no run yet, or the queue is full
        except (NarutoError, OSError) as error:  # its files may be mended, or another run promoted
            _log.warning("the default model cannot be loaded: %s", error)
        await asyncio.sleep(2)


async def _draw_one_step(state: ServiceState, spec: ModelSpec) -> bool:
    """Whether a picture of one step can be drawn with the model."""
    loop = asyncio.get_running_loop()
    drawn: asyncio.Future[bool] = loop.create_future()

    def report(result: bool) -> None:
        loop.call_soon_threadsafe(lambda: drawn.done() or drawn.set_result(result))

    side = spec.section.resolution
    order = Order("", 0, "", 1, spec.section.guidance_scale)
    item = QueueItem(
        spec, side, side, order,
        on_step=lambda _: None, on_picture=lambda _: report(True), on_failure=lambda _: report(False),
    )  # fmt: skip
    state.engine.submit([item])
    return await drawn


async def _delete_expired_images(state: ServiceState) -> None:
    while True:
        try:
            await asyncio.to_thread(state.image_files.delete_expired)
        except (NarutoError, OSError) as error:
            _log.warning("expired pictures could not be deleted: %s", error)
        await asyncio.sleep(60)


async def _prune(state: ServiceState) -> None:
    """Delete the oldest requests, scores of served pictures and cached files, every hour."""
    while True:
        options, now = state.options, datetime.now(UTC)
        try:
            jobs = await asyncio.to_thread(
                state.job_store.prune, now - timedelta(days=options.job_days), options.most_jobs
            )
            scores = await asyncio.to_thread(
                state.served_scores.prune, now - timedelta(days=options.score_days), options.most_scores
            )
            most = state.settings.cache_gib * 2**30
            files = await asyncio.to_thread(prune_cache, Layout(state.settings.root), most)
            if jobs or scores or files:
                _log.info("deleted what was old", extra={"jobs": jobs, "scores": scores, "cached_files": files})
        except (NarutoError, OSError) as error:
            _log.warning("what is old could not be deleted: %s", error)
        await asyncio.sleep(3600)


async def _supervise_quality_worker(state: ServiceState) -> None:
    """Keep the quality worker running, and export the results of its last drift check."""
    while state.quality_worker:
        try:
            await asyncio.to_thread(state.quality_worker.ensure_running)
            state.metrics.set_drifts(await asyncio.to_thread(state.served_scores.drifts))
        except (NarutoError, OSError) as error:
            _log.warning("the quality of served pictures is not measured: %s", error)
        await asyncio.sleep(30)
