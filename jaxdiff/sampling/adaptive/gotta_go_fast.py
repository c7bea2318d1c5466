r"""Gotta Go Fast: the reverse SDE by Euler-Maruyama and stochastic Heun under error control.

Source: Jolicoeur-Martineau et al., arXiv 2105.14080, algorithm 1. The reverse SDE of a process
dx = f x dt + g dw, in its own frame x = alpha y and time t, downwards in t:

    dx = b dt' + g dW,    b(x, t) = -f x + g^2 score,    score = (alpha D - x)/sigma^2.

A step of length h with one noise z ~ N(0, I) for both methods:

    x'  = x + h b(x, t) + sqrt(h) g(t) z                     Euler-Maruyama
    x~  = x + h b(x', t - h) + sqrt(h) g(t - h) z
    x'' = (x' + x~)/2                                        stochastic Heun

accepted, to x'' (the paper's extrapolation), if E <= 1 for the error E of
:mod:`jaxdiff.sampling.adaptive.step_control`; then h becomes min(t, 0.9 h E^-0.9) either way.

What a rejected step leaves behind matters: its noise was seen, and the paper draws a new one for
the shorter step, so that noises which lead to rejection are under-represented. Here a step's noise
is the increment of one Brownian path per sample, and the shorter step uses the first part of the
very path that was rejected: steps, however chosen, never change the law of the noise.
``reference=True`` redraws. Step sizes are cut to four bits: on a rough path a size that differs by
rounding leads, step by step, to other noise altogether, and a sample would depend on how the
program was compiled. In few dimensions that is wrong: measured on N(0, I/4) with rtol = atol
= 0.02, redrawing makes the variance 121 % too large in 2 dimensions, 10 % in 16 and less than 1 %
in 128, where E hardly depends on the noise; one path is right within 2 % in all of them.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxdiff.arrays import check, check_cond
from jaxdiff.denoisers import as_partial
from jaxdiff.noise import sample_keys
from jaxdiff.process import VE, Process, diffusion, drift, level, time
from jaxdiff.sampling.adaptive.outcome import check_range
from jaxdiff.sampling.adaptive.step_control import (
    Embedded,
    Step,
    Stepped,
    denoised,
    march,
    rms_error,
    thrown,
)
from jaxdiff.sampling.checks import check_key, check_start, warn_beyond
from jaxdiff.sampling.correction import as_correction
from jaxdiff.sampling.finished import check_max_steps
from jaxdiff.typing import Array, Cond, Correct, Denoiser, Key

SAFETY, EXPONENT = 0.9, 0.9  # theta and r of the paper
KNOWN = 8  # points of a Brownian path kept; with more rejected in a row the farthest is forgotten

Noise = Callable[[Step, Array, Key], Array]


class Revealed(NamedTuple):
    """A Brownian path as far as it has been seen: where it is, and points ahead of it.

    times: (KNOWN + 1,) the present one first, then those ahead in any order, inf where none is.
    values: (KNOWN + 1, *shape) of the path there.
    """

    times: Array
    values: Array

    @classmethod
    def at(cls, time: Array, like: Array) -> "Revealed":
        """Return a path at 0 of which nothing has been seen."""
        times = jnp.full(KNOWN + 1, jnp.inf, like.dtype).at[0].set(time)
        return cls(times, jnp.zeros((KNOWN + 1, *like.shape), like.dtype))

    def look(self, time: Array, z: Array) -> Array:
        """Return the path at a time ahead, between its known neighbours, by one normal ``z``.

        A Brownian bridge from the known point before to the one after, where there is one.
        """
        before = jnp.argmax(jnp.where(self.times <= time, self.times, -jnp.inf))
        after = jnp.argmin(jnp.where(self.times > time, self.times, jnp.inf))
        end, left = self.times[after], time - self.times[before]
        bridged = (end > time) & (end < jnp.inf)  # argmin of nothing but infinities is 0
        gap = jnp.where(bridged, end - self.times[before], 1.0)
        part = jnp.where(bridged, left / gap, 0.0)
        mean = self.values[before] + part * (self.values[after] - self.values[before])
        return mean + jnp.sqrt(left * (1.0 - part)) * z

    def remember(self, time: Array, value: Array) -> "Revealed":
        """Return the path with one more known point, in an empty place or that of the farthest."""
        place = jnp.argmax(self.times)
        return Revealed(self.times.at[place].set(time), self.values.at[place].set(value))

    def move(self, time: Array, value: Array) -> "Revealed":
        """Return the path seen from a later time; what lies behind is forgotten."""
        ahead = jnp.where(self.times > time, self.times, jnp.inf)
        return Revealed(ahead.at[0].set(time), self.values.at[0].set(value))


def gotta_go_fast(
    denoiser: Denoiser,
    start: Array,
    high: float | Array,
    low: float | Array,
    cond: Cond = None,
    *,
    key: Key,
    index: Array | None = None,
    process: Process | None = None,
    rtol: float = 0.01,
    atol: float = 0.0078,
    first_step: float = 0.01,
    denoise: bool = False,
    correct: Correct | None = None,
    max_steps: int = 2048,
    throw: bool = True,
    reference: bool = False,
) -> Stepped:
    """Sample the reverse SDE from level ``high`` to ``low``, two evaluations per step.

    Args:
        denoiser: ``D(y, level, cond)``; it is called with levels (batch,).
        start: (batch, *shape) states y at level ``high``, float32 or float64.
        high, low: noise levels, high > low > 0.
        cond: handed to the denoiser.
        key, index: typed key, and (batch,) integers naming the samples; 0, 1, ... by default.
        process: in whose time and frame the steps are made and the errors measured: the paper's are
            :class:`jaxdiff.process.VP` and, the default, ``VE(low, high)``.
        rtol, atol: tolerances. The paper's atol is one grey level of 256: 0.0078 for data in
            [-1, 1] (its VP models), 0.0039 for data in [0, 1] (VE).
        first_step: in the time of the process.
        denoise: return D at ``low`` instead of the state there (one more evaluation).
        correct: ``correct(y, level, key) -> y``, applied to every accepted state, which it
            replaces (:mod:`jaxdiff.sampling.correction`), with levels (batch,).
        max_steps: attempts per sample.
        throw: raise if a sample has not finished by then. Under ``jax.jit`` look at ``finished``.
        reference: draw new noise for a step that is tried again, as the paper does.

    Returns:
        States y, exact evaluation counts and the history of the steps. A sample depends on ``key``
        and its index, and on no other sample. Forward-mode differentiable.

    Raises:
        ValueError, TypeError: if the arguments do not fit together, before anything is compiled.
        RuntimeError: if a sample did not finish, with ``throw``.
    """
    check_range(high, low)
    check_max_steps(max_steps)
    check_start(start, index, high)
    warn_beyond(denoiser, high)
    check_cond(cond, start.shape[0])
    check_key("gotta_go_fast", key)
    positive = lambda *values: all(float(v) > 0 for v in values)  # noqa: E731
    check("rtol, atol and first_step must be positive", positive, rtol, atol, first_step)
    numbers = [jnp.asarray(x, start.dtype) for x in (high, low, rtol, atol, first_step)]
    keys = sample_keys(key, start, index)
    out = _run(
        as_partial(denoiser), as_correction(correct), start, cond, keys,
        process or VE(numbers[1], numbers[0]), *numbers, denoise, max_steps, reference,
    )  # fmt: skip
    return thrown(out, low, max_steps) if throw else out


@functools.partial(jax.jit, static_argnums=(11, 12, 13))
def _run(
    D: Denoiser, correct: Correct | None, start: Array, cond: Cond, keys: Key, process: Process,
    high: Array, low: Array, rtol: Array, atol: Array, first_step: Array, denoise: bool,
    max_steps: int, reference: bool,
) -> Stepped:  # fmt: skip
    begin, end = -time(process, high), -time(process, low)  # minus t: increasing towards the data
    noise = _redrawn if reference else _revealed
    pair = Embedded(
        stages=2,
        nodes=functools.partial(_nodes, process, noise),
        see=lambda x, u: (x / process.alpha(-u), level(process, -u)),
        slope=functools.partial(_drift, process),
        finish=functools.partial(_finish, process, noise),
        error=lambda step, h, low, high: rms_error(low, high, step.before, rtol, atol),
        control=functools.partial(_control, noise),
        memory=lambda x: Revealed.at(begin, x),
        put=lambda x, y, u: x + process.alpha(-u) * (y - x / process.alpha(-u)),  # exact for y = x
    )
    first = process.alpha(-begin) * start
    out = march(D, pair, first, begin, end, cond, keys, first_step, max_steps, correct, keys)
    out = out._replace(states=out.states / process.alpha(-end))
    return denoised(out, D, low, cond, correct, keys) if denoise else out


def _drift(process: Process, x: Array, u: Array, output: Array) -> Array:
    """Return b(x, t) at t = -u."""
    t = -u
    score = (process.alpha(t) * output - x) / process.sigma(t) ** 2
    return diffusion(process, t) * score - drift(process, t) * x


def _width(process: Process, u: Array) -> Array:
    return jnp.sqrt(diffusion(process, -u))


def _euler(process: Process, noise: Noise, step: Step, h: Array, own: Key) -> tuple[Array, Array]:
    """Return x' and the increment of the Brownian path, sqrt(h) z."""
    increment = noise(step, h, own)
    x = step.y + h * step.slopes[0] + _width(process, step.time) * increment
    return x, increment


def _nodes(
    process: Process, noise: Noise, step: Step, h: Array, own: Key
) -> list[tuple[Array, Array]]:
    predicted, _ = _euler(process, noise, step, h, own)
    return [(step.y, step.time), (predicted, step.time + h)]


def _finish(process: Process, noise: Noise, step: Step, h: Array, own: Key) -> tuple[Array, Array]:
    low, increment = _euler(process, noise, step, h, own)
    again = step.y + h * step.slopes[1] + _width(process, step.time + h) * increment
    return low, (low + again) / 2


def _control(noise: Noise, step: Step, h: Array, error: Array, own: Key) -> tuple[Any, ...]:
    accept, path = error <= 1.0, step.memory
    seen = path.values[0] + noise(step, h, own)
    where = functools.partial(jax.tree.map, functools.partial(jnp.where, accept))
    memory = where(path.move(step.time + h, seen), path.remember(step.time + h, seen))
    size = SAFETY * h * error**-EXPONENT
    return accept, size if noise is _redrawn else _coarse(size), memory


def _coarse(size: Array) -> Array:
    """A step size cut to four bits: what rounding changes in the last one changes no step."""
    mantissa, exponent = jnp.frexp(size)
    return jnp.ldexp(jnp.floor(16 * mantissa) / 16, exponent)


def _redrawn(step: Step, h: Array, own: Key) -> Array:
    """Increment of an attempt, from its number."""
    return jnp.sqrt(h) * _normal(step, own)


def _revealed(step: Step, h: Array, own: Key) -> Array:
    """Increment of the sample's path over the step."""
    return step.memory.look(step.time + h, _normal(step, own)) - step.memory.values[0]


def _normal(step: Step, own: Key) -> Array:
    attempt = jax.random.fold_in(own, step.accepted + step.rejected)
    return jax.random.normal(attempt, step.y.shape, step.y.dtype)
