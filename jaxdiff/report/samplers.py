"""Figures of samplers as what they are: levels and weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from jaxdiff.report.style import COLOURS, MARKERS, WIDTH, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@styled
def levels_and_weights(tables: Mapping[str, tuple[ArrayLike, ArrayLike]]) -> Figure:
    """Return where samplers evaluate, and what each state is made of; usually before and after
    tuning.

    Args:
        tables: by name, the levels of the evaluations (N,) and the weights (N + 1, N) of every
            denoised output in every evaluated state and, last, in the sample.

    Raises:
        ValueError: without tables, or for shapes that do not fit.
    """
    from matplotlib.figure import Figure

    arrays = {k: (np.asarray(a), np.asarray(b)) for k, (a, b) in tables.items()}
    if not arrays:
        raise ValueError("no table to draw")
    for name, (nodes, weights) in arrays.items():
        if weights.shape != (len(nodes) + 1, len(nodes)):
            raise ValueError(f"{name}: weights {weights.shape} do not go with {len(nodes)} levels")
    figure = Figure(figsize=(WIDTH, 3.3), layout="constrained")
    first, *others = figure.subplots(1, 1 + len(arrays), width_ratios=[1.3] + [1.0] * len(arrays))
    for k, (name, (nodes, _)) in enumerate(arrays.items()):
        first.plot(
            range(1, len(nodes) + 1), nodes, label=name, color=COLOURS[k % len(COLOURS)],
            marker=MARKERS[k % len(MARKERS)],
        )  # fmt: skip
    first.set_yscale("log")
    first.set_xticks(range(1, max(len(nodes) for nodes, _ in arrays.values()) + 1))
    first.set_xlabel("evaluation")
    first.set_ylabel("noise level")
    first.legend()
    most = max(np.abs(weights).max() for _, weights in arrays.values()) or 1.0
    images = []
    for axes, (name, (nodes, weights)) in zip(others, arrays.items(), strict=True):
        below = np.arange(len(nodes) + 1)[:, None] > np.arange(len(nodes))[None]
        shown = np.ma.masked_where(~below, weights)
        images.append(axes.imshow(shown[1:], cmap="RdBu_r", vmin=-most, vmax=most, aspect="auto"))
        axes.grid(False)
        axes.set_title(name)
        axes.set_xticks(range(len(nodes)), [str(n + 1) for n in range(len(nodes))])
        labels = [f"state {n + 2}" for n in range(len(nodes) - 1)] + ["sample"]
        axes.set_yticks(range(len(nodes)), labels)
        axes.set_xlabel("weight of output")
    figure.colorbar(images[-1], ax=others, shrink=0.9)
    return figure
