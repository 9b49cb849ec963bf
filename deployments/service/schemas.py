"""Requests and replies of the API: OpenAI's images API, and what this service adds to it."""

import base64
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, get_args

from fastapi import Request, Response
from fastapi.responses import JSONResponse
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from deployments.service.jobs import Job
from deployments.service.state import ServiceState
from naruto_core.picture_file import SentEncoding, SentFormat
from naruto_core.serving import JobState, ServiceJob


def _valid_unicode(text: str) -> str:
    """Reject half of a surrogate pair, which JSON can carry and UTF-8 cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("it is not valid Unicode") from None
    return text


def _not_blank(text: str) -> str:
    if not text.strip():
        raise ValueError("it is empty")
    return text


Text = Annotated[str, AfterValidator(_valid_unicode)]
Finite = Annotated[float, Field(allow_inf_nan=False)]


class AdapterChoice(BaseModel):
    """The adapter of a further run, and its weight."""

    model_config = ConfigDict(extra="forbid", strict=True)

    name: Text = Field(max_length=200, description="A run's id, or an alias such as champion.")
    weight: Finite = Field(default=1.0, ge=-2, le=2, description="How strongly it is applied.")


class ImageRequest(BaseModel):
    """OpenAI's request; the fields from `seed` on are additions. Defaults are the run's own generation settings.

    A field that is null has its default, as for OpenAI.
    """

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        json_schema_extra={"examples": [{"prompt": "a naruto anime character with red hair", "n": 2, "seed": 7}]},
    )

    prompt: Annotated[Text, AfterValidator(_not_blank)] = Field(min_length=1, description="What to draw.")
    model: Text | None = Field(default=None, max_length=200, description="champion, a run's id, or base.")
    n: int = Field(default=1, ge=1, description="Number of pictures; their seeds are seed, seed + 1, ...")
    size: str = Field(default="auto", pattern=r"^(auto|[0-9]{1,5}x[0-9]{1,5})$", description="auto or WxH in pixels.")
    quality: Literal["auto", "low", "medium", "high", "xhigh", "max", "standard", "hd"] = Field(
        default="auto", description="low: half of the run's steps; others: all of them."
    )
    response_format: Literal["b64_json", "url"] = Field(
        default="b64_json", description="The picture in base64, or a URL that expires."
    )
    output_format: SentFormat = Field(default="png", description="Only a PNG holds the settings of its drawing.")
    output_compression: int = Field(default=100, ge=0, le=100, description="Quality of JPEG and WebP.")
    background: Literal["auto", "opaque"] = Field(default="auto", description="Pictures are always opaque.")
    moderation: Literal["auto", "low"] = Field(
        default="auto", description="Accepted for OpenAI's clients: the service's moderator is the same for both."
    )
    stream: bool = Field(default=False, description="Reply with server-sent events, as OpenAI's API; n must be 1.")
    partial_images: int = Field(default=0, ge=0, le=3, description="Previews in the stream.")
    user: Text | None = Field(default=None, max_length=200, description="Accepted for OpenAI's clients, and ignored.")
    safety_identifier: Text | None = Field(default=None, max_length=200, description="As `user`.")
    seed: int | None = Field(default=None, ge=0, lt=2**53, description="Default: a random seed, which is in the reply.")
    negative_prompt: Text | None = Field(default=None, description="What the picture should not show.")
    steps: int | None = Field(default=None, ge=1, description="Denoising steps.")
    guidance: Finite | None = Field(default=None, ge=0, le=30, description="Scale of classifier-free guidance.")
    adapters: list[AdapterChoice] = Field(default=[], max_length=4, description="Added to the model's own.")

    @model_validator(mode="before")
    @classmethod
    def _null_is_the_default(cls, fields: Any) -> Any:
        given: Any = fields
        return {name: given[name] for name in given if given[name] is not None} if isinstance(given, dict) else given

    @property
    def encoding(self) -> SentEncoding:
        return SentEncoding(self.output_format, self.output_compression)


class ImageData(BaseModel):
    """One picture, in base64 or as a URL that expires."""

    b64_json: str | None = None
    url: str | None = None
    seed: int


class ImageReply(BaseModel):
    """OpenAI's reply; with `model` and the seeds, the same pictures can be requested again."""

    created: int
    data: list[ImageData]
    model: str
    size: str
    output_format: SentFormat = "png"
    background: Literal["opaque"] = "opaque"
    warning: str | None = Field(default=None, description="The part of a prompt that is too long for the model.")


class ImageEvent(BaseModel):
    """An event of a stream: a preview, or the picture. `seed`, `model` and `warning` are additions to OpenAI's."""

    type: Literal["image_generation.partial_image", "image_generation.completed"]
    b64_json: str
    created_at: int
    size: str
    quality: Literal["low", "high"]
    background: Literal["opaque"] = "opaque"
    output_format: SentFormat
    partial_image_index: int | None = None
    usage: dict[str, Any] | None = Field(default=None, description="Zeros: tokens are not counted.")
    seed: int
    model: str
    warning: str | None = None


class JobReply(BaseModel):
    """The state of a request; `result` when it is done."""

    id: str
    object: Literal["job"] = "job"
    status: Literal["queued", "running", "done", "cancelled", "failed", "refused", "lost"]
    created: int
    model: str
    steps_done: int = Field(description="Steps done, of steps_total, over all pictures.")
    steps_total: int
    error: str | None = None
    warning: str | None = Field(default=None, description="As in ImageReply; missing for jobs of another process.")
    result: ImageReply | None = None


class ModelReply(BaseModel):
    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = Field(description="The run behind an alias, else naruto.")


class ModelsReply(BaseModel):
    object: Literal["list"] = "list"
    data: list[ModelReply]


def image_reply(
    state: ServiceState,
    record: ServiceJob,
    files: Sequence[bytes],
    request: Request,
    file_format: SentFormat = "png",
    warning: str = "",
) -> ImageReply:
    """The pictures of a job that is done: URLs if it stored them, else the bytes of `files` in base64."""
    if record.pictures:
        root = _public_url(state, request)
        urls = [root + state.image_files.url(name) for name in record.pictures]
        data = [ImageData(url=url, seed=seed) for url, seed in zip(urls, record.seeds, strict=True)]
        suffix = record.pictures[0].rpartition(".")[2]
        file_format = next(known for known in get_args(SentFormat) if known == suffix)
    else:
        texts = [base64.b64encode(data).decode() for data in files]
        data = [ImageData(b64_json=text, seed=seed) for text, seed in zip(texts, record.seeds, strict=True)]
    created, size = int(record.asked_at.timestamp()), f"{record.width}x{record.height}"
    return ImageReply(
        created=created,
        data=data,
        model=record.model,
        size=size,
        output_format=file_format,
        warning=warning or None,
    )


def _public_url(state: ServiceState, request: Request) -> str:
    """What URLs of pictures begin with; never the header Host, in which a client writes what it likes."""
    if state.options.public_url:
        return state.options.public_url.rstrip("/")
    host, port = request.scope["server"]
    return f"{request.url.scheme}://{f'[{host}]' if ':' in host else host}:{port}"


def image_event(job: Job, data: bytes, quality: str, preview: int | None = None) -> ImageEvent:
    """The event of the finished picture in the file `data`, or of the preview number `preview`, from 0."""
    record, nothing = job.record, {"input_tokens": 0, "output_tokens": 0, "total_tokens": 0}
    return ImageEvent(
        type="image_generation.completed" if preview is None else "image_generation.partial_image",
        b64_json=base64.b64encode(data).decode(),
        created_at=int(datetime.now(UTC).timestamp()),
        size=f"{record.width}x{record.height}",
        quality="low" if quality == "low" else "high",
        output_format=job.options.encoding.file_format,
        partial_image_index=preview,
        usage=nothing | {"input_tokens_details": {"image_tokens": 0, "text_tokens": 0}} if preview is None else None,
        seed=record.seeds[0],
        model=record.model,
        warning=job.options.warning or None,
    )


def job_reply(state: ServiceState, record: ServiceJob, job: Job | None, request: Request) -> JobReply:
    """The state of a job; `job` is None if this process does not have it in memory."""
    total = record.n * record.num_inference_steps
    done = record.state is JobState.DONE
    result = image_reply(state, record, [], request) if done and record.pictures else None
    return JobReply(
        id=record.id, status=record.state.value, created=int(record.asked_at.timestamp()), model=record.model,
        steps_done=total if done else job.steps_done if job else 0, steps_total=total,
        error=record.failure or None, warning=(job and job.options.warning) or None, result=result,
    )  # fmt: skip


def accepted_reply(
    state: ServiceState, record: ServiceJob, job: Job | None, request: Request, headers: dict[str, str]
) -> Response:
    """The reply to Prefer: respond-async."""
    content = job_reply(state, record, job, request).model_dump(exclude_none=True)
    headers = headers | {"Location": f"/v1/jobs/{record.id}", "Preference-Applied": "respond-async"}
    return JSONResponse(content, 202, headers)
