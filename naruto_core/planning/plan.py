"""The plan of a run: what each phase takes in time, and what the run needs in memory and on the disk."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from huggingface_hub import try_to_load_from_cache

from naruto_core import sdxl
from naruto_core.domain import PhaseSpeed, PlannedPhase, format_duration
from naruto_core.planning.device_speeds import GIB, DeviceSpeed
from naruto_core.planning.flops import Architecture, architecture
from naruto_core.planning.metric_networks import DOWNLOAD_RATE, metric_networks
from naruto_core.planning.workload import PhaseWork, Workload, phases
from naruto_core.recipe import Recipe
from naruto_core.recipe_sections import ModelSection
from naruto_core.single_file import SDXL_CONFIG, is_single_file
from naruto_core.training.memory import MemoryPlan, plan_memory

FP16_VAE_CONFIG = "package:naruto_core.planning/vae_fp16_fix"  # as madebyollin/sdxl-vae-fp16-fix: no force_upcast
MEASURED, ESTIMATED = "measured here", "estimated"
DISK_RATE = 300e6  # bytes/s in which weights are read and written: an assumption, of a network disk as clouds have it
LIBRARY_BYTES = int(1.5 * GIB)  # of the host's memory, for Python and the libraries
BYTES_PER_PIXEL = 1.5  # of a drawn picture as PNG
SIMILAR = 0.05  # relative difference of FLOPs up to which the seconds of a unit are scaled by them


@dataclass(frozen=True, slots=True)
class Plan:
    """The phases that a run still has to do on `device`; bytes on the host, and on the disk by what they are; notes."""

    device: DeviceSpeed
    phases: tuple[PlannedPhase, ...]
    host_bytes: int
    disk_bytes: dict[str, int]
    notes: tuple[str, ...]

    @property
    def seconds(self) -> float:
        """The seconds of all phases together."""
        return sum(phase.seconds for phase in self.phases)

    @property
    def device_bytes(self) -> int:
        """The largest need of memory on the device."""
        return max((phase.memory for phase in self.phases), default=0)


def fit_memory(recipe: Recipe, kind: str, available: int) -> MemoryPlan:
    """How the training fits into `available` bytes of a device of `kind` "cuda" or "cpu".

    Needs configurations only, no weights. Raises DeviceUnfit when a phase does not fit, and ModelUnusable when the
    base model's configuration cannot be read.
    """
    model, _ = configured(recipe.model)
    return plan_memory(model, recipe.training, recipe.generation, torch.device(kind), available)


def plan_run(
    recipe: Recipe,
    workload: Workload,
    device: DeviceSpeed,
    kind: str,
    memory: MemoryPlan,
    measured: Sequence[PhaseSpeed] = (),
    notes: Sequence[str] = (),
) -> Plan:
    """The plan of `workload` on `device`, of `kind` "cuda" or "cpu"; `measured` is what was measured on it before."""
    model, note = configured(recipe.model)
    networks = architecture(model)
    work = phases(recipe, memory.section, workload, networks)
    weights = sum(networks.parameters.values())
    itemsize = 4 if kind == "cpu" or recipe.generation.mixed_precision == "fp32" else 2
    loading = weights * itemsize + LIBRARY_BYTES
    return Plan(
        device=device,
        phases=tuple(_planned(phase, weights * itemsize, device, memory.needs, measured) for phase in work),
        host_bytes=max([loading, *memory.needs.values()]) if kind == "cpu" else loading,
        disk_bytes=_disk(recipe, workload, networks, memory),
        notes=(*([note] if note else []), *_split(memory), *_downloads(recipe), *notes),
    )


def configured(model: ModelSection) -> tuple[ModelSection, str]:
    """A model whose configuration is on this machine, and what to know about it ("" for the model itself).

    SDXL base 1.0 stands for a hub id whose configuration was not downloaded: nearly all SDXL models have its networks.
    """
    vae = {"vae": FP16_VAE_CONFIG} if "fp16-fix" in (model.vae or "") else {}
    standard = ModelSection.model_validate({"base": SDXL_CONFIG, **vae})
    if is_single_file(model.base):
        if model.config is None:
            return standard, ""
        return configured(ModelSection.model_validate({"base": model.config, "revision": model.config_revision, **vae}))
    sources: list[tuple[str, str | None, str]] = [(model.base, model.revision, "unet/config.json")]
    sources += [(model.vae, model.vae_revision, "config.json")] if model.vae else []
    for name, revision, file in sources:
        source, pinned = sdxl.locate(name, revision)
        if pinned and not isinstance(try_to_load_from_cache(source, file, revision=pinned), str):
            note = f"{name} is not on this machine: planned with the published configuration of SDXL base 1.0"
            return standard, note
    return model, ""


def _planned(
    phase: PhaseWork, weight_bytes: int, device: DeviceSpeed, needs: dict[str, int], measured: Sequence[PhaseSpeed]
) -> PlannedPhase:
    known = find_speed(measured, phase.phase, device.name, phase.precision, phase.work.flops)
    if known:
        seconds, basis = known.seconds_per_unit * phase.units * phase.work.flops / known.flops, MEASURED
    else:
        moved = phase.loads * weight_bytes + phase.written
        seconds = phase.units * device.seconds(phase.work) + moved / DISK_RATE
        basis = device.basis if phase.phase not in ("fuse", "score") else ESTIMATED
    return PlannedPhase(
        phase=phase.phase,
        units=phase.units,
        unit=phase.unit,
        flops=phase.work.flops,
        seconds=seconds,
        basis=basis,
        device=device.name,
        precision=phase.precision,
        memory=needs.get(phase.memory_phase, 0),
    )


def find_speed(
    measured: Sequence[PhaseSpeed], phase: str, device: str, precision: str, flops: float
) -> PhaseSpeed | None:
    """The first of `measured` (the newest) with the same phase, device and precision and similar FLOPs; or None."""
    for speed in measured:
        same = (speed.phase, speed.device, speed.precision) == (phase, device, precision)
        if same and abs(speed.flops - flops) <= SIMILAR * flops:
            return speed
    return None


def _split(memory: MemoryPlan) -> Iterator[str]:
    section = memory.section
    if section.fit_memory:
        split = f"batch {section.train_batch_size} x {section.gradient_accumulation_steps}"
        checkpointing = " with gradient checkpointing" if section.gradient_checkpointing else ""
        yield f"training is planned with {split}{checkpointing}, which fits into the memory"


def _downloads(recipe: Recipe) -> Iterator[str]:
    networks = metric_networks(recipe.scoring)
    if size := sum(network.size or 0 for network in networks if not network.downloaded):
        time = format_duration(size / DOWNLOAD_RATE)
        yield (
            f"to be downloaded once for the metrics: {size_text(size)}, {time} at 100 Mbit/s, not in the times above; "
            "all but the set extractor and the pair extractor can be left out"
        )
    if unknown := [network.name for network in networks if network.size is None]:
        yield f"not counted on the disk, because the size is not known: {', '.join(unknown)}"


def _disk(recipe: Recipe, workload: Workload, networks: Architecture, memory: MemoryPlan) -> dict[str, int]:
    """Bytes by what is written; base model and metric networks are downloaded once, the others are in NARUTO_HOME."""
    drawing, prior, previews = recipe.generation, recipe.training.prior, recipe.training.previews
    weights = sum(networks.parameters.values())
    shown = workload.previews * (previews.prompts if previews else 0) + workload.preview_base
    sizes = [
        (workload.base_samples + workload.adapter_samples + workload.checked, drawing.resolution),
        (workload.class_pictures, (prior and prior.resolution) or drawing.resolution),
        (shown, (previews and previews.resolution) or drawing.resolution),
    ]
    pixels = sum(count * side * side for count, side in sizes)
    downloaded = weights * (2 if recipe.model.variant == "fp16" else 4)
    base = (
        {}
        if recipe.model.base.startswith("package:") or Path(recipe.model.base).exists()
        else {"base model": downloaded}
    )
    return base | {
        "metric networks": sum(network.size or 0 for network in metric_networks(recipe.scoring)),
        "pictures": int(pixels * BYTES_PER_PIXEL),
        "adapter": memory.trainable * 4 * (1 + workload.previews),
        "fused model": workload.fused * weights * (4 if recipe.training.mixed_precision == "fp32" else 2),
    }


def table(plan: Plan) -> list[list[str]]:
    """The plan as rows of text, the first one with the columns' names; the last one with the sums."""
    rows = [["phase", "units", "TFLOP", "time", "time from", "memory"]]
    for phase in plan.phases:
        units = f"{phase.units:,} {phase.unit}{'' if phase.units == 1 else 's'}"
        memory = size_text(phase.memory) if phase.memory else ""
        seconds = format_duration(phase.seconds)
        rows.append([phase.phase, units, _tera(phase.units * phase.flops), seconds, phase.basis, memory])
    total = sum(phase.units * phase.flops for phase in plan.phases)
    rows.append(["all", "", _tera(total), format_duration(plan.seconds), "", size_text(plan.device_bytes)])
    return rows


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """`rows` as lines with aligned columns."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)
    return "\n".join(lines)


def size_text(size: int) -> str:
    """Bytes for people: "13.2 GiB", "40 MiB"."""
    return f"{size / GIB:.1f} GiB" if size >= GIB / 10 else f"{size / 2**20:.1f} MiB"


def _tera(flops: float) -> str:
    return f"{flops / 1e12:,.0f}" if flops >= 1e13 else f"{flops / 1e12:.3f}"


def facts(plan: Plan) -> list[str]:
    """What the table does not say: the device and the source of its speed, memory of the host, disk, notes."""
    disk = ", ".join(f"{name} {size_text(size)}" for name, size in plan.disk_bytes.items() if size)
    return [
        f"{plan.device.name}: {plan.device.rate / 1e12:.3g} TFLOP/s ({plan.device.basis}: {plan.device.source})",
        f"host memory: {size_text(plan.host_bytes)} at most",
        f"disk: {size_text(sum(plan.disk_bytes.values()))} ({disk})",
        *plan.notes,
    ]


def as_json(plan: Plan) -> dict[str, object]:
    """The plan in JSON's types; seconds and bytes."""
    return {
        "device": plan.device.name,
        "device_flops_per_second": plan.device.rate,
        "device_basis": plan.device.basis,
        "device_source": plan.device.source,
        "phases": [asdict(phase) for phase in plan.phases],
        "seconds": plan.seconds,
        "device_bytes": plan.device_bytes,
        "host_bytes": plan.host_bytes,
        "disk_bytes": plan.disk_bytes,
        "notes": list(plan.notes),
    }
