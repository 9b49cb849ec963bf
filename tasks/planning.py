"""How a training fits into the memory of this machine."""

import torch

from naruto_core import devices
from naruto_core.recipe import Recipe
from naruto_core.settings import Settings
from naruto_core.training.memory import GIB, Plan, plan_memory


def planned(recipe: Recipe, settings: Settings, device: torch.device) -> Plan:
    """What each phase needs, and the split to train with; DeviceUnfit when nothing fits."""
    available = int(settings.memory_gib * GIB) if settings.memory_gib else devices.available_memory(device)
    return plan_memory(recipe.model, recipe.training, recipe.generation, device, available)
