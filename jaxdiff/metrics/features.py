"""Feature functions: what a metric compares images by.

Every metric takes two arrays of features, ``X`` of shape (n, d) for the generated samples and ``Y``
of shape (m, d) for the reference, and knows nothing about images. A feature function maps images in
[-1, 1], batch first, to such an array. This module has the pixels themselves and a small
classifier, trained in seconds, whose last hidden layer, standardised, has the role that Inception
has for photographs (Heusel et al. 2017, arXiv 1706.08500).
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, Protocol, cast

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from jaxdiff.brief import short
from jaxdiff.typing import Array, Key

Layers = list[tuple[Array, Array]]


class FeatureFunction(Protocol):
    """Maps images (n, ...) in [-1, 1] to features (n, d)."""

    def __call__(self, images: Any, /) -> Any:
        """Return one row of features per image."""
        ...


def checked(features: ArrayLike, name: str, least: int = 1) -> np.ndarray:
    """``features`` as a float64 array (n, d).

    Raises ValueError if they are not two-dimensional, have fewer than ``least`` rows or are not
    finite.
    """
    array = np.asarray(features)
    if np.iscomplexobj(array):
        raise ValueError(f"{name} must be real numbers, got {array.dtype}")
    if array.ndim != 2:
        raise ValueError(f"{name} must have shape (samples, dimension), got {array.shape}")
    if len(array) < least:
        raise ValueError(f"{name} has {len(array)} samples; this metric needs at least {least}")
    array = array.astype(np.float64, copy=False)
    finite = np.isfinite(array).all(axis=1)
    if not finite.all():
        raise ValueError(
            f"{name} has {np.sum(~finite)} rows with NaN or infinite features, "
            f"the first of them row {np.argmin(finite)}"
        )
    return array


def checked_pair(x: ArrayLike, y: ArrayLike, least: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Generated and reference features in float64; ValueError if their dimensions differ."""
    a, b = checked(x, "generated features", least), checked(y, "reference features", least)
    if a.shape[1] != b.shape[1]:
        raise ValueError(
            f"generated features have dimension {a.shape[1]}, reference features {b.shape[1]}; "
            "both must come from one feature function"
        )
    return a, b


def pixels(images: ArrayLike) -> np.ndarray:
    """Return the images in [-1, 1] themselves as features: (n, ...) to float32 (n, d).

    Args:
        images: (n, ...) in [-1, 1].

    Returns:
        Features, float32 (n, d).
    """
    array = _checked_images(images)
    return array.reshape(len(array), -1)


def batched(
    feature_fn: FeatureFunction, batch_size: int = 256, progress: bool = False
) -> FeatureFunction:
    """Return ``feature_fn`` applied ``batch_size`` images at a time, the result gathered on the
    host.

    The last batch is filled up with copies of its last image, so a jitted function compiles for one
    shape.

    Args:
        feature_fn: images (n, ...) to features (n, d).
        batch_size: images per call.
        progress: show a bar.

    Returns:
        The feature function, of any number of images.

    Raises:
        ValueError: for a batch size below 1, and, when it is called, for no images, or features
            that are not as many.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")

    def gathered(images: ArrayLike) -> np.ndarray:
        from tqdm import tqdm

        array = np.asarray(images)
        if not len(array):
            raise ValueError("no images to take features of")
        starts = tqdm(
            range(0, len(array), batch_size), disable=not progress, desc="features", leave=False
        )
        blocks = (array[start : start + batch_size] for start in starts)
        return np.concatenate([features(block) for block in blocks])

    def features(block: np.ndarray) -> np.ndarray:
        made = np.asarray(feature_fn(_filled(block, batch_size)))
        if made.shape[:1] != (batch_size,):
            raise ValueError(f"features of {batch_size} images have the shape {made.shape}")
        return made[: len(block)]

    return gathered


def _filled(block: np.ndarray, size: int) -> np.ndarray:
    return np.concatenate([block, np.repeat(block[-1:], size - len(block), axis=0)])


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Classifier:
    """A small multilayer perceptron on flattened images in [-1, 1].

    params: weights (inputs, outputs) and biases of every layer.
    mean, scale: mean and standard deviation of the last hidden layer over the training images.
    """

    __repr__ = short

    params: Layers
    mean: Array
    scale: Array

    @jax.jit
    def logits(self, images: Array) -> Array:
        """Class logits (n, classes) of images (n, ...)."""
        return _dense(_hidden(self.params, _flat(images)), self.params[-1])

    @jax.jit
    def features(self, images: Array) -> Array:
        """Standardised activations (n, width) of the last hidden layer, float32."""
        return (_hidden(self.params, _flat(images)) - self.mean[None]) / self.scale[None]


def classifier_features(
    images: ArrayLike,
    labels: ArrayLike,
    seed: int = 0,
    *,
    widths: Sequence[int] = (128, 64),
    num_updates: int = 300,
    batch_size: int = 2048,
    learning_rate: float = 3e-3,
    held_out: float = 0.2,
) -> tuple[Classifier, float]:
    """Train a small classifier; its ``features`` are a feature function.

    ``images`` (n, ...) are floats in [-1, 1], ``labels`` (n,) class indices from 0. A fraction
    ``held_out`` of the images is set aside at random; the rest is trained on by ``num_updates`` of
    AdamW, on all of it at once if there are no more than ``batch_size``, otherwise on batches drawn
    with replacement. Same ``seed``, same classifier.

    Returns the classifier and its accuracy on the images set aside. Raises ValueError or TypeError
    for labels that do not fit the images, integer images, or a fraction that leaves one side empty.

    Args:
        images: (n, ...) floats in [-1, 1].
        labels: (n,) class indices from 0.
        seed: of the split, the parameters and the batches.
        widths: of the hidden layers.
        num_updates: of AdamW.
        batch_size: images per update, drawn with replacement; all of them if there are no more.
        learning_rate: of AdamW.
        held_out: the fraction of images that is set aside.

    Returns:
        The classifier, and its accuracy on the images set aside.

    Raises:
        ValueError, TypeError: for labels that do not fit the images, integer images, a fraction
            that leaves one side empty, and numbers of updates, images or units below 1.
    """
    x, y = _checked_images(images), np.asarray(labels)
    if y.shape != (len(x),) or not np.issubdtype(y.dtype, np.integer) or y.min() < 0:
        raise ValueError(
            f"labels must be {len(x)} integers from 0, one per image; got {y.dtype} {y.shape}"
        )
    if min(num_updates, batch_size, *widths) < 1 or not 0 < learning_rate < float("inf"):
        raise ValueError(
            "num_updates, batch_size and widths must be at least 1, and learning_rate positive: "
            f"{num_updates}, {batch_size}, {tuple(widths)} and {learning_rate}"
        )
    order = np.random.default_rng(seed).permutation(len(x))
    count = round(held_out * len(x))
    if not 0 < count < len(x):
        raise ValueError(
            f"held_out={held_out} of {len(x)} images leaves training or test set empty"
        )
    test, train = order[:count], order[count:]
    sizes = (x[0].size, *widths, int(y.max()) + 1)
    classifier = _train(
        jax.random.key(seed), x[train], y[train].astype(np.int32),
        sizes, num_updates, min(batch_size, len(train)), learning_rate,
    )  # fmt: skip
    guesses = np.argmax(batched(classifier.logits, 1024)(x[test]), axis=1)
    return classifier, float(np.mean(guesses == y[test]))


def _checked_images(images: ArrayLike) -> np.ndarray:
    array = np.asarray(images)
    if not np.issubdtype(array.dtype, np.floating):
        raise TypeError(f"images must be floats in [-1, 1], got {array.dtype}")
    if array.ndim < 2 or not len(array) or not np.isfinite(array).all():
        raise ValueError(f"images must be finite, of shape (n, ...), n > 0; got {array.shape}")
    return array.astype(np.float32)


@functools.partial(jax.jit, static_argnums=(3, 4, 5, 6))
def _train(
    key: Key, x: Array, y: Array, sizes: tuple[int, ...], num_updates: int, batch: int, rate: float
) -> Classifier:
    import optax

    start, draws = jax.random.split(key)
    params = _initial(start, sizes)
    optimiser = optax.adamw(rate, weight_decay=1e-3)
    inputs = _flat(x)

    def loss(params: Layers, rows: Array, labels: Array) -> Array:
        logits = _dense(_hidden(params, rows), params[-1])
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, labels))

    def update(step: Array, carry: tuple[Layers, Any]) -> tuple[Layers, Any]:
        params, state = carry
        rows, labels = inputs, y
        if batch < len(x):
            chosen = jax.random.randint(jax.random.fold_in(draws, step), (batch,), 0, len(x))
            rows, labels = inputs[chosen], y[chosen]
        gradients = jax.grad(loss)(params, rows, labels)
        # optax raises Python floats to its int32 step count
        with jax.numpy_dtype_promotion("standard"):
            updates, state = optimiser.update(gradients, state, params)
        return cast(Layers, optax.apply_updates(params, updates)), state

    params, _ = jax.lax.fori_loop(0, num_updates, update, (params, optimiser.init(params)))
    hidden = _hidden(params, inputs)
    # a unit that never varies must not be divided by zero
    return Classifier(params, jnp.mean(hidden, 0), jnp.maximum(jnp.std(hidden, 0), 1e-3))


def _initial(key: Key, sizes: tuple[int, ...]) -> Layers:
    pairs = list(zip(sizes[:-1], sizes[1:], strict=True))
    keys = jax.random.split(key, len(pairs))
    return [
        (jax.random.normal(k, pair, jnp.float32) / pair[0] ** 0.5, jnp.zeros(pair[1], jnp.float32))
        for k, pair in zip(keys, pairs, strict=True)
    ]


def _flat(images: Array) -> Array:
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise TypeError(f"images must be floats in [-1, 1], got {images.dtype}")
    return jnp.reshape(images, (images.shape[0], -1)).astype(jnp.float32)


def _dense(x: Array, layer: tuple[Array, Array]) -> Array:
    return x @ layer[0] + layer[1][None]


def _hidden(params: Layers, x: Array) -> Array:
    for layer in params[:-1]:
        x = jax.nn.gelu(_dense(x, layer))
    return x
