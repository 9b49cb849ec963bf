"""HTTP routes: images and models as OpenAI's API defines them; jobs with their progress; pictures by address."""

import asyncio
import json
import secrets
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import FileResponse, JSONResponse, StreamingResponse

from deployments.service.errors import ApiError, documented
from deployments.service.jobs import Job, new_job_id
from deployments.service.middleware import Caller, caller, state_of
from deployments.service.model_registry import ModelSpec
from deployments.service.schemas import (
    ImageReply,
    ImageRequest,
    JobReply,
    ModelReply,
    ModelsReply,
    image_reply,
    job_reply,
)
from deployments.service.state import ServiceState
from naruto_core import picture_file
from naruto_core.continuous_batching import Order
from naruto_core.errors import NotRecorded
from naruto_core.prompts import insert_tokens
from naruto_core.serving import JobState, ServiceJob

router = APIRouter()
_CLIENT_GONE = 499  # nobody hears it; the log does


@router.post(
    "/v1/images/generations",
    response_model=ImageReply,
    summary="Draw pictures",
    responses=documented(400, 401, 404, 409, 413, 415, 429, 500, 503)
    | {202: {"model": JobReply, "description": "With the header Prefer: respond-async: where the job stands."}},
)
async def generate(
    asked: ImageRequest,
    request: Request,
    who: Annotated[Caller, Depends(caller)],
    parts: Annotated[ServiceState, Depends(state_of)],
) -> Response:
    """The same seed, prompt and model give the same picture, byte for byte, whatever else is being drawn."""
    look = await asyncio.to_thread(
        parts.catalogue.look, asked.model, [(choice.name, choice.weight) for choice in asked.adapters]
    )
    width, height = _size(asked, look)
    orders = _orders(asked, look, parts)
    if wait := parts.allowance.take(who.name, asked.n):
        raise ApiError(429, "This key has had its pictures of this minute.", code="rate_limit_exceeded", wait=wait)
    warning = await asyncio.to_thread(_unread, parts, look, orders[0])
    headers = {"X-Naruto-Warning": warning} if warning else {}
    later = "respond-async" in request.headers.get("prefer", "")
    noun = ServiceJob(
        id=new_job_id(), instance=parts.options.instance, key=who.name, model=look.name, n=asked.n, width=width,
        height=height, num_inference_steps=orders[0].num_inference_steps, seeds=[order.seed for order in orders],
        asked_at=datetime.now(UTC),
    )  # fmt: skip
    keep, watch = later or asked.response_format == "url", asked.prompt if _as_samples_were(noun, orders, look) else ""
    job = await parts.jobs.take(noun, look, orders, keep=keep, watch=watch, warning=warning)
    if later:
        body = job_reply(parts, job.noun, job, request).model_dump(exclude_none=True)
        headers |= {"Location": f"/v1/jobs/{noun.id}", "Preference-Applied": "respond-async"}
        return JSONResponse(body, 202, headers)
    if not await _stayed(request, job):
        parts.jobs.cancel(job)
        return Response(status_code=_CLIENT_GONE)
    if job.noun.state is not JobState.DONE:
        raise _not_drawn(job)
    reply = image_reply(parts, job.noun, job.files, request, warning)
    return JSONResponse(reply.model_dump(exclude_none=True), headers=headers)


@router.get("/v1/models", response_model=ModelsReply, responses=documented(401, 503))
def models(who: Annotated[Caller, Depends(caller)], parts: Annotated[ServiceState, Depends(state_of)]) -> ModelsReply:
    """The champion, every finished run, and the base."""
    del who
    return ModelsReply(data=_models(parts))


@router.get("/v1/models/{model}", response_model=ModelReply, responses=documented(400, 401, 404, 503))
def model(
    model: str, who: Annotated[Caller, Depends(caller)], parts: Annotated[ServiceState, Depends(state_of)]
) -> ModelReply:
    """One of them."""
    del who
    found = next((one for one in _models(parts) if one.id == model), None)
    if found is None:
        raise ApiError(404, "There is no such model; see /v1/models.", param="model", code="model_not_found")
    return found


def _models(parts: ServiceState) -> list[ModelReply]:
    made = [(entry, int(entry.made_at.timestamp())) for entry in parts.catalogue.entries()]
    return [ModelReply(id=e.id, created=at, owned_by=e.names or "naruto") for e, at in made]


def _size(asked: ImageRequest, look: ModelSpec) -> tuple[int, int]:
    usual = look.section.resolution
    if asked.size == "auto":
        return usual, usual
    width, height = (int(side) for side in asked.size.split("x"))
    if width % 8 or height % 8 or not 16 <= min(width, height) <= max(width, height) <= 2 * usual:
        raise ApiError(
            400,
            f"size: {width}x{height} cannot be drawn: sides are multiples of 8 from 16 to {2 * usual}.",
            param="size", code="invalid_value",
        )  # fmt: skip
    return width, height


def _orders(asked: ImageRequest, look: ModelSpec, parts: ServiceState) -> list[Order]:
    options, section = parts.options, look.section
    negative = section.negative_prompt if asked.negative_prompt is None else asked.negative_prompt
    for name, text in (("prompt", asked.prompt), ("negative_prompt", negative)):
        if len(text) > options.longest_prompt:
            raise ApiError(
                400, f"{name}: longer than {options.longest_prompt} characters.", param=name, code="invalid_value"
            )
    if reason := parts.checker.prompt(asked.prompt):
        raise ApiError(400, f"The prompt was refused: {reason}.", param="prompt", code="content_policy_violation")
    if asked.n > options.most_pictures:
        raise ApiError(400, f"n: at most {options.most_pictures} pictures at once.", param="n", code="invalid_value")
    usual = max(1, section.num_inference_steps // 2) if asked.quality == "low" else section.num_inference_steps
    steps = asked.steps or usual
    if steps > options.most_steps:
        raise ApiError(400, f"steps: at most {options.most_steps}.", param="steps", code="invalid_value")
    first = secrets.randbelow(2**31) if asked.seed is None else asked.seed
    guidance = section.guidance_scale if asked.guidance is None else asked.guidance
    text = insert_tokens(asked.prompt, dict(look.tokens))
    return [Order(text, first + number, negative, steps, guidance) for number in range(asked.n)]


def _unread(parts: ServiceState, look: ModelSpec, order: Order) -> str:
    """What of the prompts is too long for the model, in ASCII and without a word of theirs: proxies log headers."""
    limit = parts.catalogue.token_limit(look)
    texts = {"prompt": order.text, "negative_prompt": order.negative_prompt}
    return "; ".join(f"{name}: {cut.sentence}" for name, text in texts.items() if (cut := limit.truncated(text)))


def _as_samples_were(noun: ServiceJob, orders: list[Order], look: ModelSpec) -> bool:
    """Whether a request is drawn by one run alone, and as its own samples were."""
    section, order = look.section, orders[0]
    mine = (section.negative_prompt, section.num_inference_steps, section.guidance_scale)
    asked = (order.negative_prompt, order.num_inference_steps, order.guidance_scale)
    return look.as_trained and mine == asked and noun.width == noun.height == section.resolution


def _not_drawn(job: Job) -> ApiError:
    """Why a job that has ended has no pictures."""
    if job.noun.state is JobState.REFUSED:
        return ApiError(400, job.noun.failure, param="prompt", code="content_policy_violation")
    if job.noun.state is JobState.FAILED:
        return ApiError(500, job.noun.failure, code="failed")
    return ApiError(409, "The request was cancelled.", code="cancelled")


async def _stayed(request: Request, job: Job) -> bool:
    """Wait for the job, or for the client to go."""
    ends = [asyncio.create_task(job.ended.wait()), asyncio.create_task(_gone(request))]
    await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    for end in ends:
        end.cancel()
    return job.ended.is_set()


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


Who = Annotated[Caller, Depends(caller)]
Of = Annotated[ServiceState, Depends(state_of)]
_REFUSALS = documented(400, 401, 404, 503)


@router.get("/v1/jobs/{job_id}", response_model=JobReply, response_model_exclude_none=True, responses=_REFUSALS)
async def read_job(job_id: str, request: Request, who: Who, parts: Of) -> JobReply:
    """Where a request stands, and its pictures' addresses when it is done."""
    noun, job = await _find(parts, job_id, who)
    return job_reply(parts, noun, job, request)


@router.delete("/v1/jobs/{job_id}", response_model=JobReply, response_model_exclude_none=True, responses=_REFUSALS)
async def cancel_job(job_id: str, request: Request, who: Who, parts: Of) -> JobReply:
    """Stop it at its next step; a job that has ended stays as it is."""
    noun, job = await _find(parts, job_id, who)
    if job:
        parts.jobs.cancel(job)
        noun = job.noun
    return job_reply(parts, noun, job, request)


@router.get(
    "/v1/jobs/{job_id}/events",
    response_class=StreamingResponse,
    responses=_REFUSALS | {200: {"content": {"text/event-stream": {}}, "description": "A JobReply at every change."}},
)
async def follow_job(job_id: str, request: Request, who: Who, parts: Of) -> StreamingResponse:
    """Server-sent events: `progress` at every change, at most ten a second, then `end`."""
    noun, job = await _find(parts, job_id, who)

    async def events() -> AsyncIterator[str]:
        if job:
            async for _ in parts.jobs.watch(job):
                if not job.ended.is_set():
                    yield _event("progress", job_reply(parts, job.noun, job, request))
        yield _event("end", job_reply(parts, job.noun if job else noun, job, request))

    return StreamingResponse(events(), media_type="text/event-stream", headers={"Cache-Control": "no-store"})


@router.get(
    "/v1/pictures/{name}",
    response_class=FileResponse,
    responses=documented(400, 403) | {200: {"content": {picture_file.MEDIA_TYPE: {}}}},
)
async def read_picture(
    name: str,
    parts: Of,
    expires: Annotated[int, Query(ge=0, lt=2**53)],
    signature: Annotated[str, Query(max_length=64)],
) -> FileResponse:
    """A picture by the address that a reply gave; no key is asked for."""
    path = await asyncio.to_thread(parts.files.path, name, expires, signature)
    if path is None:
        raise ApiError(403, "This address is not good, or not any more.", code="bad_signature")
    return FileResponse(path, media_type=picture_file.MEDIA_TYPE, headers={"Cache-Control": "private, max-age=3600"})


async def _find(parts: ServiceState, job_id: str, who: Caller) -> tuple[ServiceJob, Job | None]:
    """Only whoever asked may see a job; to others there is none."""
    job = parts.jobs.find(job_id)
    try:
        noun = job.noun if job else await asyncio.to_thread(parts.record.job, job_id)
    except NotRecorded:
        noun = None
    if noun is None or noun.key != who.name:
        raise ApiError(404, "There is no such job.", param="job_id", code="job_not_found")
    return noun, job


def _event(name: str, reply: JobReply) -> str:
    return f"event: {name}\ndata: {json.dumps(reply.model_dump(exclude_none=True))}\n\n"
