"""Edges of images: pictures that networks are controlled by, and that samples are compared by."""

from typing import Any

import numpy as np


def edges(images: Any, threshold: float = 0.25) -> np.ndarray:
    """Return where images change: 1 where the length of the gradient exceeds a threshold, else 0.

    The gradient is that of the channels' mean, by central differences, one-sided at the ends, in
    units of the range from black to white per pixel.

    Args:
        images: (n, height, width, channels), uint8, or floats in [-1, 1].
        threshold: of the gradient's length.

    Returns:
        (n, height, width, 1), float32.

    Raises:
        ValueError: for another shape, or sides below 2.
    """
    images = np.asarray(images)
    if images.ndim != 4 or min(images.shape[1:3]) < 2:
        raise ValueError(f"edges are of images (n, height, width, channels); got {images.shape}")
    span = 255.0 if images.dtype == np.uint8 else 2.0
    grey = images.astype(np.float32).mean(axis=-1) / np.float32(span)
    rows, columns = np.gradient(grey, axis=(1, 2))
    return (np.hypot(rows, columns) > threshold).astype(np.float32)[..., None]
