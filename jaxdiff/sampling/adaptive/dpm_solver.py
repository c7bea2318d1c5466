"""DPM-Solver with adaptive steps: the embedded pairs DPM-Solver-12 and -23.

Source: Lu et al., arXiv 2206.00927, appendix C (algorithm "DPM-Solver-12" and "-23", and their
tables of hyperparameters); data prediction as in DPM-Solver++, 2211.01095.

Time is lambda = -log level and h the step in it. With M the predicted quantity, eps (z = h,
scale(level) = level, base y) or D (z = -h, scale = 1, base y level'/level), a step from s to the
level s_c = s e^(-c h) is

    y_c = base - scale(s_c) [expm1(c z) M_0 + w (M_b - M_0)],

    order 1:  w = 0                            order 2 at c = 1:  b = r1, w = expm1(z)/(2 r1)
    order 3:  at r2, b = r1, w = (r2/r1) (expm1(r2 z)/(r2 z) - 1)
              at 1,  b = r2, w = (1/r2) (expm1(z)/z - 1),

r1 = 1/2 for the pair 12; r1 = 1/3 and r2 = 2/3 for the pair 23.
"""

import functools
from typing import Any, Literal

import jax
import jax.numpy as jnp

from jaxdiff.arrays import check, check_cond
from jaxdiff.denoisers import as_partial
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
from jaxdiff.sampling.checks import check_start, warn_beyond
from jaxdiff.sampling.correction import as_correction, correction_keys
from jaxdiff.sampling.finished import check_max_steps
from jaxdiff.typing import Array, Cond, Correct, Denoiser, Key

SAFETY = 0.9  # theta of the paper
ACCEPTANCE = 0.81  # smallest factor of the PID controller that accepts a step


def dpm_adaptive(
    denoiser: Denoiser,
    start: Array,
    high: float | Array,
    low: float | Array,
    cond: Cond = None,
    *,
    order: int = 3,
    rtol: float = 0.05,
    atol: float = 0.0078,
    first_step: float = 0.05,
    prediction: Literal["noise", "data"] = "noise",
    control: Literal["paper", "pid"] = "paper",
    pid: tuple[float, float, float] = (0.0, 1.0, 0.0),
    frame: Literal["ve", "vp"] = "vp",
    denoise: bool = False,
    correct: Correct | None = None,
    key: Key | None = None,
    index: Array | None = None,
    max_steps: int = 512,
    throw: bool = True,
    reference: bool = False,
) -> Stepped:
    """Integrate the probability-flow ODE from level ``high`` to ``low`` in steps of DPM-Solver.

    Args:
        denoiser: ``D(y, level, cond)``; it is called with levels (batch,).
        start: (batch, *shape) states at level ``high``, float32 or float64.
        high, low: noise levels, high > low > 0.
        cond: handed to the denoiser.
        order: 2 (the pair 12) or 3 (the pair 23): also the evaluations per step.
        rtol, atol: tolerances; the paper's are for data in [-1, 1].
        first_step: in log level.
        prediction: what is interpolated: "noise" (the paper) or "data", several times more accurate
            for the same tolerance on a Gaussian.
        control: "paper" accepts if E <= 1 and sets h to 0.9 h E^(-1/order); "pid" is the controller
            of k-diffusion: h grows by the factor E_0^(-b_0) E_1^(-b_1) E_2^(-b_2) of the last three
            errors, limited to 1 + arctan(factor - 1), and a factor of 0.81 accepts.
        pid: its coefficients (p, i, d): b = (p + i + d, -p - 2 d, d)/order.
        frame: the states whose error is measured: y/sqrt(1 + level^2), those of a
            variance-preserving model ("vp", the paper), or y ("ve", k-diffusion), whose size at
            high levels makes ``atol`` strict and ``rtol`` so lax that, with the control of the
            paper, the pair 23 may leap over everything in one step.
        denoise: return D at ``low`` instead of the state there (one more evaluation).
        correct: ``correct(y, level, key) -> y``, applied to every accepted state, which it
            replaces (:mod:`jaxdiff.sampling.correction`), with levels (batch,).
        key, index: typed key and numbers of the samples, for ``correct``.
        max_steps: attempts per sample.
        throw: raise if a sample has not finished by then. Under ``jax.jit`` look at ``finished``.
        reference: as published code does, one step size for the whole batch (from the largest error
            with "paper", from all elements' root mean square with "pid"), and a rejected step
            evaluated again from its beginning.

    Returns:
        States, exact evaluation counts and the history of the steps. Forward-mode differentiable.

    Raises:
        ValueError: an argument out of its range, before anything is compiled.
        RuntimeError: if a sample did not finish, with ``throw``.
    """
    for name, value, known in [
        ("order", order, (2, 3)),
        ("prediction", prediction, ("noise", "data")),
        ("control", control, ("paper", "pid")),
        ("frame", frame, ("ve", "vp")),
    ]:
        if value not in known:
            raise ValueError(
                f"dpm_adaptive has {name} {known[0]!r} and {known[1]!r}, not {value!r}"
            )
    check_range(high, low)
    check_max_steps(max_steps)
    check_start(start, None, high)
    warn_beyond(denoiser, high)
    check_cond(cond, start.shape[0])
    check("rtol, atol and first_step must be positive", _positive, rtol, atol, first_step)
    keys = correction_keys("dpm_adaptive", correct, key, start, index)
    out = _run(
        as_partial(denoiser), as_correction(correct), keys, start, cond,
        *(jnp.asarray(x, start.dtype) for x in (high, low, rtol, atol, first_step)),
        order, prediction, control, pid, frame, denoise, max_steps, reference,
    )  # fmt: skip
    return thrown(out, low, max_steps) if throw else out


def _positive(*values: float) -> bool:
    return all(float(v) > 0 for v in values)


@functools.partial(jax.jit, static_argnums=range(10, 18))
def _run(
    D: Denoiser, correct: Correct | None, keys: Key | None, start: Array, cond: Cond, high: Array,
    low: Array, rtol: Array, atol: Array, first_step: Array, order: int, prediction: str,
    control: str, pid: tuple[float, float, float], frame: str, denoise: bool,
    max_steps: int, reference: bool,
) -> Stepped:  # fmt: skip
    rule = functools.partial(_paper, order) if control == "paper" else _pid(order, pid, reference)
    embedded = Embedded(
        stages=order,
        nodes=functools.partial(_nodes, order, prediction),
        see=lambda y, time: (y, jnp.exp(-time)),
        slope=(lambda y, time, out: out) if prediction == "data" else _eps,
        finish=functools.partial(_finish, order, prediction),
        error=functools.partial(_error, frame, rtol, atol),
        control=rule,
        memory=lambda y: jnp.zeros(3, y.dtype),
        couple=_couple(control) if reference else lambda errors: errors,
        retry=0 if reference else 1,
    )
    begin, end = -jnp.log(high), -jnp.log(low)
    out = march(D, embedded, start, begin, end, cond, None, first_step, max_steps, correct, keys)
    return denoised(out, D, low, cond, correct, keys) if denoise else out


def _eps(y: Array, time: Array, output: Array) -> Array:
    return (y - output) * jnp.exp(time)


def _part(
    prediction: str, step: Step, h: Array, c: float, weight: Array | None = None, other: int = 0
) -> Array:
    """Return y_c of the module's formula, its second term with the slope number ``other``."""
    z = h if prediction == "noise" else -h
    scale = jnp.exp(-(step.time + c * h)) if prediction == "noise" else jnp.ones_like(h)
    base = step.y if prediction == "noise" else jnp.exp(-c * h) * step.y
    slope = jnp.expm1(c * z) * step.slopes[0]
    if weight is not None:
        slope = slope + weight * (step.slopes[other] - step.slopes[0])
    return base - scale * slope


def _phi(z: Array) -> Array:
    return jnp.expm1(z) / z - 1.0


def _nodes(
    order: int, prediction: str, step: Step, h: Array, own: None
) -> list[tuple[Array, Array]]:
    z = h if prediction == "noise" else -h
    first = 1 / 2 if order == 2 else 1 / 3
    nodes = [
        (step.y, step.time),
        (_part(prediction, step, h, first), step.time + first * h),
    ]
    if order == 3:
        between = _part(prediction, step, h, 2 / 3, 2.0 * _phi(2 / 3 * z), 1)
        nodes.append((between, step.time + 2 / 3 * h))
    return nodes


def _finish(order: int, prediction: str, step: Step, h: Array, own: None) -> tuple[Array, Array]:
    z = h if prediction == "noise" else -h
    if order == 2:
        low = _part(prediction, step, h, 1.0)
        return low, _part(prediction, step, h, 1.0, jnp.expm1(z), 1)
    low = _part(prediction, step, h, 1.0, 1.5 * jnp.expm1(z), 1)
    return low, _part(prediction, step, h, 1.0, 1.5 * _phi(z), 2)


def _error(
    frame: str, rtol: Array, atol: Array, step: Step, h: Array, low: Array, high: Array
) -> Array:
    if frame == "ve":
        return rms_error(low, high, step.before, rtol, atol)
    shrink = lambda time: (1.0 + jnp.exp(-2.0 * time)) ** -0.5  # noqa: E731
    after = shrink(step.time + h)
    return rms_error(after * low, after * high, shrink(step.time) * step.before, rtol, atol)


def _paper(order: int, step: Step, h: Array, error: Array, own: None) -> tuple[Array, Array, Array]:
    return error <= 1.0, SAFETY * h * error ** (-1 / order), step.memory


def _pid(order: int, pid: tuple[float, float, float], reference: bool) -> Any:
    p, i, d = pid
    powers = (p + i + d) / order, -(p + 2 * d) / order, d / order

    def rule(step: Step, h: Array, error: Array, own: None) -> tuple[Array, Array, Array]:
        newest = 1.0 / (error + 1e-8)
        fresh = step.memory[1] == 0
        past = jnp.where(fresh, jnp.broadcast_to(newest, (3,)), step.memory)
        factor = newest ** powers[0] * past[1] ** powers[1] * past[2] ** powers[2]
        factor = 1.0 + jnp.arctan(factor - 1.0)
        accept = factor >= ACCEPTANCE
        moved = jnp.stack([newest, newest, past[1]])
        size = step.size if reference else h  # published: of the step before it was cut to fit
        return accept, factor * size, jnp.where(accept, moved, past)

    return rule


def _couple(control: str) -> Any:
    pool = jnp.max if control == "paper" else lambda errors: jnp.sqrt(jnp.mean(errors**2))
    return lambda errors: jnp.broadcast_to(pool(errors), errors.shape)
