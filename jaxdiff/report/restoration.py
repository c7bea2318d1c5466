"""The figure of restored images: the truth, the measurement, and what each method made of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from jaxdiff.report.images import as_pixels, lay_out
from jaxdiff.report.style import GAP, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

APART = 0.2  # inches between the samples of one image and of the next


@styled
def restorations(rows: Mapping[str, ArrayLike]) -> Figure:
    """Rows of images under each other, each with its name beside it.

    Args:
        rows: by name, (n, samples, H, W, C) in [-1, 1]: n images, the samples of each side by side.
            Rows of fewer samples than others leave the places empty.

    Raises:
        ValueError: for no rows, or rows of other images.
    """
    tiles = {name: as_pixels(row, name, 5) for name, row in rows.items()}
    shapes = {(len(t), *t.shape[2:]) for t in tiles.values()}
    if len(shapes) != 1:
        raise ValueError(f"restorations are of the same images, of one size; got {shapes}")
    samples = max(t.shape[1] for t in tiles.values())
    sheet = np.stack([_wide(t, samples) for t in tiles.values()])
    count = sheet.shape[1] // samples
    gaps = (([GAP] * (samples - 1) + [APART]) * count)[:-1]
    made = lay_out(sheet, [GAP] * (len(tiles) - 1), gaps, left=1.5)
    for n, name in enumerate(tiles):
        made.beside(name, n)
    return made.figure


def _wide(tiles: np.ndarray, samples: int) -> np.ndarray:
    """Return tiles (n, k, ...) as (n samples, ...), the missing ones transparent."""
    missing = np.zeros((len(tiles), samples - tiles.shape[1], *tiles.shape[2:]), np.uint8)
    whole = np.concatenate([tiles, missing], axis=1)
    return whole.reshape(-1, *whole.shape[2:])
