"""From what is remembered of a job to what is answered."""

import base64
from collections.abc import Sequence

from fastapi import Request

from deployments.service.jobs import Job
from deployments.service.parts import Parts
from deployments.service.wire import ImageData, ImageReply, JobReply
from naruto_core.serving import JobState, ServiceJob


def image_reply(
    parts: Parts, noun: ServiceJob, files: Sequence[bytes], request: Request, warning: str = ""
) -> ImageReply:
    """Pictures as base64 where the job has them in memory, else as addresses."""
    if noun.pictures:
        root = str(request.base_url).rstrip("/")
        urls = [root + parts.files.address(name) for name in noun.pictures]
        data = [ImageData(url=url, seed=seed) for url, seed in zip(urls, noun.seeds, strict=True)]
    else:
        texts = [base64.b64encode(one).decode() for one in files]
        data = [ImageData(b64_json=text, seed=seed) for text, seed in zip(texts, noun.seeds, strict=True)]
    created, size = int(noun.asked_at.timestamp()), f"{noun.width}x{noun.height}"
    return ImageReply(created=created, data=data, model=noun.model, size=size, warning=warning or None)


def job_reply(parts: Parts, noun: ServiceJob, job: Job | None, request: Request) -> JobReply:
    """`job` is None when another process, or an earlier one, has it."""
    total = noun.n * noun.num_inference_steps
    done = noun.state is JobState.DONE
    result = image_reply(parts, noun, [], request) if done and noun.pictures else None
    return JobReply(
        id=noun.id, status=noun.state.value, created=int(noun.asked_at.timestamp()), model=noun.model,
        steps_done=total if done else job.steps_done if job else 0, steps_total=total,
        error=noun.failure or None, warning=(job and job.warning) or None, result=result,
    )  # fmt: skip
