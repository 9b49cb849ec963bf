"""Errors of the service as OpenAI's own client takes them: what it sends again, and what not."""

import asyncio
from datetime import UTC, datetime

import httpx2
import openai
import pytest

from deployments.service.errors import ApiError
from deployments.service.jobs import Job, JobOptions, job_error
from naruto_core.serving import JobState, ServiceJob


def _job(state: JobState) -> Job:
    async def make() -> Job:
        record = ServiceJob(
            id="job-1", instance="here", key="", model="champion", n=1, width=64, height=64, num_inference_steps=2,
            seeds=[1], asked_at=datetime.now(UTC), state=state, failure="the picture overflowed",
        )  # fmt: skip
        return Job(record, None, [], JobOptions(as_files=False))  # type: ignore[arg-type]

    return asyncio.run(make())


@pytest.mark.parametrize(
    ("error", "sent"),
    [
        (job_error(_job(JobState.FAILED).record), 1),  # the same seed overflows again
        (job_error(_job(JobState.CANCELLED).record), 1),  # somebody stopped it on purpose
        (job_error(_job(JobState.REFUSED).record), 1),
        (job_error(_job(JobState.FAILED).record, interrupted=True), 2),  # another replica may draw it
        (ApiError(429, "The queue is full.", wait=0.01), 2),
    ],
)
def test_openais_client_repeats_only_what_may_succeed(error: ApiError, sent: int, monkeypatch: pytest.MonkeyPatch):
    requests: list[httpx2.Request] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        requests.append(request)
        response = error.response()
        return httpx2.Response(response.status_code, headers=dict(response.headers), content=bytes(response.body))

    client = openai.OpenAI(
        api_key="x", base_url="http://service/v1", max_retries=1,
        http_client=openai.DefaultHttpxClient(transport=httpx2.MockTransport(answer)),
    )  # fmt: skip
    monkeypatch.setattr(client, "_sleep_for_retry", lambda **_: None)
    with pytest.raises(openai.APIStatusError):
        client.images.generate(prompt="a person")
    assert len(requests) == sent
