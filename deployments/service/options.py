"""How the service is run on this machine: `NARUTO_SERVICE_*` variables. Recipes say how pictures are drawn."""

import socket

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class ServiceOptions(BaseSettings):
    """Limits and places; nothing is created by reading them."""

    model_config = SettingsConfigDict(env_prefix="NARUTO_SERVICE_", frozen=True, extra="ignore")

    host: str = Field(default="127.0.0.1", description="Address to listen at; others than this machine's need a key.")
    port: int = Field(default=8000, ge=1, le=65535, description="Port to listen at.")
    instance: str = Field(default_factory=socket.gethostname, description="This process's name; kept over restarts.")
    batch_size: int | None = Field(
        default=None, ge=1, le=64, description="Pictures drawn together; unset: the run's own, at most 4."
    )
    warm_adapters: int = Field(default=4, ge=1, description="Adapters kept loaded; the least recently used leaves.")
    warm_bases: int = Field(default=1, ge=1, description="Base models kept loaded.")
    longest_queue: int = Field(default=64, ge=1, description="Pictures that may wait; more are refused with 429.")
    most_pictures: int = Field(default=8, ge=1, le=100, description="Pictures of one request.")
    most_steps: int = Field(default=150, ge=1, le=1000, description="Denoising steps of one request.")
    longest_prompt: int = Field(default=4000, ge=1, description="Characters.")
    pictures_per_minute: float = Field(default=600, gt=0, description="Of one API key.")
    url_minutes: float = Field(default=60, gt=0, description="How long the address of a picture is good.")
    drain_seconds: float = Field(default=60, ge=0, description="What SIGTERM leaves to finish what was accepted.")
    watched_share: float = Field(
        default=0.05,
        ge=0,
        le=1,
        description="Of served pictures, how many are measured afterwards; 0: none.",
    )
    checker: str = Field(default="", description="package.module:name of a class that refuses prompts or pictures.")
