"""Checkpoint files: everything that a stopped loop needs to resume, as tensors and JSON, never pickle.

A checkpoint is a safetensors file whose metadata carries the plain values. It is written beside
its final name and renamed, so that a reader sees the old file or the new one.
It contains a sha256 of its content: a damaged file is refused.
"""

import hashlib
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from naruto_core.artifacts import scratch_path
from naruto_core.errors import RecordDamaged

State = dict[str, Any]


def write_checkpoint(path: Path, tensors: dict[str, torch.Tensor], values: State) -> None:
    """Save `tensors` (on any device) and `values` (for JSON) at `path`, atomically. Raises OSError, SafetensorError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = scratch_path(path)
    # copies: safetensors refuses views of one buffer, which a flat optimizer's weights are
    copies = {name: t.detach().to("cpu", copy=True).contiguous() for name, t in tensors.items()}
    plain = json.dumps(values, sort_keys=True)
    try:
        save_file(copies, scratch, metadata={"values": plain, "sha256": _digest(copies, copies.__getitem__, plain)})
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)


def sort_header(path: Path) -> None:
    """Rewrite the header of a safetensors file in sorted order, in place.

    The library writes metadata in the order of a randomly seeded hash map: the same weights would give
    another file each time. Offsets are relative to the end of the header, so only the header changes.
    """
    with path.open("r+b") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.dumps(json.loads(file.read(length)), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        padded = header.encode().ljust(length)
        if len(padded) == length:  # no need to rewrite the weights
            file.seek(8)
            file.write(padded)
            return
        data = file.read()
        padded += b" " * (-len(padded) % 8)
        file.seek(0)
        file.write(len(padded).to_bytes(8, "little") + padded + data)


def read_checkpoint(path: Path) -> tuple[dict[str, torch.Tensor], State]:
    """The tensors (on the CPU, memory-mapped) and values of the checkpoint at `path`.

    Raises RecordDamaged when the file is damaged, and FileNotFoundError.
    """
    try:
        _check(path)
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
            return tensors, json.loads(file.metadata()["values"])
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise RecordDamaged(f"{path} is damaged: remove it, and it is created again.") from error


def _check(path: Path) -> None:
    """Raise ValueError unless the content has its sha256. The file is mapped for this alone, tensor after tensor: pages
    that were read count as memory for as long as their mapping is held."""
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
        if _digest(file.keys(), file.get_tensor, metadata["values"]) != metadata["sha256"]:
            raise ValueError("another sha256")


def _digest(names: Iterable[str], tensor_of: Callable[[str], torch.Tensor], plain: str) -> str:
    """sha256 of the values and of every tensor's name, dtype, shape and bytes."""
    digest = hashlib.sha256(plain.encode())
    for name in sorted(names):
        tensor = tensor_of(name)
        digest.update(f"\0{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def pack_optimizer(optimizer: torch.optim.Optimizer) -> tuple[dict[str, torch.Tensor], State]:
    """An optimizer's state as flat tensors (`optimizer.<parameter>.<slot>`) and plain values."""
    state = optimizer.state_dict()
    tensors: dict[str, torch.Tensor] = {}
    values: State = {"slots": {}, "groups": state["param_groups"]}
    for index, slots in state["state"].items():
        for slot, value in slots.items():
            if isinstance(value, torch.Tensor):
                tensors[f"optimizer.{index}.{slot}"] = value
            else:
                values["slots"][f"{index}.{slot}"] = value
    return tensors, values


def unpack_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, torch.Tensor], values: State) -> None:
    """Undo `pack_optimizer` on an optimizer over the same parameters."""
    slots: dict[int, State] = {}
    for name, tensor in tensors.items():
        if name.startswith("optimizer."):
            _, index, slot = name.split(".", 2)
            slots.setdefault(int(index), {})[slot] = tensor
    for name, value in values["slots"].items():
        index, slot = name.split(".", 1)
        slots.setdefault(int(index), {})[slot] = value
    optimizer.load_state_dict({"state": slots, "param_groups": values["groups"]})
