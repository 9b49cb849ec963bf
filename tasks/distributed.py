"""One training, as the first process calls for it and the others join in."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from naruto_core import sdxl
from naruto_core.recipe import Recipe
from naruto_core.recipe_training import TrainingSection
from naruto_core.training import distributed
from naruto_core.training.batches import TrainingData
from naruto_core.training.loop import Listeners, train_adapter
from naruto_core.training.weights import Weights
from tasks.context import task_context
from tasks.training_data import ClassPictures, StyleSource, TrainingPictures

if TYPE_CHECKING:
    from diffusers import StableDiffusionXLPipeline


@dataclass(frozen=True, slots=True)
class TrainingCall:
    """Everything that all processes of one training must agree on; `section` with the split that was planned."""

    recipe: Recipe
    section: TrainingSection
    styles: tuple[StyleSource, ...]
    drawn: ClassPictures | None
    checkpoint: Path
    identity: str

    def train(
        self,
        pipeline: "StableDiffusionXLPipeline",
        stages: Sequence[TrainingData],
        checkpoint_seconds: float,
        listeners: Listeners,
    ) -> Weights:
        """This process's share of the training."""
        tokens = self.recipe.new_tokens
        return train_adapter(
            pipeline, stages, self.section, tokens, self.checkpoint, checkpoint_seconds, self.identity, listeners
        )


def follow() -> None:
    """Join in every training that the first process calls for; the pictures are encoded by then."""
    with task_context() as context, distributed.together(context.device):

        def join(call: TrainingCall) -> None:
            pipeline = sdxl.load_pipeline(call.recipe.model, call.section.mixed_precision, context.device)
            stages = TrainingPictures(context, pipeline, call.recipe).stages(call.styles, call.drawn)
            call.train(pipeline, stages, context.settings.checkpoint_seconds, Listeners(_ignore, _ignore))

        distributed.follow(join)


def _ignore(_: object) -> None: ...
