"""The publisher's options of a model of guided diffusion's family, checked against its shapes."""

from collections.abc import Mapping
from typing import Any

from jaxdiff.pretrained.guided_layout import Found
from jaxdiff.pretrained.guided_published import Published

DEFAULTS = {
    "num_heads_upsample": -1, "num_head_channels": -1, "use_new_attention_order": False,
    "noise_schedule": "linear", "diffusion_steps": 1000, "predict_xstart": False, "dropout": 0.0,
    "sigma_min": 0.002, "sigma_max": 80.0, "training_mode": "", "in_channels": 3,
}  # fmt: skip
"""Defaults of the publisher's scripts, of options that shapes do not determine."""
NEEDED = ("image_size", "num_heads", "rescale_timesteps")
ELSEWHERE = {
    "use_checkpoint", "use_fp16", "use_kl", "rescale_learned_sigmas", "sigma_small", "small_size",
    "weight_schedule", "loss_norm", "pool", "dims",
}  # fmt: skip
"""Options of training, of storage, or of parts that shapes determine."""
ALIASES = {
    "large_size": "image_size", "model_channels": "num_channels",
    "width": "num_channels", "depth": "num_res_blocks",
}  # fmt: skip


def options_of(
    found: Found, model: Published | None, config: Mapping[str, Any], path: str
) -> dict[str, Any]:
    """Return the options, of ``config``, of the published model, and of the publisher's defaults.

    Raises:
        ValueError: naming options that are not known, that shapes contradict, and those that must
            be said because shapes do not determine them and the model is not one of the published.
    """
    given = {}
    for name, value in config.items():
        short = name.removeprefix("classifier_")
        given[ALIASES.get(short, short)] = value
    known = {} if model is None else {"image_size": model.size, **model.options}
    chosen = {**DEFAULTS, **known, **given}
    if chosen["num_head_channels"] not in (-1, 0, None):
        chosen.setdefault("num_heads", 1)
    if chosen["diffusion_steps"] == 1000:
        chosen.setdefault("rescale_timesteps", False)  # a factor of 1
    said = _said_by_shapes(found, chosen)
    if strange := sorted(set(given) - set(DEFAULTS) - set(NEEDED) - set(said) - ELSEWHERE):
        raise ValueError(
            f"{path}: config has {', '.join(strange)}, which this family does not have"
        )
    wrong = {n: given[n] for n in sorted(set(said) & set(given)) if not _same(given[n], said[n])}
    if wrong:
        pairs = ", ".join(f"{n} = {v!r}, by its shapes {said[n]!r}" for n, v in wrong.items())
        raise ValueError(f"{path}: config has {pairs}")
    if missing := [name for name in NEEDED if name not in chosen]:
        raise ValueError(
            f"{path} is a U-Net of guided diffusion's family of {found.channels} channels, levels "
            f"{found.multipliers}, {found.blocks} blocks each, attention at levels "
            f"{found.attention}, {found.num_classes} classes, and none of the published ones: its "
            f"shapes do not say {', '.join(missing)}, nor noise_schedule, diffusion_steps and "
            "use_new_attention_order, if they are not the defaults; give config={...}"
        )
    return chosen


def _said_by_shapes(found: Found, chosen: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that shapes determine."""
    size = chosen.get("image_size", 0)
    factors = [2**level for level in found.attention]
    at = chosen.get("attention_resolutions")
    texts = isinstance(at, str)  # of map sizes; a list is of factors
    return {
        "num_channels": found.channels,
        "num_res_blocks": found.blocks,
        "channel_mult": found.multipliers,
        "attention_resolutions": ",".join(str(size // f) for f in factors) if texts else factors,
        "num_classes": found.num_classes,
        "class_cond": found.num_classes > 0,
        "use_scale_shift_norm": found.scale_shift,
        "resblock_updown": found.size_by == "block",
        "conv_resample": True,
        "out_channels": found.outputs,
        "learn_sigma": found.outputs == 2 * sample_channels(found, chosen),
    }


def _same(given: Any, said: Any) -> bool:
    if isinstance(said, (tuple, list)):
        if isinstance(given, str):
            return not given or given == ",".join(map(str, said))
        return sorted(given) == sorted(said)
    if isinstance(said, str):
        return sorted(str(given).split(",")) == sorted(said.split(","))
    if isinstance(said, bool) and said and given is False:
        return False
    return (given or 0) == said


def sample_channels(found: Found, chosen: Mapping[str, Any]) -> int:
    """Channels of an image: those that it was made for, 3 unless said otherwise."""
    return int(chosen["in_channels"])
