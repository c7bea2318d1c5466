"""Cross-validation of drug-target prediction: which pairs are held out together.

    pairs     CVS1, pairs at random: what is missing between known drugs and known targets
    drugs     CVS2, all pairs of some drugs: what new drugs act on
    targets   CVS3, all pairs of some targets: what acts on new targets

A permutation of the pairs, drugs or targets is cut into folds of size // folds, the last one having
the remainder; five seeds make five permutations. Settings, seeds and folds of Liu et al. (PLoS
Comput. Biol. 12, 2016, e1004760), so that results compare, fold by fold.
"""

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
from jaxtyping import Bool

Setting = Literal["pairs", "drugs", "targets"]
SEEDS = (7771, 8367, 22, 1812, 4659)


def held_out(
    shape: tuple[int, int],
    setting: Setting,
    *,
    seeds: Sequence[int] = SEEDS,
    num_folds: int = 10,
) -> Bool[np.ndarray, "folds m n"]:
    """Return the pairs that every fold holds out, (len(seeds) * num_folds, m, n) booleans.

    Args:
        shape: (m, n), of the interactions.
        setting: what a fold is made of.
        seeds: a permutation each, no two alike.
        num_folds: of a permutation, at least 2.

    Raises:
        ValueError: for another setting, a seed twice or none, or more folds than there are pairs,
            drugs or targets.

    >>> held_out((4, 3), "drugs", seeds=(0,), num_folds=2).sum(axis=(1, 2)).tolist()
    [6, 6]
    """
    m, n = shape
    sizes = {"pairs": m * n, "drugs": m, "targets": n}
    if setting not in sizes:
        raise ValueError(f"setting must be one of {', '.join(get_args(Setting))}, not {setting!r}")
    size = sizes[setting]
    if not seeds or len(set(seeds)) < len(seeds):
        raise ValueError(
            f"seeds must be one at least, each another, as a permutation counts once; got {seeds}"
        )
    if not 2 <= num_folds <= size:
        raise ValueError(f"num_folds must be 2 to {size}, the number of {setting}, not {num_folds}")
    masks = np.zeros((len(seeds), num_folds, m, n), np.bool_)
    for masks_of_seed, seed in zip(masks, seeds, strict=True):
        order = np.random.RandomState(seed).permutation(size)
        fold = np.empty(size, int)  # of every pair, drug or target
        fold[order] = np.minimum(np.arange(size) // (size // num_folds), num_folds - 1)
        grid = {"pairs": (m, n), "drugs": (m, 1), "targets": (1, n)}[setting]
        masks_of_seed[:] = fold.reshape(grid) == np.arange(num_folds)[:, None, None]
    return masks.reshape(-1, m, n)
