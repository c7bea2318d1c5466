"""The hierarchical context loss: squared distances of maps, and of their means in 4, 2 and 1 parts.

    [ mean (s - t)^2 + sum over l of w_l mean (s_l - t_l)^2 ] / (1 + sum of w),
    l in (4, 2, 1), those below the height,

with s_l averaged to l x l and w = 1/2, 1/4, 1/8 in turn.

Source: Chen et al., arXiv 2104.09044, section 3.3 (ReviewKD).
"""

from jaxdiff.classify.losses.maps import hint
from jaxdiff.networks.classifier_layers import adaptive_mean
from jaxdiff.typing import Array


def hierarchical(f_s: Array, f_t: Array) -> Array:
    """Return the loss of two maps of one shape (arXiv 2104.09044)."""
    total, weight, weights = hint(f_s, f_t), 1.0, 1.0
    for size in (4, 2, 1):
        if size < f_s.shape[1]:
            weight /= 2
            s, t = (adaptive_mean(f, size, size) for f in (f_s, f_t))
            total, weights = total + weight * hint(s, t), weights + weight
    return total / weights
