"""Settings of this machine, from environment variables. They never affect results; recipes do."""

import os
from functools import lru_cache
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, ValidationInfo, field_validator

from naruto_core.errors import RecipeInvalid, StorageFailed

PREFIX = "NARUTO_"  # of the variables; case does not count


class Settings(BaseModel):
    """The settings by name; `from_environment` reads them from `NARUTO_*` environment variables.

    Not pydantic-settings: every value is one text of the environment, and that library took longer to import than all
    of this takes.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    home: Path = Field(default=Path("var"), description="Folder that holds pictures, runs and the database.")
    database: str = Field(default="", description="SQLAlchemy URL; empty: SQLite at NARUTO_HOME/naruto.db.")
    store: str = Field(
        default="",
        pattern=r"^(s3://[^/].*)?$",
        description="Bucket that holds the recorded files of all machines: s3://BUCKET/PREFIX; needs NARUTO_DATABASE.",
    )
    device: str = Field(default="auto", description="auto, cpu, cuda or cuda:N.")
    runner: str = Field(
        default="local",
        pattern=r"^(local|dask:.+)$",
        description="What draws and embeds pictures: local (this process), or dask:ADDRESS, the workers of the Dask "
        "scheduler at ADDRESS, e.g. dask:tcp://10.0.0.5:8786. They have one NARUTO_HOME, or one NARUTO_STORE.",
    )
    shard_seconds: float = Field(
        default=3600.0, gt=0, description="Seconds after which a shard of a Dask worker is tried again."
    )
    memory_gib: float | None = Field(
        default=None, gt=0, description="Memory that a training may use on its device; unset: the free memory."
    )
    checkpoint_seconds: float = Field(default=10.0, gt=0, description="Seconds between two checkpoints of a training.")
    lock_folder: Path | None = Field(default=None, description="Folder of device locks; default NARUTO_HOME/locks.")
    trackers: str = Field(
        default="", description="Trackers that also get training curves: tensorboard, mlflow, or both."
    )
    mlflow_uri: str = Field(default="", description="MLflow server or database; empty: SQLite at NARUTO_HOME/mlflow.")
    canary_pictures: int = Field(
        default=8,
        ge=0,
        le=1000,
        description="Samples of the promoted run that `naruto watch` draws again, to see whether the model has "
        "changed; 0: none.",
    )
    cache_gib: float = Field(
        default=50,
        gt=0,
        description="Cached pictures of base models and kept results; those unused for longest go when a run starts, "
        "and hourly while the service runs.",
    )
    dashboard: str = Field(
        default="", description="Address of the dashboard, for links on Prefect's pages: http://host:port."
    )
    notifications: SecretStr = Field(
        default=SecretStr(""),
        description="Address that Prefect posts to when a flow run ends or waits for a person, e.g. Slack's webhook.",
    )
    service: str = Field(default="", description="Address of the HTTP service, for the playground: http://host:port.")
    service_key: SecretStr = Field(
        default=SecretStr(""), description="The playground's API key, if the service requires keys."
    )

    @field_validator("store")
    @classmethod
    def _a_bucket_needs_a_shared_database(cls, store: str, info: ValidationInfo) -> str:
        if store and not info.data.get("database"):
            raise ValueError(
                "a bucket needs a database that all machines share: set NARUTO_DATABASE=postgresql+psycopg://... "
                "(the path of a SQLite file only where all processes are on one machine)"
            )
        return store

    @classmethod
    def from_environment(cls) -> Self:
        """The settings that the environment says now. Raises ValidationError for an invalid value."""
        names = {f"{PREFIX}{name}".upper(): name for name in cls.model_fields}
        return cls.model_validate({names[k.upper()]: value for k, value in os.environ.items() if k.upper() in names})

    @property
    def root(self) -> Path:
        """`home` as an absolute path. Raises StorageFailed for the home of a user who does not exist."""
        try:
            return self.home.expanduser().absolute()
        except RuntimeError as error:
            raise StorageFailed(f"NARUTO_HOME is {self.home}: {error}; write the whole path.") from None

    @property
    def database_url(self) -> str:
        return self.database or sqlite_url(self.root / "naruto.db")

    @property
    def locks(self) -> Path:
        return self.lock_folder or self.root / "locks"


def sqlite_url(path: Path) -> str:
    """The SQLAlchemy URL of a SQLite file; `naruto_core.store.connection.parse_url` reads it back."""
    return f"sqlite:///{str(path).replace('%', '%25').replace('?', '%3F')}"


def read_settings() -> Settings:
    """The settings of this process, read now. Raises RecipeInvalid for an invalid value."""
    return _read(tuple((key, os.environ.get(key, "")) for key in os.environ if key.upper().startswith(PREFIX)))


@lru_cache(maxsize=8)
def _read(variables: tuple[tuple[str, str], ...]) -> Settings:
    """Checking all fields takes milliseconds, and a page reads the settings a hundred times: so once for each value."""
    del variables  # the cache's key only
    try:
        return Settings.from_environment()
    except ValidationError as error:
        raise invalid_settings(error, PREFIX) from None


def invalid_settings(error: ValidationError, prefix: str) -> RecipeInvalid:
    """The sentence about variables whose names begin with `prefix`."""
    wrong = [
        f"{prefix}{str(e['loc'][0]).upper()}: {e['msg'].removeprefix('Value error, ')} (got {str(e['input'])[:100]!r})"
        for e in error.errors()
    ]
    return RecipeInvalid(f"a setting is invalid: {'; '.join(wrong)}.")
