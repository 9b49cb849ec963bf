"""The state of a running service: all its components, built in one place."""

from dataclasses import dataclass
from datetime import UTC, datetime

from deployments.service.engine import Engine
from deployments.service.image_files import ImageFiles
from deployments.service.jobs import Jobs
from deployments.service.keys import Keys, RateLimiter, keys_required
from deployments.service.metrics import Metrics
from deployments.service.model_cache import ModelCache
from deployments.service.model_registry import ModelRegistry
from deployments.service.moderation import Moderator, make_moderator
from deployments.service.options import ServiceOptions
from deployments.service.quality_worker import QualitySampler, QualityWorker
from naruto_core import devices
from naruto_core.artifacts import Layout
from naruto_core.settings import Settings
from naruto_core.store.database import open_database
from naruto_core.store.served_scores import ServedScores
from naruto_core.store.service_jobs import ServiceJobs


@dataclass
class ServiceState:
    """What the routes and the background tasks use. `ready`: the default model is loaded and has drawn."""

    settings: Settings
    options: ServiceOptions
    keys: Keys
    keys_required: bool
    rate_limiter: RateLimiter
    registry: ModelRegistry
    engine: Engine
    jobs: Jobs
    job_store: ServiceJobs
    image_files: ImageFiles
    moderator: Moderator
    metrics: Metrics
    quality_worker: QualityWorker | None
    served_scores: ServedScores
    ready: bool = False


def service_state(settings: Settings, options: ServiceOptions) -> ServiceState:
    """Open the database and build the components; nothing is started.

    Jobs that an earlier process of the same instance name left open are marked as lost. Raises ServiceFailed if keys
    are required and there is none, or if the moderator cannot be loaded; KeysUnusable and RecordDamaged for damaged
    files.
    """
    layout = Layout(settings.root, settings.store)
    folder, metrics = settings.root / "service", Metrics()
    keys = Keys(folder / "keys.json")
    required = keys_required(keys, options.host)
    database = open_database(settings.database_url)
    job_store = database.service_jobs
    job_store.mark_lost(options.instance, datetime.now(UTC))
    image_files = ImageFiles(folder, options.url_minutes * 60, options.pictures_gib * 2**30)
    cache = ModelCache(devices.pick_device(settings.device), options.warm_bases, options.warm_adapters, metrics)
    engine = Engine(cache, options.longest_queue, metrics, fixed_size=options.determinism == "strict")
    moderator = make_moderator(options.checker)
    sampler = QualitySampler(layout.watched, options.watched_share, image_files.key)
    return ServiceState(
        settings=settings,
        options=options,
        keys=keys,
        keys_required=required,
        rate_limiter=RateLimiter(options.pictures_per_minute),
        registry=ModelRegistry(database.runs, database.ratings, layout, options.batch_size),
        engine=engine,
        jobs=Jobs(engine, job_store, image_files, moderator, sampler, metrics),
        job_store=job_store,
        image_files=image_files,
        moderator=moderator,
        metrics=metrics,
        quality_worker=QualityWorker(settings) if options.watched_share else None,
        served_scores=database.served_scores,
    )
