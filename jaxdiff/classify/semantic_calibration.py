"""SemCKD: every stage of the student learns from those of the teacher that say the same.

For stages s of the student and t of the teacher, with F a stage's flattened maps (batch, k):

    alpha[b, s, t] = softmax over t of ( q_s(F_s F_s')[b] . k_t(F_t F_t')[b] / soft ),
    loss = sum over b, s, t of alpha[b, s, t] mean (P_st(f_s)[b] - f_t[b])^2 / (batch S),

q_s and k_t two-layer maps of a row of similarities to unit vectors (their input is as wide as the
batch, which is therefore of one size), P_st projections of bottleneck form, and the larger of two
maps averaged to the smaller.

Source: Chen et al., arXiv 2012.03236 (AAAI 2021, section 3), and TKDE 2022.
"""

import jax
import jax.numpy as jnp

from jaxdiff.classify.feature_methods import stages
from jaxdiff.classify.frame import BOTH, DEFAULT, Modules, Recipe, Seen, Shares, Term, distilled
from jaxdiff.classify.losses.maps import aligned, gram
from jaxdiff.classify.trained import Trained
from jaxdiff.method import Method
from jaxdiff.networks.image_classifier import ImageClassifier
from jaxdiff.networks.transfer import Bottleneck, RowMLP
from jaxdiff.typing import Array


def semckd(
    teacher: Trained, student: ImageClassifier, *, batch: int = 64, soft: float = 1.0,
    factor: int = 4, weight: float = 400.0, shares: Shares = BOTH, recipe: Recipe = DEFAULT,
) -> Method:  # fmt: skip
    """Semantic calibration of cross-layer distillation (Chen et al., arXiv 2012.03236).

    Args:
        teacher, student, shares, recipe: as of all methods; the numbers of stages may differ.
        batch: samples of every batch (of each device's part under pmap, and of each part under
            gradient accumulation).
        soft: divides the products of queries and keys.
        factor: queries and keys have batch // factor numbers.
        weight: 400 for CIFAR in the paper, 50 for ImageNet. With maps of few channels it diverges
            at the recipe's rate (measured with 8 to 32 of them), and 100 does not.
    """
    if batch < 2 or factor < 1 or not soft > 0:
        raise ValueError(
            f"semckd needs a batch of 2 at least, factor >= 1 and soft > 0; got {batch}, {factor} "
            f"and {soft}"
        )
    s, t = stages(student.outputs()), stages(teacher.network.outputs())
    rows = jax.ShapeDtypeStruct((batch, batch), s[0].dtype)
    modules = {f"query{i}": (RowMLP(factor), rows) for i in range(len(s))}
    modules |= {f"key{j}": (RowMLP(factor), rows) for j in range(len(t))}
    modules |= {
        f"projection{i}_{j}": (Bottleneck(f_t.shape[-1], 2 * f_t.shape[-1], False), f_s)
        for i, f_s in enumerate(s)
        for j, f_t in enumerate(t)
    }

    def loss(run: Modules, seen: Seen) -> Array:
        if seen.label.shape[0] != batch:
            raise ValueError(
                f"semckd was made for batches of {batch} samples, and one has "
                f"{seen.label.shape[0]}: its queries and keys are as wide as the batch"
            )
        return calibrated(run, stages(seen.student), stages(seen.teacher), soft)

    return distilled("semckd", teacher, student, Term(loss, modules), weight, shares, recipe)


def attention(run: Modules, f_s: tuple[Array, ...], f_t: tuple[Array, ...], soft: float) -> Array:
    """Return alpha (batch, stages of the student, of the teacher), which sums to 1 over the last
    axis.
    """
    queries = jnp.stack([run(f"query{i}", gram(f)) for i, f in enumerate(f_s)], axis=1)
    keys = jnp.stack([run(f"key{j}", gram(f)) for j, f in enumerate(f_t)], axis=1)
    return jax.nn.softmax(jnp.einsum("bsk,btk->bst", queries, keys) / soft, axis=2)


def calibrated(run: Modules, f_s: tuple[Array, ...], f_t: tuple[Array, ...], soft: float) -> Array:
    """Return the loss of two networks' stages; see the module."""
    alpha, total = attention(run, f_s, f_t, soft), []
    for i, one in enumerate(f_s):
        for j, other in enumerate(f_t):
            a, b = aligned(one, other)
            apart = (run(f"projection{i}_{j}", a) - b) ** 2
            total.append(alpha[:, i, j] * jnp.mean(apart, axis=(1, 2, 3)))
    return jnp.sum(jnp.stack(total)) / (alpha.shape[0] * len(f_s))
