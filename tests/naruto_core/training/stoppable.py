"""`python -m`: a long training in the folder that is given; prints the number of its steps so far."""

import signal
import sys
from pathlib import Path

from naruto_core.domain import StepRecord
from tests.naruto_core.training.pictures import captioned_tiny, encode, section_of, tiny_pipeline, train


def main() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # tests may run where Ctrl-C is ignored
    folder = Path(sys.argv[1])
    pipeline = tiny_pipeline(folder / "base")
    examples = encode(pipeline, folder / "cache", picture=captioned_tiny)

    def heard(steps: list[StepRecord]) -> None:
        print(len(steps), flush=True)

    train(pipeline, examples, section_of(max_train_steps=10_000), folder / "checkpoint.safetensors", heard)


if __name__ == "__main__":
    main()
