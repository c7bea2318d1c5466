"""DreamBooth: a subject learnt of a few images, with the class's own samples kept.

    L = E w |x0 - D(y, s, c)|^2 + lambda E w' |x0' - D(y', s', c')|^2     (2208.12242, eq. 2)

(Ruiz et al.), x0 the images of the subject with c, "a [V] dog", and x0' samples that the model
made, before it was trained, of the class c', "a dog": the prior is preserved. Any parameters are
trained: all, as in the paper, or those of an adapter.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax

from jaxdiff.distill.parts.level_distributions import LevelDistribution
from jaxdiff.distill.parts.student import Student, check_labels
from jaxdiff.distill.score_matching import score_matching
from jaxdiff.method import Batch, Context, Method, Metrics, Player
from jaxdiff.prediction import edm_weight
from jaxdiff.typing import Array, Cond, Key, Params

PRIOR = ("prior_image", "prior_label")


def dreambooth(
    student: Student,
    *,
    prior_weight: float = 1.0,
    mean: float = -1.2,
    std: float = 1.2,
    weight: Callable[..., Array] = edm_weight,
    levels: LevelDistribution | None = None,
) -> Method:
    """Train on a subject and on the model's own samples of its class.

    Args:
        student: what is trained, an adapted model or all of one; Adam with learning rate 1e-4 by
            default (the paper's 5e-6 is for all parameters of Stable Diffusion). No condition is
            dropped by default.
        prior_weight: lambda, of the loss on own samples.
        mean, std, weight, levels: of both losses, as for
            :func:`jaxdiff.distill.score_matching.score_matching`.

    Returns:
        The method, whose batches have "prior_image" and "prior_label" besides "image" and "label":
        :func:`with_prior` puts them there.

    Raises:
        ValueError: for a negative weight; in training, for a batch without a prior.
    """
    if not 0 <= prior_weight < float("inf"):
        raise ValueError(f"the weight of the prior is not negative; got {prior_weight}")
    drop = 0.0 if student.label_drop is None else student.label_drop
    optimiser = student.optimiser or optax.adam(1e-4)
    own = student._replace(label_drop=drop, optimiser=optimiser)
    method = score_matching(own, mean=mean, std=std, weight=weight, levels=levels)
    one = method.players["student"].loss

    def loss(params: Params, context: Context, batch: Batch, key: Key) -> tuple[Array, Metrics]:
        first, second = jax.random.split(key)
        subject, _ = one(params, context, batch, first)
        prior, _ = one(params, context, _prior(batch), second)
        value = subject + prior_weight * prior
        return value, {"loss": value, "subject": subject, "prior": prior}

    def check(batch: Batch) -> None:
        missing = [k for k in PRIOR[: 1 + ("label" in batch)] if k not in batch]
        if missing:
            raise ValueError(f"the batch has no {missing[0]!r}, which with_prior gives it")
        student.check(batch)
        check_labels(_prior(batch), student.classes)

    player = Player(loss, optimiser, ema=student.ema)
    return method._replace(players={"student": player}, check=check)


def with_prior(
    data: Callable[[int], Batch], images: np.ndarray | Array, labels: Cond = None, seed: int = 0
) -> Callable[[int], Batch]:
    """Return data with as many own samples beside the images of each batch, drawn anew.

    Args:
        data: ``data(step)``, batches of the subject.
        images: own samples (count, *shape), made before training.
        labels: their conditions, a tree with a row for each; None without.
        seed: of the draws.

    Returns:
        ``data(step)`` with "prior_image" and "prior_label".

    Raises:
        ValueError: for labels of another number, or no samples.
    """
    count = len(images)
    rows = {np.shape(leaf)[0] for leaf in jax.tree.leaves(labels)}
    if not count or rows - {count}:
        raise ValueError(f"there are {count} own samples, with labels of {sorted(rows)} rows")

    def with_rows(step: int) -> Batch:
        batch = data(step)
        drawn = np.random.default_rng((seed, step)).integers(count, size=len(batch["image"]))
        more: dict[str, Any] = {"prior_image": np.asarray(images)[drawn]}
        if labels is not None:
            more["prior_label"] = jax.tree.map(lambda a: np.asarray(a)[drawn], labels)
        return {**batch, **more}

    return with_rows


def _prior(batch: Batch) -> Batch:
    pairs = zip(PRIOR, ("image", "label"), strict=True)
    return {own: batch[name] for name, own in pairs if name in batch}
