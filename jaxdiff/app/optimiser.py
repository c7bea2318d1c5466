"""The optimiser of a configuration: clipping, Adam or AdamW, warm-up and a schedule."""

from typing import Any

import jax

from jaxdiff.app import config as configs
from jaxdiff.app.options import refuse
from jaxdiff.training.measures import rated


def check_optimiser(config: configs.Train) -> None:
    """Raise ValueError, naming them, for options of the learning rate without effect."""
    if config.schedule != "inverse_sqrt":
        refuse(config, f"the schedule {config.schedule} does not read it", "decay_after")
    elif _decay_after(config) >= config.updates:
        raise ValueError(
            f"--decay-after {_decay_after(config)} is not below --updates {config.updates}: the "
            "rate would never fall; give --schedule constant"
        )


def optimiser(config: configs.Train) -> Any:
    """Return clipping by norm, then Adam (AdamW with weight decay) at the rate of a schedule."""
    import optax

    rate, decay = learning_rate(config), config.weight_decay
    own = optax.adamw(rate, b2=0.99, weight_decay=decay, mask=_matrices) if decay else None
    own = own or optax.adam(rate, b2=0.99)
    clipped = () if config.clip is None else (optax.clip_by_global_norm(config.clip),)
    return rated(optax.chain(*clipped, own) if clipped else own, rate)


def learning_rate(config: configs.Train) -> Any:
    """Return ``rate(update)``: a warm-up from zero, then what the schedule says.

        inverse_sqrt    peak / sqrt(max(update / decay_after, 1))

    Source: Karras et al. 2312.02696, appendix B (equation 67), which multiplies it by the warm-up.
    """
    import jax.numpy as jnp
    import optax

    peak, warmup = config.learning_rate, warmup_of(config)
    if config.schedule == "cosine":
        return optax.warmup_cosine_decay_schedule(0.0, peak, warmup, config.updates)
    after = _decay_after(config)

    def rate(n: Any) -> Any:
        rise = jnp.minimum(n / max(warmup, 1), 1.0) if warmup else 1.0
        falls = config.schedule == "inverse_sqrt"
        return peak * rise * (jnp.maximum(n / after, 1.0) ** -0.5 if falls else 1.0)

    return rate


def warmup_of(config: configs.Train) -> int:
    """Return the updates of warm-up: at most half of all."""
    return min(config.warmup, config.updates // 2)


def _decay_after(config: configs.Train) -> int:
    return config.decay_after or max(config.updates // 15, 1)


def _matrices(params: Any) -> Any:
    """Return which parameters decay: weights, and no shifts or scales."""
    return jax.tree.map(lambda p: p.ndim >= 2, params)
