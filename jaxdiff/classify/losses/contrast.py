"""Contrastive representation distillation: which of K + 1 stored embeddings is the same image's.

With unit embeddings v_s, v_t (batch, d) and memories M_s, M_t (images, d) of both, tau = 0.07:

    P = exp(v . m / tau) / Z,    loss = - E_image [ log P / (P + K/N) + sum over K others of
                                                    log (K/N) / (P + K/N) ],

of v_s against M_t plus of v_t against M_s. Z is fixed at the first batch, to the mean of its
exponentials times N. Afterwards the rows of the batch move: m <- unit(m/2 + v/2). The others are of
other classes, each drawn with replacement.

Source: Tian et al., arXiv 1910.10699, section 3.4 and appendix.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.arrays import einsum
from jaxdiff.classify.losses.maps import unit
from jaxdiff.typing import Array, Key


class Memory(NamedTuple):
    """Stored embeddings, floats: of the student (images, d), of the teacher, and both Z, (2,),
    negative until the first batch.
    """

    student: Array
    teacher: Array
    scale: Array


def memory(key: Key, images: int, size: int) -> Memory:
    """Return embeddings to begin with, uniform in +-sqrt(3/d)."""
    ends = 1.0 / (size / 3) ** 0.5
    draw = lambda k: jax.random.uniform(k, (images, size), jnp.float32, -ends, ends)  # noqa: E731
    s, t = map(draw, jax.random.split(key))
    return Memory(s, t, -jnp.ones(2, jnp.float32))


class Others(NamedTuple):
    """The images of every other class: images sorted by class, and of each class its begin and its
    number.
    """

    order: Array
    begin: Array
    count: Array


def others(labels: np.ndarray) -> Others:
    """Return where the images of other classes are. labels: of all images, (images,), integers."""
    labels = np.asarray(labels)
    integers = labels.ndim == 1 and labels.dtype.kind in "iu"
    if not integers or len(np.unique(labels)) < 2 or labels.min() < 0:
        raise ValueError(
            "contrast needs the class of every image, (images,) integers from 0, of two classes; "
            f"got {labels.dtype}{labels.shape}"
        )
    count = np.bincount(labels)
    begin = np.cumsum(count) - count
    order = np.argsort(labels, kind="stable")
    return Others(*(jnp.asarray(x, jnp.int32) for x in (order, begin, count)))


def contrasts(key: Key, index: Array, label: Array, of: Others, number: int) -> Array:
    """Return each image and ``number`` drawn of other classes, (batch, 1 + number)."""
    begin, count = of.begin[label][:, None], of.count[label][:, None]
    share = jax.random.uniform(key, (index.shape[0], number), jnp.float32)
    rest = (of.order.shape[0] - count).astype(jnp.float32)
    place = jnp.minimum((share * rest).astype(jnp.int32), of.order.shape[0] - count - 1)
    place = jnp.where(place < begin, place, place + count)
    return jnp.concatenate([index[:, None].astype(jnp.int32), of.order[place]], axis=1)


def contrastive(
    v_s: Array, v_t: Array, stored: Memory, chosen: Array, temperature: float = 0.07
) -> tuple[Array, Array]:
    """Return the loss of unit embeddings (batch, d), and both Z (2,).

    chosen: (batch, 1 + K) images, the first of which is the sample's own.
    """
    images = stored.student.shape[0]

    def one(v: Array, memory: Array, scale: Array) -> tuple[Array, Array]:
        kept = jax.lax.stop_gradient(memory)[chosen].astype(v.dtype)
        dots, scale = einsum("bd,bkd->bk", v, kept), scale.astype(v.dtype)
        p = jnp.exp(dots / temperature)
        first = jax.lax.stop_gradient(jnp.mean(p)) * images
        scale = jnp.where(scale < 0, first, scale)
        return _estimation(p / scale, images), scale

    s, z_s = one(v_s, stored.teacher, stored.scale[0])
    t, z_t = one(v_t, stored.student, stored.scale[1])
    return s + t, jnp.stack([z_s, z_t])


def _estimation(p: Array, images: int) -> Array:
    """Return the noise-contrastive loss of probabilities (batch, 1 + K), noise 1 / images."""
    noise, small = (p.shape[1] - 1) / images, 1e-7
    own = jnp.log(p[:, 0] / (p[:, 0] + noise + small))
    rest = jnp.log(noise / (p[:, 1:] + noise + small))
    return -(jnp.sum(own) + jnp.sum(rest)) / p.shape[0]


def moved(stored: Memory, v_s: Array, v_t: Array, index: Array, scale: Array) -> Memory:
    """Return the memory after a batch, momentum 1/2; of an index twice in it, one of its rows."""

    def one(memory: Array, v: Array) -> Array:
        v = jax.lax.stop_gradient(v).astype(memory.dtype)
        return memory.at[index].set(unit(0.5 * memory[index] + 0.5 * v))

    scale = jax.lax.stop_gradient(scale).astype(stored.scale.dtype)
    return Memory(one(stored.student, v_s), one(stored.teacher, v_t), scale)
