"""HTTP routes: images and models as in OpenAI's API, jobs with their progress, pictures by URL."""

import asyncio
import json
import secrets
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Query, Request, Response
from fastapi.responses import FileResponse, JSONResponse, StreamingResponse

from deployments.service.errors import ApiError, error_responses
from deployments.service.idempotency import CLIENT_CLOSED_REQUEST, begin_once, lasting_reply
from deployments.service.jobs import Job, JobOptions, job_error, new_job_id
from deployments.service.keys import Caller, caller
from deployments.service.model_registry import ModelSpec
from deployments.service.options import ServiceOptions
from deployments.service.schemas import (
    ImageEvent,
    ImageReply,
    ImageRequest,
    JobReply,
    ModelReply,
    ModelsReply,
    accepted_reply,
    image_event,
    image_reply,
    job_reply,
)
from deployments.service.state import ServiceState
from naruto_core.continuous_batching import Order
from naruto_core.errors import NotRecorded
from naruto_core.picture_file import MEDIA_TYPES
from naruto_core.prompts import insert_tokens
from naruto_core.sampling import SAMPLERS
from naruto_core.serving import JobState, ServiceJob
from naruto_core.token_limit import prompt_words

router = APIRouter()
_UNCACHED = {"Cache-Control": "no-store"}


def _service_state(request: Request) -> ServiceState:
    return request.app.state.service


Client = Annotated[Caller, Depends(caller)]
State = Annotated[ServiceState, Depends(_service_state)]


@router.post(
    "/v1/images/generations",
    response_model=ImageReply,
    summary="Draw pictures",
    responses=error_responses(400, 401, 404, 408, 409, 410, 413, 415, 429, 500, 503)
    | {
        200: {"description": "The pictures; with `stream`, server-sent events.", "content": {"text/event-stream": {}}},
        202: {"model": JobReply, "description": "With the header Prefer: respond-async: the job, to be polled."},
    },
)
async def generate(
    body: ImageRequest,
    request: Request,
    client: Client,
    state: State,
    idempotency_key: Annotated[
        str | None,
        Header(min_length=1, max_length=255, description="The same key and body within a day are the same job."),
    ] = None,
) -> Response:
    """The same seed, prompt and model give the same picture, but for rounding, whatever else is drawn at the time.

    With NARUTO_SERVICE_DETERMINISM=strict its bytes are the same too.
    """
    respond_async = "respond-async" in request.headers.get("prefer", "")
    _check_reply_form(body, respond_async=respond_async, idempotent=idempotency_key is not None)
    further = [(adapter.name, adapter.weight) for adapter in body.adapters]
    spec = await asyncio.to_thread(state.registry.spec, body.model, further)
    width, height = _size(body, spec)
    orders = _orders(body, spec, state)
    if wait := state.rate_limiter.take(client.name, body.n):
        message = "This key has used its pictures of this minute."
        raise ApiError(429, message, code="rate_limit_exceeded", wait=wait)
    warning = await asyncio.to_thread(_truncation_warning, state, spec, orders[0])
    headers = {"X-Naruto-Warning": warning} if warning else {}
    record = ServiceJob(
        id=new_job_id(), instance=state.options.instance, key=client.name, model=spec.name, n=body.n, width=width,
        height=height, num_inference_steps=orders[0].num_inference_steps, seeds=[order.seed for order in orders],
        asked_at=datetime.now(UTC),
    )  # fmt: skip
    if idempotency_key is not None:
        begun = await begin_once(state, record, body, idempotency_key)
        if begun.id != record.id:
            return await lasting_reply(state, begun, body, request, warning)
    options = JobOptions(
        as_files=respond_async or body.response_format == "url" or idempotency_key is not None,
        encoding=body.encoding,
        sample_prompt=prompt_words(spec.section, body.prompt) if _drawn_as_samples(record, orders[0], spec) else "",
        warning=warning,
    )
    try:
        job = await state.jobs.submit(record, spec, orders, options)
    except ApiError as error:
        if idempotency_key is not None:  # it was begun: a repetition may be drawn
            ended = replace(record, state=JobState.FAILED, failure=error.message, finished_at=datetime.now(UTC))
            await asyncio.to_thread(state.job_store.put, ended)
        raise
    if respond_async:
        return accepted_reply(state, job.record, job, request, headers)
    if idempotency_key is not None:
        return await lasting_reply(state, job.record, body, request, warning)
    if body.stream:
        events = _image_events(state, job, body.quality)
        return StreamingResponse(events, media_type="text/event-stream", headers=headers | _UNCACHED)
    if not await _ended_before_disconnect(request, job):
        state.jobs.cancel(job)
        return Response(status_code=CLIENT_CLOSED_REQUEST)
    if job.record.state is not JobState.DONE:
        raise job_error(job.record, interrupted=job.interrupted)
    reply = image_reply(state, job.record, job.files, request, body.output_format, warning)
    return JSONResponse(reply.model_dump(exclude_none=True), headers=headers)


@router.post("/v1/images/edits", responses=error_responses(400, 401, 503), summary="Not supported")
@router.post("/v1/images/variations", responses=error_responses(400, 401, 503), summary="Not supported")
async def edit(client: Client) -> Response:
    """This service draws pictures from prompts only."""
    del client
    message = "This service draws from prompts only, it edits no pictures: use /v1/images/generations."
    raise ApiError(400, message, code="not_supported")


def _check_reply_form(body: ImageRequest, *, respond_async: bool, idempotent: bool) -> None:
    """ApiError 400 for fields of the reply's form that exclude each other."""
    faults = {
        "Idempotency-Key": (body.stream and idempotent, "Idempotency-Key: leave it out with stream: true."),
        "n": (body.stream and body.n > 1, "n: a stream has one picture."),
        "stream": (body.stream and respond_async, "stream: leave it out with the header Prefer: respond-async."),
        "response_format": (
            body.stream and body.response_format == "url",
            "response_format: a stream has its pictures in base64.",
        ),
        "partial_images": (body.partial_images and not body.stream, "partial_images: they need stream: true."),
        "output_compression": (
            body.output_format == "png" and body.output_compression < 100,
            "output_compression: a PNG has all of the picture; set output_format to jpeg or webp.",
        ),
    }
    for name, (is_fault, message) in faults.items():
        if is_fault:
            raise ApiError(400, message, param=name, code="invalid_value")


async def _image_events(state: ServiceState, job: Job, quality: str) -> AsyncIterator[str]:
    """The events of OpenAI's API: previews as they come, then the picture, or an error. A client that left cancels."""
    try:
        number = 0
        async for preview in state.jobs.previews(job):
            yield _event("image_generation.partial_image", image_event(job, preview, quality, number))
            number += 1
        if job.record.state is JobState.DONE:
            yield _event("image_generation.completed", image_event(job, job.files[0], quality))
        else:
            yield f"event: error\ndata: {json.dumps(job_error(job.record, interrupted=job.interrupted).body())}\n\n"
    finally:
        state.jobs.cancel(job)  # does nothing to a job that has ended


@router.get("/v1/models", response_model=ModelsReply, responses=error_responses(401, 503))
def list_models(client: Client, state: State) -> ModelsReply:
    """The champion, every finished run, and the base model."""
    del client
    return ModelsReply(data=_model_replies(state))


@router.get("/v1/models/{model}", response_model=ModelReply, responses=error_responses(400, 401, 404, 503))
def read_model(model: str, client: Client, state: State) -> ModelReply:
    """One model of the list."""
    del client
    for reply in _model_replies(state):
        if reply.id == model:
            return reply
    raise ApiError(404, "There is no such model; see /v1/models.", param="model", code="model_not_found")


def _model_replies(state: ServiceState) -> list[ModelReply]:
    return [
        ModelReply(id=entry.id, created=int(entry.created_at.timestamp()), owned_by=entry.run_id or "naruto")
        for entry in state.registry.entries()
    ]


def _size(body: ImageRequest, spec: ModelSpec) -> tuple[int, int]:
    """(width, height) in pixels; ApiError 400 for a size that the model cannot draw."""
    resolution = spec.section.resolution
    if body.size == "auto":
        return resolution, resolution
    width, height = (int(side) for side in body.size.split("x"))
    if width % 8 or height % 8 or not 16 <= min(width, height) <= max(width, height) <= 2 * resolution:
        raise ApiError(
            400,
            f"size: {width}x{height} cannot be drawn: sides must be multiples of 8 from 16 to {2 * resolution}.",
            param="size", code="invalid_value",
        )  # fmt: skip
    return width, height


def _orders(body: ImageRequest, spec: ModelSpec, state: ServiceState) -> list[Order]:
    """An order for each picture, with the run's own settings as defaults; ApiError 400 for what is not allowed."""
    section = spec.section
    negative = section.negative_prompt if body.negative_prompt is None else body.negative_prompt
    default_steps = max(1, section.num_inference_steps // 2) if body.quality == "low" else section.num_inference_steps
    steps = body.steps or default_steps
    for name, prompt in (("prompt", body.prompt), ("negative_prompt", negative)):
        try:
            prompt_words(section, prompt)
        except ValueError as error:
            raise ApiError(400, f"{name}: {error}", param=name, code="invalid_value") from None
    _check_limits(state.options, {"prompt": body.prompt, "negative_prompt": negative}, body.n, steps)
    most_steps = SAMPLERS[section.scheduler].most_steps
    if most_steps and steps > most_steps:
        message = f"steps: the model's sampler, {section.scheduler}, has at most {most_steps}."
        raise ApiError(400, message, param="steps", code="invalid_value")
    if reason := state.moderator.prompt(body.prompt):
        raise ApiError(400, f"The prompt was refused: {reason}.", param="prompt", code="content_policy_violation")
    seed = secrets.randbelow(2**31) if body.seed is None else body.seed
    guidance = section.guidance_scale if body.guidance is None else body.guidance
    text, previews = insert_tokens(body.prompt, dict(spec.tokens)), _preview_steps(body.partial_images, steps)
    return [Order(text, seed + number, negative, steps, guidance, previews) for number in range(body.n)]


def _preview_steps(n: int, steps: int) -> tuple[int, ...]:
    """The steps after which `n` previews of a picture of `steps` steps are due, evenly spread."""
    return tuple(sorted({round(steps * part / (n + 1)) for part in range(1, n + 1)} - {0, steps}))


def _check_limits(options: ServiceOptions, prompts: dict[str, str], n: int, steps: int) -> None:
    """ApiError 400, naming the parameter, for what is above the service's limits."""
    for name, text in prompts.items():
        if len(text) > options.longest_prompt:
            message = f"{name}: at most {options.longest_prompt} characters."
            raise ApiError(400, message, param=name, code="invalid_value")
    if n > options.most_pictures:
        raise ApiError(400, f"n: at most {options.most_pictures} pictures.", param="n", code="invalid_value")
    if steps > options.most_steps:
        raise ApiError(400, f"steps: at most {options.most_steps}.", param="steps", code="invalid_value")


def _truncation_warning(state: ServiceState, spec: ModelSpec, order: Order) -> str:
    """Which prompts are too long for the text encoders, in ASCII and without their words: proxies log headers."""
    limit = state.registry.token_limit(spec)
    texts = {
        name: prompt_words(spec.section, text)
        for name, text in (("prompt", order.text), ("negative_prompt", order.negative_prompt))
    }
    return "; ".join(f"{name}: {cut.sentence}" for name, text in texts.items() if (cut := limit.truncated(text)))


def _drawn_as_samples(record: ServiceJob, order: Order, spec: ModelSpec) -> bool:
    """Whether the pictures are drawn by one run with the settings of its own samples, so that both are comparable."""
    section = spec.section
    of_samples = (section.negative_prompt, section.num_inference_steps, section.guidance_scale)
    of_order = (order.negative_prompt, order.num_inference_steps, order.guidance_scale)
    return spec.as_trained and of_samples == of_order and record.width == record.height == section.resolution


async def _ended_before_disconnect(request: Request, job: Job) -> bool:
    """Wait for the end of the job or the disconnection of the client; whether the job ended."""
    waits = [asyncio.create_task(job.ended.wait()), asyncio.create_task(_disconnected(request))]
    await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    for wait in waits:
        wait.cancel()
    return job.ended.is_set()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


_JOB_ERRORS = error_responses(400, 401, 404, 503)


@router.get("/v1/jobs/{job_id}", response_model=JobReply, response_model_exclude_none=True, responses=_JOB_ERRORS)
async def read_job(job_id: str, request: Request, client: Client, state: State) -> JobReply:
    """The state of a request, and the URLs of its pictures when it is done."""
    record, job = await _find_job(state, job_id, client)
    return job_reply(state, record, job, request)


@router.delete("/v1/jobs/{job_id}", response_model=JobReply, response_model_exclude_none=True, responses=_JOB_ERRORS)
async def cancel_job(job_id: str, request: Request, client: Client, state: State) -> JobReply:
    """Stop it at its next step; a job that has ended stays as it is."""
    record, job = await _find_job(state, job_id, client)
    if job:
        state.jobs.cancel(job)
        record = job.record
    return job_reply(state, record, job, request)


@router.get(
    "/v1/jobs/{job_id}/events",
    response_class=StreamingResponse,
    responses=_JOB_ERRORS | {200: {"content": {"text/event-stream": {}}, "description": "A JobReply at every change."}},
)
async def stream_job(job_id: str, request: Request, client: Client, state: State) -> StreamingResponse:
    """Server-sent events: `progress` at every change, at most ten a second, then `end`."""
    record, job = await _find_job(state, job_id, client)

    async def events() -> AsyncIterator[str]:
        if job:
            async for _ in state.jobs.progress(job):
                if not job.ended.is_set():
                    yield _event("progress", job_reply(state, job.record, job, request))
        yield _event("end", job_reply(state, job.record if job else record, job, request))

    return StreamingResponse(events(), media_type="text/event-stream", headers=_UNCACHED)


@router.get(
    "/v1/pictures/{name}",
    response_class=FileResponse,
    responses=error_responses(400, 404) | {200: {"content": {kind: {} for kind in MEDIA_TYPES.values()}}},
)
async def read_picture(
    name: str,
    state: State,
    expires: Annotated[int, Query(ge=0, lt=2**53)],
    signature: Annotated[str, Query(max_length=64)],
) -> FileResponse:
    """A picture, by the URL of a reply; it needs no key."""
    path = await asyncio.to_thread(state.image_files.path, name, expires, signature)
    if path is None:
        raise ApiError(404, "There is no such picture, or its URL has expired.", code="picture_not_found")
    media_type = next(kind for name, kind in MEDIA_TYPES.items() if path.suffix == f".{name}")
    return FileResponse(path, media_type=media_type, headers={"Cache-Control": "private, max-age=3600"})


async def _find_job(state: ServiceState, job_id: str, client: Caller) -> tuple[ServiceJob, Job | None]:
    """A job of this client, with its Job if this process has it in memory; ApiError 404, also for others' jobs."""
    job = state.jobs.get(job_id)
    try:
        record = job.record if job else await asyncio.to_thread(state.job_store.job, job_id)
    except NotRecorded:
        record = None
    if record is None or record.key != client.name:
        raise ApiError(404, "There is no such job.", param="job_id", code="job_not_found")
    return record, job


def _event(name: str, reply: JobReply | ImageEvent) -> str:
    return f"event: {name}\ndata: {json.dumps(reply.model_dump(exclude_none=True))}\n\n"
