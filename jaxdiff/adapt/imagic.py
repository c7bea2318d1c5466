"""Imagic: an image edited by a text, in three stages (Kawar et al., 2210.09276, section 3).

    1  e_opt = argmin_e E |x0 - D(x0 + s n, s, e)|^2 from e_target, the network frozen
    2  theta = argmin E |x0 - D_theta(x0 + s n, s, e_opt)|^2, e_opt frozen
    3  sample D_theta(., ., e),   e = eta e_target + (1 - eta) e_opt

of one image x0. The condition is a parameter of the network then; both first stages are score
matching, trained one after the other by :func:`jaxdiff.training.fit_stages.fit_stages`.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxdiff.adapt.described import described
from jaxdiff.adapt.frame import adapter_only, trainable
from jaxdiff.adapt.patterns import Pattern
from jaxdiff.denoisers import denoiser
from jaxdiff.distill.parts.stage import Before, Stage
from jaxdiff.distill.parts.student import Student
from jaxdiff.distill.score_matching import score_matching
from jaxdiff.method import Method
from jaxdiff.typing import Array, Cond, Denoiser, Network, Params


@dataclasses.dataclass(frozen=True)
class OwnCondition:
    """A network whose condition is one of its parameters, ``{"base": base, "adapter": cond}``, one
    sample's, and the same for all.

    Attributes:
        network: ``network(params, x, label, cond, **options)``.
    """

    network: Network

    def __call__(
        self, params: Params, x: Array, label: Array, cond: Cond = None, /, **options: Any
    ) -> Any:
        """Apply the network. Raises ValueError for a condition besides its own."""
        if cond is not None:
            raise ValueError("the network has a condition of its own, and takes no other")
        rows = jax.tree.map(lambda c: jnp.broadcast_to(c[None], (x.shape[0], *c.shape)),
                            params["adapter"])  # fmt: skip
        return self.network(params["base"], x, label, rows, **options)


def imagic_stages(
    D: Denoiser,
    target: Cond,
    *,
    embedding: optax.GradientTransformation | None = None,
    optimiser: optax.GradientTransformation | None = None,
    layers: Pattern = "*",
    share: float = 0.4,
    **fields: Any,
) -> list[Stage]:
    """Return the first two stages, for :func:`jaxdiff.training.fit_stages.fit_stages`.

    Args:
        D: as :func:`jaxdiff.denoisers.denoiser` makes it.
        target: condition of the text, one sample's, of floats: {"tokens": (tokens, width)}.
        embedding: optimiser of the condition; Adam with learning rate 1e-3 by default.
        optimiser: of the network; Adam with learning rate 5e-7 by default, the paper's for
            networks of hundreds of millions of parameters.
        layers: pattern of the network's parameters that the second stage trains.
        share: of the updates, of the first stage; 0.4 is the paper's for Stable Diffusion, 1000 and
            1500 updates.
        fields: further ones of :class:`jaxdiff.distill.Student`.

    Returns:
        The stages. Their data are batches {"image": ...} of the one image, repeated.

    Raises:
        TypeError: for another denoiser, or a condition that has no gradient.
        ValueError: for a share outside (0, 1).
    """
    made = described(D)
    if not 0 < share < 1:
        raise ValueError(f"the share of the first stage lies between 0 and 1; got {share}")
    for leaf in jax.tree.leaves(target):
        if not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
            raise TypeError(f"the condition must be of floats, not {jnp.result_type(leaf)}")
    inside = (
        [layers] if isinstance(layers, str) or not isinstance(layers, (list, tuple)) else layers
    )
    pattern = tuple(f"base/{one}" for one in inside if isinstance(one, str))
    if len(pattern) != len(inside):
        raise TypeError("layers are shell patterns here")
    start = {"base": made["params"], "adapter": jax.tree.map(jnp.asarray, target)}
    student = Student.of(D, **fields)._replace(
        network=OwnCondition(made["network"]), params=start, label_drop=0.0
    )
    first = adapter_only(embedding or optax.adam(1e-3))
    second = trainable(optimiser or optax.adam(5e-7), pattern)

    def method(before: Before | None, optimiser: optax.GradientTransformation) -> Method:
        params = start if before is None else before.params
        return score_matching(student._replace(params=params, optimiser=optimiser))

    return [
        Stage("embedding", functools.partial(method, optimiser=first), share),
        Stage("network", functools.partial(method, optimiser=second), 1 - share),
    ]


def imagic_denoiser(D: Denoiser, params: Params, target: Cond, eta: float) -> jax.tree_util.Partial:
    """Return the third stage's denoiser, at a mixture of both conditions.

    Args:
        D: as it was before.
        params: that the stages left, ``state.params["student"]``.
        target: condition of the text, as before.
        eta: weight of the target, 0 for the image as it is; 0.6 to 0.8 in the paper.

    Returns:
        ``D(y, level)``, to be sampled.

    Raises:
        TypeError: for another denoiser.
        ValueError: for eta that is not finite.
    """
    made = described(D)
    if not np.isfinite(eta):
        raise ValueError(f"eta must be finite; got {eta}")
    mixed = jax.tree.map(
        lambda e, o: (eta * jnp.asarray(e, o.dtype) + (1 - eta) * o).astype(o.dtype),
        target, params["adapter"],
    )  # fmt: skip
    network = OwnCondition(made.pop("network"))
    made.pop("params")
    return denoiser(network, {**params, "adapter": mixed}, **made)
