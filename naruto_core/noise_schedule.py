"""The noise schedule of a base model: by the recipe, by a single file, by the scheduler's file, or SDXL's own.

Loss and samplers use it. Its settings are those of diffusers' schedulers: `prediction_type`, `rescale_betas_zero_snr`
and `timestep_spacing`.
"""

from typing import Any

from naruto_core.errors import ModelUnusable
from naruto_core.recipe_sections import ModelSection
from naruto_core.sampling import complete_schedule
from naruto_core.single_file import ZERO_TERMINAL_SNR, read_base


def stated_schedule(section: ModelSection) -> dict[str, Any]:
    """The noise schedule by the recipe, and else by a single file: settings of diffusers' schedulers, {} if none.

    Nothing is downloaded. Raises ModelUnusable for a file that cannot be read.
    """
    file = read_base(section.base, section.revision, download=False)
    return (file.schedule if file else {}) | stated_by_recipe(section)


def stated_by_recipe(section: ModelSection) -> dict[str, Any]:
    """The noise schedule that the recipe sets, as settings of diffusers' schedulers; {} if none."""
    stated: dict[str, Any] = {}
    if section.prediction_type:
        stated["prediction_type"] = section.prediction_type
    if section.rescale_betas_zero_snr is not None:
        stated |= ZERO_TERMINAL_SNR if section.rescale_betas_zero_snr else {"rescale_betas_zero_snr": False}
    return stated


def with_schedule(section: ModelSection, scheduler: Any) -> Any:
    """The model's own `scheduler`, completed, with the noise schedule of `stated_schedule`."""
    from diffusers import EulerDiscreteScheduler

    config = complete_schedule(scheduler.config) | stated_schedule(section)
    zero_terminal_snr = config.get("rescale_betas_zero_snr")
    if zero_terminal_snr and config["prediction_type"] == "epsilon":
        raise ModelUnusable(
            f"{section.base} predicts noise (epsilon), which is impossible with a zero terminal SNR: set "
            "model.prediction_type to v_prediction, or model.rescale_betas_zero_snr to false."
        )
    kind: Any = EulerDiscreteScheduler if zero_terminal_snr else type(scheduler)  # others may not rescale
    return kind.from_config(config)
