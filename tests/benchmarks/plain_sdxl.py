"""What a notebook does: PEFT's layers under autocast, one picture at a time, everything encoded as it comes.

The objective is the `t4` recipe's: min-SNR weights, one class picture beside each picture, both text encoders learn.
"""

import time
from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch
from diffusers import DDPMScheduler, StableDiffusionXLPipeline
from diffusers.training_utils import compute_snr

from naruto_core.prompts import join_caption
from naruto_core.recipe_training import TrainingSection
from naruto_core.text_encoding import encode_texts
from naruto_core.training.latent_cache import time_ids
from naruto_core.training.lora import add_adapters, trainable

CAPTION, CLASS_PROMPT = "a person with red hair in the rain", "an anime character"


def plain_steps(
    pipeline: StableDiffusionXLPipeline,
    section: TrainingSection,
    warm_up: int,
    steps: int,
    wait: Callable[[], None],
) -> float:
    """Seconds a step over `steps` steps, after `warm_up` others; `wait` until the device has done what it was told."""
    prodigy: Any = import_module("prodigyopt").Prodigy  # not needed where only files are looked at
    add_adapters(pipeline, section)  # fp32 weights beside the frozen half-precision ones
    pipeline.unet.enable_gradient_checkpointing()
    pipeline.unet.train()
    weights = list(trainable(pipeline).values())
    optimizer = prodigy(weights, lr=1.0, weight_decay=1e-4, use_bias_correction=True, safeguard_warmup=True)
    scaler = torch.amp.GradScaler(pipeline.device.type)
    scheduler: Any = DDPMScheduler.from_config(pipeline.scheduler.config)
    began = 0.0
    for step in range(warm_up + steps):
        if step == warm_up:
            wait()
            began = time.perf_counter()
        for _ in range(section.gradient_accumulation_steps):
            loss = _loss(pipeline, section, scheduler) / section.gradient_accumulation_steps
            scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(weights, section.max_grad_norm)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
    wait()
    return (time.perf_counter() - began) / steps


def _loss(pipeline: StableDiffusionXLPipeline, section: TrainingSection, scheduler: Any) -> torch.Tensor:
    """Of one picture and one class picture, in one pass."""
    device, size = pipeline.unet.device, section.resolution
    pixels = torch.rand(2, 3, size, size).to(device, pipeline.vae.dtype) * 2 - 1
    texts = [join_caption(section.instance_prompt, CAPTION), CLASS_PROMPT]
    with torch.autocast(device.type, torch.float16):
        with torch.no_grad():
            clean = pipeline.vae.encode(pixels).latent_dist.sample() * pipeline.vae.config.scaling_factor
        text = encode_texts(pipeline, texts)
        noise, t = torch.randn_like(clean), torch.randint(0, 1000, (2,), device=device)
        sizes = torch.tensor([time_ids((size, size), (0, 0), (size, size))] * 2, device=device)
        condition = {"text_embeds": text.pooled, "time_ids": sizes}
        noisy = scheduler.add_noise(clean, noise, t)
        predicted = pipeline.unet(noisy, t, text.hidden, added_cond_kwargs=condition).sample
    snr = compute_snr(scheduler, t)
    error = (predicted.float() - noise.float()).square().mean(dim=(1, 2, 3))
    return (error * snr.clamp(max=section.snr_gamma) / snr).sum()
