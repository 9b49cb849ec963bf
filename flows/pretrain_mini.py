"""Flow `pretrain-mini`: train the miniature SDXL and its judge, and report on both (`make mini-base`)."""

import argparse

from prefect import flow

from flows.profiles import all_prompt_texts
from naruto_core.mini.pretraining.stages import PretrainPlan
from tasks.pretrain import (
    begin_pretraining,
    measure_base,
    ship,
    train_attribute_classifier,
    train_clip_judge,
    train_tokenizers,
    train_unet,
    train_vae,
)


@flow(name="pretrain-mini", result_serializer="json")
def pretrain_mini(plan: PretrainPlan | None = None, real: str | None = None) -> str:
    """Draw the corpora, train all networks, measure them, and write the package. Every stage is resumable.

    `real` is a dataset of real drawings. Nothing learns from it; how well the VAE reconstructs it is reported.
    """
    plan = plan or PretrainPlan.model_validate({})
    workspace = begin_pretraining(plan, real)

    # The base: tokenizers, a VAE that has seen every kind of picture, encoders and UNet together.
    train_tokenizers(workspace, all_prompt_texts())
    train_vae(workspace, plan)
    train_unet(workspace, plan)

    # Networks that measure it, trained separately: the judge is shipped, the attribute classifier is not.
    train_clip_judge(workspace, plan)
    train_attribute_classifier(workspace, plan)

    measure_base(workspace, plan, real)
    return ship(workspace, plan)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Pretrain the miniature SDXL and its judge (resumable).")
    parser.add_argument("--real", metavar="DATASET", help="real drawings to measure the VAE with: a folder or file")
    pretrain_mini(real=parser.parse_args().real)
