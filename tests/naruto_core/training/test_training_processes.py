"""Two processes make the adapter that one makes with the doubled batch.

Started by torch's launcher, which `accelerate launch` starts itself for several GPUs; for several processes on one
CPU accelerate wants MPI.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from naruto_core import sdxl
from naruto_core.training import distributed
from naruto_core.training.weights import write_files
from tests.naruto_core.conftest import CPU, MINIATURE
from tests.naruto_core.training.pictures import ADAPTER, PRIOR, encode, section_of, train

SHARE = """
import sys
from pathlib import Path
from tests.naruto_core.training.test_training_processes import share
share(Path(sys.argv[1]), Path(sys.argv[2]), accumulation=1)
"""


def share(cache: Path, folder: Path, accumulation: int) -> None:
    """Do this process's share of a training of 4 steps and write the adapter to `folder`."""
    with distributed.process_group(CPU):
        pipeline = sdxl.load_pipeline(MINIATURE, "fp32", CPU)
        examples = encode(pipeline, cache)
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


@pytest.mark.slow
def test_two_processes_make_the_adapter_of_one_with_the_doubled_batch(tmp_path: Path):
    share(tmp_path / "cache", tmp_path / "one", accumulation=2)
    program = tmp_path / "share.py"
    program.write_text(SHARE)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command = [*launch, str(program), str(tmp_path / "cache"), str(tmp_path / "two")]
    here = {"PYTHONPATH": str(Path(__file__).parents[3])}
    done = subprocess.run(command, env=os.environ | here, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    two, one = (load_file(tmp_path / name / ADAPTER) for name in ("two", "one"))
    assert two.keys() == one.keys()
    for name, weight in one.items():
        assert torch.allclose(two[name], weight, rtol=1e-4, atol=1e-5), name
    assert max(float(w.abs().max()) for n, w in one.items() if ".lora_B." in n) > 1e-3  # it has learnt something
