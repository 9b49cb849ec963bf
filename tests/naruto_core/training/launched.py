"""`python -m CACHE FOLDER`: two processes share a training of 4 steps and write its adapter to FOLDER.

Started by torch's elastic launcher, which `torchrun` and `accelerate launch` (for several GPUs) start themselves; the
two processes are forks, which need no imports.
"""

import sys
from pathlib import Path

from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from naruto_core.training import distributed
from naruto_core.training.weights import write_files
from tests.naruto_core.conftest import CPU
from tests.naruto_core.training.pictures import PRIOR, captioned_tiny, encode, section_of, tiny_pipeline, train


def share(cache: Path, folder: Path, accumulation: int) -> None:
    """Do this process's share of a training of 4 steps and write the adapter to `folder`."""
    with distributed.process_group(CPU):
        pipeline = tiny_pipeline(cache / "base")
        examples = encode(pipeline, cache / "examples", picture=captioned_tiny)
        section = section_of(
            gradient_accumulation_steps=accumulation,
            max_train_steps=4,
            text_encoder_lr=1e-3,
            optimizer="adamw",
            learning_rate=1e-3,
            lora_dropout=0.1,
            prior=PRIOR,
        )
        steps, weights = train(pipeline, examples, section, folder / "checkpoint.safetensors")
        assert distributed.world_size() == 2 // accumulation
        if distributed.is_main_process():
            assert len(steps) == 4
            write_files(pipeline, weights, folder)
        else:
            assert not steps
        if not distributed.is_main_process():
            distributed.run_broadcast_jobs(lambda job: None)


def main() -> None:
    config = LaunchConfig(
        min_nodes=1, max_nodes=1, nproc_per_node=2, rdzv_backend="c10d", rdzv_endpoint="127.0.0.1:0",
        rdzv_configs={"is_host": True}, local_addr="127.0.0.1", start_method="fork", max_restarts=0, run_id="test",
    )  # fmt: skip
    elastic_launch(config, share)(Path(sys.argv[1]), Path(sys.argv[2]), 1)


if __name__ == "__main__":
    main()
