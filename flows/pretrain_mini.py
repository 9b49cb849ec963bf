"""Flow `pretrain-mini`: make the miniature SDXL, its judge and the report on both (`make mini-base`)."""

from prefect import flow

from flows.profiles import all_prompt_texts
from naruto_core.mini.pretraining.stages import PretrainPlan
from tasks.pretrain import (
    begin_pretraining,
    learn_to_draw,
    learn_to_judge,
    learn_to_read_pictures,
    learn_to_see,
    learn_words,
    measure_base,
    ship,
)


@flow(name="pretrain-mini", result_serializer="json")
def pretrain_mini(plan: PretrainPlan | None = None) -> str:
    """Draw a world, learn to see it, to draw it from words, to judge it; measure; ship. Resumable at every stage."""
    plan = plan or PretrainPlan()
    workspace = begin_pretraining(plan)

    # The base: tokenizers, a VAE that has seen every kind of picture, encoders and UNet together.
    learn_words(workspace, all_prompt_texts())
    learn_to_see(workspace, plan)
    learn_to_draw(workspace, plan)

    # Its rulers, which share nothing with it: the judge is shipped, the attribute reader measures.
    learn_to_judge(workspace, plan)
    learn_to_read_pictures(workspace, plan)

    measure_base(workspace, plan)
    return ship(workspace, plan)


if __name__ == "__main__":
    pretrain_mini()
