"""Images as tokens: cut into patches, put together again, and the fixed positions of the tokens.

An image (height, width, channels) is N = (height/p) (width/p) patches of p x p pixels, row by row.
"""

import numpy as np

from jaxdiff.typing import Array


def to_patches(x: Array, p: int) -> Array:
    """(batch, height, width, channels) to (batch, tokens, p * p * channels): the numbers of a token
    are those of its pixels, row by row, the channels of a pixel side by side.
    """
    b, height, width, c = x.shape
    x = x.reshape(b, height // p, p, width // p, p, c).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(b, -1, p * p * c)


def from_patches(h: Array, rows: int, columns: int, p: int) -> Array:
    """Return the images (batch, rows * p, columns * p, channels) of tokens (batch, rows * columns,
    p * p * channels), the inverse of :func:`to_patches`.
    """
    b, _, numbers = h.shape
    h = h.reshape(b, rows, columns, p, p, numbers // (p * p)).transpose(0, 1, 3, 2, 4, 5)
    return h.reshape(b, rows * p, columns * p, numbers // (p * p))


def positions(
    rows: int,
    columns: int,
    width: int,
    *,
    spacing: tuple[float, float] = (1.0, 1.0),
    column_first: bool = False,
) -> np.ndarray:
    """Fixed positions of the tokens, row by row: (rows * columns, width), in float64.

    The token in row i and column j has [sin w_k y, cos w_k y, sin w_k x, cos w_k x] with y and x
    its place, i and j times ``spacing``, and w_k = 10000^(-4k/width), k = 0 .. width/4 - 1 (Vaswani
    et al. 1706.03762, section 3.5, half of the numbers for each axis). ``column_first``: x comes
    before y, as in the published weights of DiT and its kin.

    Raises:
        ValueError: if 4 does not divide ``width``.
    """
    halves = [
        np.repeat(axis_positions(rows, width, spacing[0]), columns, axis=0),
        np.tile(axis_positions(columns, width, spacing[1]), (rows, 1)),
    ]
    return np.concatenate(halves[::-1] if column_first else halves, axis=1)


def axis_positions(count: int, width: int, spacing: float = 1.0) -> np.ndarray:
    """Return one axis's half of :func:`positions`, (count, width / 2). Raises as it does."""
    if width % 4:
        raise ValueError(f"positions need a width divisible by 4; got {width}")
    w = 10000.0 ** (-4 * np.arange(width // 4) / width)
    angle = np.arange(count)[:, None] * spacing * w[None]
    return np.concatenate([np.sin(angle), np.cos(angle)], axis=1)
