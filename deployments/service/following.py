"""Jobs and their progress, cancelling, and pictures by signed address."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import FileResponse, StreamingResponse

from deployments.service.access import Caller, caller, parts_of
from deployments.service.jobs import Job
from deployments.service.parts import Parts
from deployments.service.refusal import Refused, documented
from deployments.service.replies import job_reply
from deployments.service.wire import JobReply
from naruto_core.errors import NotRecorded
from naruto_core.serving import ServiceJob

router = APIRouter()
Who = Annotated[Caller, Depends(caller)]
Of = Annotated[Parts, Depends(parts_of)]
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
    responses=documented(400, 403) | {200: {"content": {"image/png": {}}}},
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
        raise Refused(403, "This address is not good, or not any more.", code="bad_signature")
    return FileResponse(path, media_type="image/png", headers={"Cache-Control": "private, max-age=3600"})


async def _find(parts: Parts, job_id: str, who: Caller) -> tuple[ServiceJob, Job | None]:
    """Only whoever asked may see a job; to others there is none."""
    job = parts.jobs.find(job_id)
    try:
        noun = job.noun if job else await asyncio.to_thread(parts.record.job, job_id)
    except NotRecorded:
        noun = None
    if noun is None or noun.key != who.name:
        raise Refused(404, "There is no such job.", param="job_id", code="job_not_found")
    return noun, job


def _event(name: str, reply: JobReply) -> str:
    return f"event: {name}\ndata: {json.dumps(reply.model_dump(exclude_none=True))}\n\n"
