r"""How near images are to the ones they should be: PSNR and SSIM, a number for each pair.

    PSNR = 10 log10(range^2/mean (x - y)^2)

    SSIM = mean of (2 m_x m_y + c_1)(2 c_xy + c_2)/((m_x^2 + m_y^2 + c_1)(v_x + v_y + c_2))

with local means m, variances v and covariances c under a Gaussian window of 1.5 pixels, and
c_i = (k_i range)^2, k = 0.01, 0.03 (Wang, Bovik, Sheikh and Simoncelli, "Image quality assessment:
from error visibility to structural similarity", IEEE TIP 2004, eq. 12 to 17).
"""

import numpy as np
from numpy.typing import ArrayLike

WINDOW, CUT = 1.5, 5  # standard deviation and half width in pixels
K1, K2 = 0.01, 0.03
RANGE = 2.0  # of values in [-1, 1]


def psnr(images: ArrayLike, truth: ArrayLike, span: float = RANGE) -> np.ndarray:
    """Return peak signal-to-noise ratios in decibels.

    Args:
        images: (n, ...).
        truth: of the same shape.
        span: the range of values, 2 for those in [-1, 1].

    Returns:
        (n,), infinite for equal images.

    Raises:
        ValueError: for other shapes, a span that is not positive, or whole numbers without one.
    """
    x, y = _pairs(images, truth, span)
    error = np.mean((x - y).reshape(len(x), -1) ** 2, axis=1)
    with np.errstate(divide="ignore"):
        return 10 * np.log10(span**2 / error)


def ssim(images: ArrayLike, truth: ArrayLike, span: float = RANGE) -> np.ndarray:
    """Return structural similarities (Wang et al. 2004, eq. 13, 17).

    Beyond an image's edges it is reflected, so that small ones have a number, too; the authors
    leave the edges out. Channels are compared one by one and averaged.

    Args:
        images: (n, height, width, channels).
        truth: of the same shape.
        span: the range of values, 2 for those in [-1, 1].

    Returns:
        (n,), at most 1.

    Raises:
        ValueError: for other shapes, channels first among them, a span that is not positive, or
            whole numbers without one.
    """
    from scipy.ndimage import gaussian_filter

    x, y = _pairs(images, truth, span)
    if x.ndim != 4:
        raise ValueError(f"images are (n, height, width, channels), not {x.shape}")
    if x.shape[1] <= 4 < min(x.shape[2:]):
        raise ValueError(f"images {x.shape} have channels first: np.moveaxis(images, 1, -1)")
    local = lambda a: gaussian_filter(a, WINDOW, axes=(1, 2), radius=CUT)  # noqa: E731
    mx, my = local(x), local(y)
    vx, vy, both = local(x * x) - mx * mx, local(y * y) - my * my, local(x * y) - mx * my
    c1, c2 = (K1 * span) ** 2, (K2 * span) ** 2
    found = (2 * mx * my + c1) * (2 * both + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))
    return found.reshape(len(x), -1).mean(axis=1)


def _pairs(images: ArrayLike, truth: ArrayLike, span: float) -> tuple[np.ndarray, np.ndarray]:
    given = [np.asarray(a).dtype for a in (images, truth)]
    if span == RANGE and any(dtype.kind not in "f" for dtype in given):
        raise ValueError(
            f"images are {given[0]} and truth {given[1]}: a range of 2 is of floats in [-1, 1]; of "
            "uint8 give span=255"
        )
    x, y = np.asarray(images, np.float64), np.asarray(truth, np.float64)
    if x.shape != y.shape or x.ndim < 2 or not x.size:
        raise ValueError(f"images and truth have one shape (n, ...); got {x.shape} and {y.shape}")
    if not 0 < span < float("inf"):
        raise ValueError(f"span is the range of values, positive, not {span}")
    return x, y
