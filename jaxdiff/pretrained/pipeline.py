"""Readers of diffusers' pipelines: folders of several networks and a scheduler.

The folder's model_index.json names its parts. The network that is sampled takes its process, its
prediction and its label from the scheduler; the others are ``parts`` of the model:

    scheduler           how the pipeline steps: ``plan``, ``grid``, ``table``, ``start_scale``
    vae                 images to latents and back
    text_encoder, ...   CLIP's encoders, each with its tokenizer

    model = load_pretrained("folder")
    cond = text_condition(model, ["a red fox"])
    scheduler = model.parts["scheduler"]
    D = scheduler.thresholded(jd.guidance.negative_prompt(model.denoiser, 7.5))
    start = scheduler.start_scale(20) * jax.random.normal(key, (1, *model.shape))
    latents = jd.sample(D, scheduler.table(20), start, cond)
    images = model.parts["vae"].decode(latents)

What is not read (safety checkers, feature extractors, T5 encoders, whose tokens may be given as
arrays) is named in the metadata as ``left_out``.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

from jaxdiff.conditioning.guidance import Prompts
from jaxdiff.denoisers import denoiser, description
from jaxdiff.files import read_json
from jaxdiff.pretrained.autoencoders import is_autoencoder, read_autoencoder
from jaxdiff.pretrained.clip import read_text_encoder
from jaxdiff.pretrained.clip_tokenizer import read_tokenizer
from jaxdiff.pretrained.model import Pretrained, Source
from jaxdiff.pretrained.prompts import encode_prompt, encode_prompt_xl, no_prompt_xl, size_ids
from jaxdiff.pretrained.scheduler import Scheduler
from jaxdiff.pretrained.schedulers import read_scheduler

SAMPLED = ("unet", "transformer")
ENCODERS = {"text_encoder": "tokenizer", "text_encoder_2": "tokenizer_2"}
CLIP = ("CLIPTextModel", "CLIPTextModelWithProjection", "FlaxCLIPTextModel")


def read_pipeline(source: Source, open_part: Any, read_network: Any) -> Pretrained | None:
    """Return the model of a folder with a model_index.json, None for others.

    open_part: ``open_part(path) -> Source`` opens a part's folder; read_network: ``read_network(
    source) -> Pretrained`` reads the network that is sampled.
    """
    index = source.path / "model_index.json"
    if not source.path.is_dir() or not index.exists():
        return None
    names = {k: v[1] for k, v in source.config.items() if isinstance(v, list) and v[-1:] != [None]}
    sampled = next((name for name in SAMPLED if name in names), None)
    if sampled is None:
        raise ValueError(f"{index} names neither a unet nor a transformer, but {', '.join(names)}")
    if "scheduler" not in names:
        raise ValueError(f"{index} names no scheduler, which says what the network predicts")
    steps = read_json(source.path / "scheduler" / "scheduler_config.json")
    model = read_network(open_part(source.path / sampled))
    if steps.get("_class_name") == "ScoreSdeVeScheduler":
        return model  # a score, which its network's reader knows
    scheduler = read_scheduler(steps)
    model = with_scheduler(model, scheduler)
    parts: dict[str, Any] = {"scheduler": scheduler}
    for name, tokenizer in ENCODERS.items():
        if names.get(name) in CLIP:
            words = read_tokenizer(source.path / tokenizer)
            parts[name] = read_text_encoder(open_part(source.path / name), words)
    if "vae" in names and is_autoencoder(vae := open_part(source.path / "vae")):
        parts["vae"] = read_autoencoder(vae)
    known = {sampled, *parts, *(ENCODERS[name] for name in ENCODERS if name in parts)}
    said = {
        "name": source.config.get("_class_name"), "folder": str(source.path),
        "config": dict(source.config), "left_out": sorted({*names} - known),
    }  # fmt: skip
    metadata = {k: v for k, v in model.metadata.items() if k != "assumed"} | said
    return dataclasses.replace(model, parts=parts, metadata=metadata)


def with_scheduler(model: Pretrained, scheduler: Scheduler) -> Pretrained:
    """Return a model whose process, prediction, label and grid are those of a scheduler.

    Args:
        model: a published model.
        scheduler: as :func:`load_pretrained` reads it, or of another configuration.

    Returns:
        The model, driven by the scheduler.

    Raises:
        ValueError: for a model without a network.
    """
    scheduler = scheduler.at_size(model.shape[0] * model.shape[1] // 4)  # tokens of 2x2 latents
    made = description(model.denoiser)
    if made is None:
        raise ValueError(f"{model!r} has no network that a scheduler could drive")
    D = denoiser(
        made["network"], made["params"], prediction=scheduler.prediction,
        process=scheduler.process, label=scheduler.label, sigma_data=scheduler.sigma_data,
        sigma_min=scheduler.sigma_min, compute_dtype=made["compute_dtype"],
    )  # fmt: skip
    return dataclasses.replace(
        model, denoiser=D, prediction=scheduler.prediction, process=scheduler.process,
        grid=scheduler.grid, parts={**model.parts, "scheduler": scheduler},
    )  # fmt: skip


def text_condition(
    model: Pretrained,
    prompts: str | Sequence[str],
    negative: str | Sequence[str] | None = None,
    *,
    second: str | Sequence[str] | None = None,
    skip: int = 0,
    original: tuple[int, int] | None = None,
    corner: tuple[int, int] = (0, 0),
    size: tuple[int, int] | None = None,
) -> Prompts:
    """Return the conditions of prompts, and of negative ones, of a text-to-image model of Stable
    Diffusion's, for :func:`jaxdiff.conditioning.guidance.negative_prompt`.

    Args:
        model: with its text encoders as parts.
        prompts: one text, or one per sample.
        negative: likewise, one text standing for all; None is the empty text or, in SDXL, zeros
            where its pipeline has them (``force_zeros_for_empty_prompt``).
        second: prompts for SDXL's second encoder, those of the first if None.
        skip: layers of the encoders that are left out ("CLIP skip").
        original, corner, size: of SDXL, heights and widths in pixels
            (:func:`jaxdiff.pretrained.prompts.size_ids`); the model's own by default.

    Returns:
        Positive and negative conditions, a row per sample.

    Raises:
        ValueError: for a model without text encoders that are read, and for lists of different
            lengths.
    """
    texts = [prompts] if isinstance(prompts, str) else list(prompts)
    encoders = [model.parts[name] for name in ENCODERS if name in model.parts]
    if not encoders:
        raise ValueError(f"{model!r} has no text encoder that is read: give its tokens as arrays")
    one = "" if negative is None else negative
    far = [one] * len(texts) if isinstance(one, str) else list(one)
    if len(far) != len(texts):
        raise ValueError(f"there are {len(texts)} prompts and {len(far)} negative ones")
    if "pooled" not in getattr(model.network, "keys", lambda: ((),))()[0]:
        near = {"tokens": encode_prompt(encoders[0], texts, skip=skip)}
        return Prompts(near, {"tokens": encode_prompt(encoders[0], far, skip=0)})
    factor = model.parts["vae"].factor if "vae" in model.parts else 8
    pixels = size or (model.shape[0] * factor, model.shape[1] * factor)
    ids = size_ids(len(texts), pixels, original=original, corner=corner)
    near = encode_prompt_xl(encoders, texts, second, skip=skip)
    zeros = negative is None and model.metadata["config"].get("force_zeros_for_empty_prompt", True)
    none = no_prompt_xl(near) if zeros else encode_prompt_xl(encoders, far, skip=0)
    return Prompts({**near, "time_ids": ids}, {**none, "time_ids": ids})
