"""A classifier of images as pure functions of its variables, and what it costs.

    network = ImageClassifier(ResNetCIFAR(3), (32, 32, 3))
    variables = network.init(key)                       # WithState(parameters, batch statistics)
    logits = network(variables, images)                 # by the running statistics
    outputs, state = network.training(variables, images)    # by the batch's, and the next ones

A multiply-add is one product of a weight and a number of a map, as papers count them: a convolution
has (pixels out) k^2 (channels in / groups) (channels out) of them, a linear layer in x out.
"""

import functools
import math
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.core import Tracer

from jaxdiff.arrays import QUICK
from jaxdiff.method import WithState
from jaxdiff.networks.classifier_layers import SymmetricConv
from jaxdiff.typing import Array, Key, Outputs


@dataclass(frozen=True)
class ImageClassifier:
    """A linen module that maps images to logits, called as those of this package are.

    module: ``module(images, train=, axis_name=, full=)``, which gives logits (batch, classes), or,
    with ``full``, Outputs whose features are maps (stem, stages) and their mean. shape: (height,
    width, channels).
    """

    module: nn.Module
    shape: tuple[int, int, int]

    def __post_init__(self) -> None:
        """Check the shape. Raises ValueError for one that is not of three sizes."""
        shape = tuple(self.shape)
        if len(shape) != 3 or min(shape) < 1:
            raise ValueError(f"shape is (height, width, channels) of an image; got {self.shape}")
        object.__setattr__(self, "shape", shape)  # a list has no hash

    def init(self, key: Key) -> WithState:
        """Draw the variables: WithState(parameters, {"batch_stats": ..., ...})."""
        draw = _draw if isinstance(key, Tracer) else _draw_at_once
        variables = dict(draw(self.module, self.shape, key))
        return WithState(variables.pop("params"), variables)

    def __call__(self, variables: WithState, images: Array, *, full: bool = False) -> Any:
        """Return logits (batch, classes) in evaluation; with ``full``, Outputs with features.

        Raises ValueError for images of another shape.
        """
        self._check(images)
        params, state = variables
        return self.module.apply({"params": params, **state}, images, full=full)

    def training(
        self, variables: WithState, images: Array, axis_name: str | None = None
    ) -> tuple[Outputs, Any]:
        """Return Outputs by the batch's statistics, and the next state."""
        self._check(images)
        params, state = variables
        made: Any = self.module.apply(
            {"params": params, **state}, images, train=True, axis_name=axis_name, full=True,
            mutable=list(state),
        )  # fmt: skip
        return made

    def outputs(self) -> Outputs:
        """Return the shapes and dtypes of what one image gives, without computing anything. Raises
        TypeError for a module that does not give logits with features.
        """
        return _outputs(self)

    def num_parameters(self) -> int:
        """Return the number of parameters, those of a teacher's reused part among them; batch
        statistics are none.
        """
        params, state = jax.eval_shape(self.init, jax.random.key(0))
        reused = state.get("teacher", {"variables": {}})["variables"].get("params", {})
        return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves((params, reused)))

    def multiply_adds(self) -> int:
        """Return the multiply-adds for one image, of convolutions and linear layers: those of this
        package, and flax's Conv, ConvTranspose and Dense.
        """
        total = 0

        def count(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
            nonlocal total
            made = call(*args, **kwargs)
            if context.method_name == "__call__" and isinstance(context.module, COUNTED):
                total += _products(context.module, args[0].shape, made.shape)
            return made

        variables = jax.eval_shape(self.init, jax.random.key(0))
        image = jax.ShapeDtypeStruct((1, *self.shape), jnp.float32)
        with nn.intercept_methods(count):
            jax.eval_shape(lambda v, x: self(v, x), variables, image)
        return total

    def _check(self, images: Array) -> None:
        if images.shape[1:] != self.shape:
            raise ValueError(
                f"this classifier takes images (batch, {', '.join(map(str, self.shape))}); got "
                f"{images.shape}"
            )


COUNTED = (SymmetricConv, nn.Conv, nn.ConvTranspose, nn.Dense)


def _products(module: Any, read: tuple[int, ...], made: tuple[int, ...]) -> int:
    """Return the multiply-adds of a layer for one image, by the shapes it reads and makes."""
    if isinstance(module, nn.Dense):
        return math.prod(made[1:]) * read[-1]
    if isinstance(module, SymmetricConv):
        return math.prod(made[1:]) * module.side**2 * read[-1] // module.groups
    size = module.kernel_size
    each = size if isinstance(size, int) else math.prod(size)
    if isinstance(module, nn.ConvTranspose):  # every pixel that it reads goes to one kernel's
        return math.prod(read[1:]) * each * made[-1]
    return math.prod(made[1:]) * each * read[-1] // module.feature_group_count


@functools.lru_cache(maxsize=64)
def _outputs(network: ImageClassifier) -> Outputs:
    image = jax.ShapeDtypeStruct((1, *network.shape), jnp.float32)
    variables = jax.eval_shape(network.init, jax.random.key(0))
    made = jax.eval_shape(lambda v, x: network(v, x, full=True), variables, image)
    ranks = [f.ndim for f in (made.value, *made.features)] if isinstance(made, Outputs) else []
    if len(ranks) < 3 or ranks != [2, *[4] * (len(ranks) - 2), 2]:
        raise TypeError(
            f"{type(network.module).__name__} called with full=True should return Outputs(logits, "
            "None, features), (batch, classes) and maps (batch, height, width, channels) with "
            f"their mean (batch, channels) last; it returns {jax.tree.map(jnp.shape, made)}"
        )
    return made


def _draw(module: nn.Module, shape: tuple[int, int, int], key: Key) -> Any:
    return module.init({"params": key}, jnp.zeros((1, *shape), jnp.float32))


_draw_at_once = jax.jit(_draw, static_argnums=(0, 1), compiler_options=QUICK)
