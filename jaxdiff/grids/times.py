"""Grids in a process's own time: continuous times, flow times, integer timesteps."""

import math
from collections.abc import Sequence
from typing import Any, Literal

import jax
import numpy as np

from jaxdiff.grids.ends import Grid, check_positive, checked, finish, knots
from jaxdiff.process import Discrete, Process, RectifiedFlow, level, time


def of_process(
    process: Process,
    num_steps: int,
    *,
    start: float | None = None,
    end: float = 1e-3,
    rho: float = 1.0,
    zero: bool = True,
) -> Grid:
    """Return levels of a process at times uniform in t^(1/rho).

    Args:
        process: the process, continuous in time.
        num_steps: intervals.
        start: the first time, the process's last one by default.
        end: the last time that is not 0.
        rho: 1 is uniform in time, 2 quadratic.
        zero: whether a step to level 0 is the last of them; otherwise the grid ends at ``end``.

    Returns:
        (num_steps + 1,) decreasing noise levels, float64.

    Raises:
        ValueError: for times that are out of order or not within the process's, and if the level at
            ``start`` is not finite (alpha = 0): give an earlier one.
    """
    check_positive(end=end, rho=rho)
    first = _first(process, start, end)
    u = knots(num_steps, zero)
    times = (first ** (1 / rho) + u * (end ** (1 / rho) - first ** (1 / rho))) ** rho
    return finish(_levels(process, times), zero)


def beta(
    process: Process,
    num_steps: int,
    a: float = 0.6,
    b: float = 0.6,
    *,
    start: float | None = None,
    end: float = 1e-3,
    zero: bool = True,
) -> Grid:
    """Return levels of a process at times that are quantiles of a Beta(a, b) distribution,
    stretched to [end, start]: dense near both ends (Beta sampling, arXiv 2407.12173; Beta(1, 1) is
    uniform in time).

    Args:
        process: the process, continuous in time.
        num_steps: intervals.
        a, b: of the distribution, positive.
        start: the first time, the process's last one by default.
        end: the last time that is not 0.
        zero: whether a step to level 0 is the last of them; otherwise the grid ends at ``end``.

    Returns:
        (num_steps + 1,) decreasing noise levels, float64.

    Raises:
        ValueError: for a or b that are not positive, times that are out of order or not within the
            process's, or a level at ``start`` that is not finite.
    """
    from scipy.special import betaincinv

    if not (a > 0 and b > 0):
        raise ValueError(f"a beta distribution needs a, b > 0; got {a}, {b}")
    first = _first(process, start, end)
    times = end + (first - end) * betaincinv(a, b, 1.0 - knots(num_steps, zero))
    return finish(_levels(process, times), zero)


def flow(
    num_steps: int,
    *,
    shift: float = 1.0,
    power: float = 1.0,
    start: float = 0.999,
    end: float | None = None,
    zero: bool = True,
) -> Grid:
    """Return levels of a rectified flow at times uniform from ``start`` to ``end``, then shifted.

    The level of the time tau is tau/(1 - tau), infinite at 1, so a grid starts a little earlier:
    0.999 is level 999, which a network cannot distinguish from 1 in float32.

    Args:
        num_steps: intervals.
        shift: factor of the levels (:func:`jaxdiff.grids.shift`): 3 for SD3, and what of
            :func:`resolution_shift` for models whose shift depends on the size of the image.
        power: power of the levels before the factor.
        start: first time, below 1.
        end: last time before 0, or, with ``zero=False``, the last time. By default start/steps,
            which makes all intervals equal, or, with ``zero=False``, 0.001.
        zero: as everywhere.

    Returns:
        (num_steps + 1,) decreasing noise levels, float64.

    Raises:
        ValueError: for a start that is not below 1, a number of steps below 1 or ends out of order.
    """
    if not 0 < start < 1:
        raise ValueError(f"a grid in flow time starts before 1, where alpha is 0; not at {start}")
    if end is not None:
        _first(RectifiedFlow(), start, end)
    check_positive(shift=shift, power=power)
    u = knots(num_steps, zero)
    end = (start / num_steps if zero else 1e-3) if end is None else end
    levels = _levels(RectifiedFlow(), start + u * (end - start))
    return finish(shift * levels**power, zero)


def resolution_shift(
    tokens: int,
    low: tuple[float, float] = (256, 0.5),
    high: tuple[float, float] = (4096, 1.15),
) -> float:
    """Return the shift e^mu of a flow model for images of a number of tokens, mu linear in it.

    Args:
        tokens: of the image, positive.
        low, high: two pairs (tokens, mu) that the line goes through; by default those of FLUX.1.

    Returns:
        The factor for :func:`flow` and :func:`jaxdiff.grids.shift`.

    Raises:
        ValueError: for numbers of tokens that are not positive, or not fewer in low than in high.
    """
    (m, mu), (n, nu) = low, high
    if not (tokens > 0 and 0 < m < n):
        raise ValueError(f"tokens are positive, fewer in low than in high; got {tokens}, {m}, {n}")
    return math.exp(mu + (tokens - m) * (nu - mu) / (n - m))


def timesteps(
    num_steps: int,
    spacing: Literal["leading", "linspace", "trailing"] = "trailing",
    *,
    num_timesteps: int = 1000,
    offset: int = 0,
) -> np.ndarray:
    """Return integer timesteps (num_steps,), decreasing, of a model trained on ``num_timesteps`` of
    them (arXiv 2305.08891, table 2).

    "trailing" starts at count - 1 and leaves out the end, "leading" ends at 0 and leaves out the
    start, "linspace" has both. ``offset`` is added to all (1 for Stable Diffusion with "leading").
    Everything from an equally spaced list of num_steps + 1 but its last entry, as multistep solvers
    of published code have it, is ``timesteps(num_steps + 1, ...)[:-1]``.

    Args:
        num_steps: how many timesteps.
        spacing: "leading", "linspace" or "trailing", see above.
        num_timesteps: of the model's table.
        offset: added to all.

    Returns:
        (num_steps,) decreasing integers.

    Raises:
        ValueError: for more steps than timesteps, an offset beyond the last of them, and one step
            with "linspace" or "leading": published code makes it timestep 0, where a sampler that
            starts from noise would begin at the lowest level.
    """
    knots(num_steps, zero=True)
    if num_steps > num_timesteps:
        raise ValueError(f"{num_steps} steps do not fit into {num_timesteps} timesteps")
    if num_steps == 1 < num_timesteps and spacing in ("leading", "linspace"):
        raise ValueError(
            f"one step with {spacing!r} is timestep 0, the end that is free of noise: "
            f"'trailing' is timestep {num_timesteps - 1}"
        )
    i = np.arange(int(num_steps))
    if spacing == "leading":
        chosen = (i * (num_timesteps // num_steps))[::-1]
    elif spacing == "linspace":
        chosen = np.round(np.linspace(0, num_timesteps - 1, num_steps))[::-1]
    elif spacing == "trailing":
        chosen = np.round(num_timesteps - i * (num_timesteps / num_steps)) - 1
    else:
        raise ValueError(f"spacing is 'leading', 'linspace' or 'trailing', not {spacing!r}")
    if offset != int(offset) or not 0 <= offset <= num_timesteps - 1 - chosen[0]:
        raise ValueError(
            f"offset {offset} moves timestep {int(chosen[0])} beyond {num_timesteps - 1}"
        )
    return chosen.astype(np.int64) + int(offset)


def of_timesteps(
    process: Discrete,
    timesteps: Sequence[float] | np.ndarray,
    *,
    largest: float | None = None,
    zero: bool = True,
) -> Grid:
    """Return levels of a discrete-time process at timesteps 0 to N - 1, usually from
    :func:`timesteps`.

    With ``zero=True`` a step from the last timestep to 0 follows; otherwise the grid ends at the
    last timestep (append timestep 0 for the samplers that end there).

    Args:
        process: with a table of timesteps.
        timesteps: decreasing, 0 to N - 1.
        largest: replaces a level above it, for a process whose last timestep has alpha = 0 (zero
            terminal SNR) and whose level there is infinite.
        zero: whether a step to level 0 follows the last timestep.

    Returns:
        Decreasing noise levels, one per timestep and, with ``zero``, 0; float64.

    Raises:
        ValueError: for timesteps outside 0 to N - 1, or levels that do not decrease.
    """
    count = process.log_alphas.shape[0]
    chosen = np.asarray(timesteps, np.float64)
    if chosen.ndim != 1:
        raise ValueError(f"timesteps are a list, (num_steps,); got shape {chosen.shape}")
    if chosen.size and not (chosen.min() >= 0 and chosen.max() <= count - 1):
        raise ValueError(f"timesteps run from 0 to {count - 1}; got {timesteps}")
    levels = _levels(process, (chosen + 1) / count, largest)
    return finish(levels, zero)


def _first(process: Any, start: float | None, end: float) -> float:
    """Return the first time of a grid. ValueError for times that are not within the process's, or
    out of order.
    """
    last = float(process.t_max)
    first = last if start is None else float(start)
    if not 0 <= end < first <= last * (1 + 1e-6):
        raise ValueError(
            f"levels decrease from start to end, times with 0 <= end < start <= {last:g}, the "
            f"process's last; these are start={first:g}, end={end:g}"
        )
    return first


def _levels(process: Any, times: np.ndarray, largest: float | None = None) -> np.ndarray:
    """Levels in float64, where they are finite."""
    padded = np.pad(times, (0, -len(times) % 64), mode="edge")  # lengths would compile one by one
    with jax.enable_x64(True):
        levels = np.asarray(level(process, padded), np.float64)[: len(times)]
    if largest is not None:
        levels = np.minimum(levels, largest)
    if not np.isfinite(levels).all():
        first = times[~np.isfinite(levels)][0]
        raise ValueError(f"the level at t = {first} is not finite; start a little earlier")
    return levels


def earlier_levels(
    process: Process, levels: Sequence[float] | np.ndarray, gamma: float
) -> list[float]:
    """Return levels at (1 - gamma) of the times at which a process has the given levels: the option
    ``lower`` of :func:`jaxdiff.solvers.tcd`.

    Args:
        process: the process.
        levels: a grid (num_steps + 1,).
        gamma: share of the time, 0 to 1.

    Returns:
        num_steps levels, of all but the first; float64 on the host.

    Raises:
        ValueError: for a share outside [0, 1], or levels that are no grid.
    """
    if not 0 <= gamma <= 1:
        raise ValueError(f"gamma is a share of the time, from 0 to 1, not {gamma}")
    with jax.enable_x64(True):
        times = time(process, checked(levels)[1:])
        return [float(s) for s in np.asarray(level(process, (1.0 - gamma) * times))]
