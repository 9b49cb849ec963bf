"""Settings of the service on this machine: `NARUTO_SERVICE_*` variables. How pictures are drawn is in recipes."""

import re
import socket
from typing import Literal

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from naruto_core.settings import invalid_settings

_PREFIX = "NARUTO_SERVICE_"


class ServiceOptions(BaseSettings):
    """Read from the environment; nothing is created by reading them."""

    model_config = SettingsConfigDict(env_prefix=_PREFIX, frozen=True, extra="ignore")

    host: str = Field(default="127.0.0.1", description="Address to listen at; other than this machine's need a key.")
    port: int = Field(default=8000, ge=1, le=65535, description="Port to listen at.")
    public_url: str = Field(
        default="",
        description="Where clients reach the service, behind a proxy or a published port: the URLs of pictures begin "
        "with it; unset: the address that the connection arrived at.",
    )
    instance: str = Field(
        default_factory=socket.gethostname, description="Name of this process, the same after a restart."
    )
    batch_size: int | None = Field(
        default=None, ge=1, le=64, description="Pictures drawn together; unset: the run's own, at most 4."
    )
    public_pages: bool = Field(
        default=False,
        description="true: /metrics, /docs and /openapi.json need no key, even where requests do.",
    )
    determinism: Literal["off", "strict"] = Field(
        default="off",
        description="strict: a picture has the same bytes whatever else is drawn, and a lone one takes the time of a "
        "full batch; off: equal to rounding.",
    )
    warm_adapters: int = Field(default=4, ge=1, description="Adapters kept loaded; the least recently used goes.")
    warm_bases: int = Field(default=1, ge=1, description="Base models kept loaded.")
    longest_queue: int = Field(default=64, ge=1, description="Pictures that may wait; more are rejected with 429.")
    most_pictures: int = Field(default=8, ge=1, le=100, description="Limit of n, the pictures of one request.")
    most_steps: int = Field(default=150, ge=1, le=1000, description="Limit of denoising steps of a picture.")
    longest_prompt: int = Field(default=4000, ge=1, description="Limit of a prompt, in characters.")
    pictures_per_minute: float = Field(default=600, gt=0, description="Rate limit of each API key.")
    request_seconds: float = Field(
        default=20, gt=0, description="Time in which a request must have arrived wholly, else 408."
    )
    url_minutes: float = Field(default=60, gt=0, description="How long the URL of a picture is valid.")
    drain_seconds: float = Field(default=60, ge=0, description="Time to draw accepted pictures after SIGTERM.")
    watched_share: float = Field(
        default=0.05, ge=0, le=1, description="Share of served pictures whose quality is measured; 0: none."
    )
    job_days: float = Field(default=90, gt=0, description="How long ended requests stay in the database.")
    most_jobs: int = Field(default=1_000_000, ge=1, description="Requests in the database; the oldest go first.")
    score_days: float = Field(default=365, gt=0, description="How long scores of served pictures stay there.")
    most_scores: int = Field(default=1_000_000, ge=1, description="Scores of served pictures; the oldest go first.")
    pictures_gib: float = Field(
        default=20, gt=0, description="Pictures to be fetched by URL; the oldest are deleted before their URLs expire."
    )
    checker: str = Field(default="", description="package.module:Class that may refuse prompts and pictures.")

    @field_validator("public_url")
    @classmethod
    def _is_address(cls, value: str) -> str:
        if value and not re.fullmatch(r"https?://[^\s/?#]+(/[^\s?#]*)?", value):
            raise ValueError("write it like https://pictures.example.org")
        return value


def read_options() -> ServiceOptions:
    """The settings of this process. Raises RecipeInvalid for a variable that is not what it must be."""
    try:
        return ServiceOptions()
    except ValidationError as error:
        raise invalid_settings(error, _PREFIX) from None
