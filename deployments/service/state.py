"""What one running service is made of, put together and taken apart."""

from dataclasses import dataclass
from datetime import UTC, datetime

from deployments.service.engine import Engine
from deployments.service.image_files import PictureFiles
from deployments.service.jobs import Jobs
from deployments.service.keys import Keys, RateLimiter, keys_needed
from deployments.service.metrics import Metrics
from deployments.service.model_cache import ModelCache
from deployments.service.model_registry import ModelRegistry
from deployments.service.moderation import Moderator, make_moderator
from deployments.service.options import ServiceOptions
from deployments.service.quality_worker import QualityWorker, Sampler
from naruto_core import devices
from naruto_core.artifacts import Layout
from naruto_core.settings import Settings
from naruto_core.store.database import open_database
from naruto_core.store.served_scores import ServedScores
from naruto_core.store.service_jobs import ServiceJobs


@dataclass
class ServiceState:
    """Everything the routes use."""

    settings: Settings
    options: ServiceOptions
    keys: Keys
    keys_needed: bool
    allowance: RateLimiter
    catalogue: ModelRegistry
    engine: Engine
    jobs: Jobs
    record: ServiceJobs
    files: PictureFiles
    checker: Moderator
    metrics: Metrics
    sampler: Sampler
    watching: QualityWorker | None
    served: ServedScores
    ready: bool = False


def service_state(settings: Settings, options: ServiceOptions) -> ServiceState:
    """Opens the record and starts nothing; jobs that an earlier process of this name left open are given up."""
    metrics, url, keys = Metrics(), settings.database_url, Keys(settings.root / "service" / "keys.json")
    asks_for_keys = keys_needed(keys, options.host)
    database = open_database(url)
    record = database.service_jobs
    record.mark_lost(options.instance, datetime.now(UTC))
    folder = settings.root / "service"
    files = PictureFiles(folder, options.url_minutes * 60)
    shelf = ModelCache(devices.pick_device(settings.device), options.warm_bases, options.warm_adapters, metrics)
    engine = Engine(shelf, options.longest_queue, metrics)
    checker = make_moderator(options.checker)
    sampler = Sampler(Layout(settings.root).watched, options.watched_share, files.key)
    return ServiceState(
        settings=settings,
        options=options,
        keys=keys,
        keys_needed=asks_for_keys,
        allowance=RateLimiter(options.pictures_per_minute),
        catalogue=ModelRegistry(database.runs, database.ratings, settings.root, options.batch_size),
        engine=engine,
        jobs=Jobs(engine, record, files, checker, sampler, metrics),
        record=record,
        files=files,
        checker=checker,
        metrics=metrics,
        sampler=sampler,
        watching=QualityWorker(settings) if options.watched_share else None,
        served=database.served_scores,
    )
