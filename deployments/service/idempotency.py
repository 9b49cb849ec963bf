"""Idempotency keys: a request that is sent again within a day is the job that it was, not another one."""

import asyncio
import hashlib
import hmac
from contextlib import suppress
from dataclasses import replace

from fastapi import Request, Response
from fastapi.responses import JSONResponse

from deployments.service.errors import ApiError
from deployments.service.jobs import job_error
from deployments.service.schemas import ImageRequest, accepted_reply, image_reply
from deployments.service.state import ServiceState
from naruto_core.serving import OPEN, JobState, ServiceJob

CLIENT_CLOSED_REQUEST = 499  # for the log: the client does not get it
_POLL_SECONDS = 0.5  # between two looks at a job of another process


async def begin_once(state: ServiceState, record: ServiceJob, body: ImageRequest, idempotency_key: str) -> ServiceJob:
    """The job of this idempotency key: `record`, or that of an earlier request; ApiError 409 if that was another one.

    The database has a digest of the request with the service's key: nobody can tell a prompt by it.
    """
    digest = hmac.new(state.image_files.key, body.model_dump_json().encode(), hashlib.sha256).hexdigest()
    begun = await asyncio.to_thread(state.job_store.begin, record, idempotency_key, digest)
    if begun is None:
        message = "This Idempotency-Key was used for another request: use a new one for each request."
        raise ApiError(409, message, param="Idempotency-Key", code="idempotency_key_reused", final=True)
    return begun


async def lasting_reply(
    state: ServiceState, record: ServiceJob, body: ImageRequest, request: Request, warning: str
) -> Response:
    """The reply from the record and the stored pictures of a job, however often it is asked for.

    A client that leaves does not cancel the job: it may send the request again. Another process may draw it.
    """
    headers = {"X-Naruto-Warning": warning} if warning else {}
    if "respond-async" in request.headers.get("prefer", ""):
        return accepted_reply(state, record, state.jobs.get(record.id), request, headers)
    while record.state in OPEN:
        if await request.is_disconnected():
            return Response(status_code=CLIENT_CLOSED_REQUEST)
        job = state.jobs.get(record.id)
        if job is None:
            await asyncio.sleep(_POLL_SECONDS)
        else:
            with suppress(TimeoutError):
                await asyncio.wait_for(job.ended.wait(), _POLL_SECONDS)
        record = job.record if job and job.ended.is_set() else await asyncio.to_thread(state.job_store.job, record.id)
    if record.state is not JobState.DONE:
        raise job_error(record)
    files = [await asyncio.to_thread(state.image_files.read, name) for name in record.pictures]
    kept = [data for data in files if data is not None]
    if len(kept) < len(files):
        message = "The pictures of this request have expired: use a new Idempotency-Key to draw them again."
        raise ApiError(410, message, param="Idempotency-Key", code="pictures_expired")
    shown = record if body.response_format == "url" else replace(record, pictures=[])
    reply = image_reply(state, shown, kept, request, body.output_format, warning)
    return JSONResponse(reply.model_dump(exclude_none=True), headers=headers)
