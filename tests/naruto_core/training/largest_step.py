"""`python -m`: one training step over one picture, then one over many, in the folder that is given.

Prints, in GiB, the most memory that was used before and after the second, and what the plan says of its activations.
"""

import sys
from pathlib import Path

from naruto_core import devices, sdxl
from naruto_core.training.memory import _Parts
from naruto_core.training.step import Trainer
from tests.naruto_core.conftest import CPU, MINIATURE
from tests.naruto_core.training.pictures import data_of, encode, section_of

PICTURES = 32


def main() -> None:
    section = section_of(train_batch_size=PICTURES, mixed_precision="bf16")
    pipeline = sdxl.load_pipeline(MINIATURE, "bf16", CPU)
    examples = encode(pipeline, Path(sys.argv[1]))
    run = Trainer(pipeline, [data_of(examples, section)], section, {})
    run.gradients[0].stream.size = 1
    run.optimizer_step(0)
    before = devices.peak_memory(CPU)
    run.gradients[0].stream.size = PICTURES
    run.optimizer_step(1)
    print(before, devices.peak_memory(CPU), _Parts(MINIATURE, section, CPU)._activations(section, 64, False) / 2**30)


if __name__ == "__main__":
    main()
