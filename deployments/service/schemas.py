"""Requests and replies: OpenAI's images API, and what this service adds to it."""

import base64
from collections.abc import Sequence
from typing import Annotated, Literal

from fastapi import Request
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from deployments.service.jobs import Job
from deployments.service.state import ServiceState
from naruto_core.serving import JobState, ServiceJob


def _whole(text: str) -> str:
    """Refuse half of a surrogate pair, which JSON can carry and UTF-8 cannot; and what is only spaces."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("it is not valid Unicode") from None
    return text


def _something(text: str) -> str:
    if not text.strip():
        raise ValueError("it is empty")
    return text


Text = Annotated[str, AfterValidator(_whole)]
Finite = Annotated[float, Field(allow_inf_nan=False)]


class AdapterChoice(BaseModel):
    """A further run's adapter, and its weight."""

    model_config = ConfigDict(extra="forbid", strict=True)

    name: Text = Field(max_length=200, description="A run's id, or an alias such as champion.")
    weight: Finite = Field(default=1.0, ge=-2, le=2, description="How strongly it is applied.")


class ImageRequest(BaseModel):
    """OpenAI's request; from `seed` on the fields are ours. What is left out is as the run itself was drawn."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        json_schema_extra={"examples": [{"prompt": "a naruto anime character with red hair", "n": 2, "seed": 7}]},
    )

    prompt: Annotated[Text, AfterValidator(_something)] = Field(min_length=1, description="What to draw.")
    model: Text | None = Field(default=None, max_length=200, description="champion, a run's id, or base.")
    n: int = Field(default=1, ge=1, description="Pictures; their seeds count on from the first.")
    size: str = Field(default="auto", pattern=r"^(auto|[0-9]{1,5}x[0-9]{1,5})$", description="auto or WxH in pixels.")
    quality: Literal["auto", "low", "medium", "high", "standard", "hd"] = Field(
        default="auto", description="low takes half of the run's steps, the others all of them."
    )
    response_format: Literal["b64_json", "url"] = Field(
        default="b64_json", description="The picture itself, or an address that expires."
    )
    user: Text | None = Field(default=None, max_length=200, description="Taken for OpenAI's clients; not kept.")
    seed: int | None = Field(default=None, ge=0, lt=2**53, description="Left out: a random one, which the reply names.")
    negative_prompt: Text | None = Field(default=None, description="What guidance steers away from.")
    steps: int | None = Field(default=None, ge=1, description="Denoising steps.")
    guidance: Finite | None = Field(default=None, ge=0, le=30, description="Classifier-free guidance.")
    adapters: list[AdapterChoice] = Field(default=[], max_length=4, description="Blended with the model's own.")


class ImageData(BaseModel):
    """One picture, PNG: base64, or an address that expires."""

    b64_json: str | None = None
    url: str | None = None
    seed: int


class ImageReply(BaseModel):
    """OpenAI's reply; `model` and the seeds say how to have the same pictures again."""

    created: int
    data: list[ImageData]
    model: str
    size: str
    output_format: Literal["png"] = "png"
    warning: str | None = Field(default=None, description="What of the prompts the model does not read.")


class JobReply(BaseModel):
    """Where a request stands; `result` when it is done."""

    id: str
    object: Literal["job"] = "job"
    status: Literal["queued", "running", "done", "cancelled", "failed", "refused", "lost"]
    created: int
    model: str
    steps_done: int = Field(description="Of steps_total, over all pictures of the request.")
    steps_total: int
    error: str | None = None
    warning: str | None = Field(default=None, description="As in the reply; of another process's jobs left out.")
    result: ImageReply | None = None


class ModelReply(BaseModel):
    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = Field(description="The run that an alias names now, or this project.")


class ModelsReply(BaseModel):
    object: Literal["list"] = "list"
    data: list[ModelReply]


def image_reply(
    parts: ServiceState, noun: ServiceJob, files: Sequence[bytes], request: Request, warning: str = ""
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


def job_reply(parts: ServiceState, noun: ServiceJob, job: Job | None, request: Request) -> JobReply:
    """`job` is None when another process, or an earlier one, has it."""
    total = noun.n * noun.num_inference_steps
    done = noun.state is JobState.DONE
    result = image_reply(parts, noun, [], request) if done and noun.pictures else None
    return JobReply(
        id=noun.id, status=noun.state.value, created=int(noun.asked_at.timestamp()), model=noun.model,
        steps_done=total if done else job.steps_done if job else 0, steps_total=total,
        error=noun.failure or None, warning=(job and job.warning) or None, result=result,
    )  # fmt: skip
