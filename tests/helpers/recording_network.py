"""What the tests of the terms of losses share: data, students that are far from exact and note
their inputs, and what is drawn.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.method import Context
from jaxdiff.typing import Outputs

LOW, HIGH, SD, STEP, COUNT = 0.01, 20.0, 0.5, 30, 1024
MEAN, VARIANCE = np.array([[0.2, -0.4]]), np.array([[0.09, 0.5]])
_draws = np.random.default_rng(0)
X0 = MEAN + VARIANCE**0.5 * _draws.normal(size=(COUNT, 2))
LABEL, START = _draws.normal(size=COUNT), HIGH * _draws.normal(size=(COUNT, 2))
PATH = _draws.normal(size=(COUNT, 4, 2))  # of any states: the loss does not need it
STATES = np.array([20.0, 3.0, 0.4, 0.0])  # their levels
GROUPED = np.array([20.0, 5.0, 2.0, 0.8, 0.3, 0.1, 0.0])
BATCH = {"image": X0, "label": LABEL, "start": START, "path": PATH}
OWN = {"scale": np.float64(0.8), "shift": np.float64(0.3), "log_variance": np.float64(0.4)}
SLOW = {"scale": np.float64(0.5), "shift": np.float64(-0.2), "log_variance": np.float64(0.0)}


def f(params, y, level, *further):
    """The student, and its average with SLOW: no exact answer to anything."""
    size = 1.0 + sum(further, 0.0 * level)
    return params["scale"] * y / (1.0 + level)[:, None] + params["shift"] * size[:, None]


def teacher(y, level, cond=None, *, extra=None):
    """The Gaussian's denoiser, moved by its further labels."""
    square = (level * level + 0.0 * y[:, 0])[:, None]
    moved = sum((a[:, None] for a in (cond, extra) if a is not None), 0.0 * square)
    return MEAN + VARIANCE / (VARIANCE + square) * (y - MEAN) + moved


class Call(NamedTuple):
    """Inputs of a network: states, levels, further labels; dropout key and condition."""

    y: np.ndarray
    s: np.ndarray
    further: list
    key: bytes | None
    cond: np.ndarray | None


class Noting:
    """A network, which is the denoiser itself and notes its calls; where a derivative is taken only
    with ``everywhere``.
    """

    def __init__(
        self,
        network=lambda params, y, level, *further, cond: f(params, y, level, *further),
        everywhere=False,
    ):
        self.network, self.everywhere, self.calls = network, everywhere, []

    def __call__(self, params, x, label, cond=None, *, full=False, key=None):
        level, *further = jnp.moveaxis(label, 1, 0) if label.ndim == 2 else (label,)

        def note(x, level, further, cond, key):
            x, level, *further = (np.asarray(a) for a in (x, level, *further))
            key = None if key is None else np.asarray(key).tobytes()
            self.calls.append(Call(x, level, further, key, cond))

        if self.everywhere or not isinstance(x, jax.core.Tracer):
            numbers = None if key is None else jax.random.key_data(key)
            given = (x, level, further, cond, numbers)
            traced = any(isinstance(a, jax.core.Tracer) for a in jax.tree.leaves(given))
            # a callback is a program of its own, compiled anew for every call
            jax.debug.callback(note, *given) if traced else note(*given)
        value = self.network(params, x, level, *further, cond=cond)
        if not full:
            return value
        return Outputs(value, params["log_variance"] + 0.0 * level, (value,))


def squared(a, b):
    return np.mean((a - b) ** 2, axis=1)


def huber(a, b, c=0.0):
    return np.sqrt(np.sum((a - b) ** 2, axis=1) + c**2) - c


def euler(y, s, r, x):
    return y + ((r - s) / s)[:, None] * (y - x)


def implied(y, s, z, r):
    """The denoised output x with euler(y, s, r, x) = z."""
    return (s[:, None] * z - r[:, None] * y) / (s - r)[:, None]


def lower(y, t, r):
    """The state at level r of the same datum and noise; the noise is standard normal."""
    eps = (y - X0) / t[:, None]
    assert abs(eps.std() - 1) < 0.1 and abs(eps.mean()) < 0.2
    return X0 + r[:, None] * eps


def karras(scales, low=LOW):
    high, low = HIGH ** (1 / 7), low ** (1 / 7)
    return (high + np.arange(scales) / (scales - 1) * (low - high)) ** 7


def place(levels, grid, law=None):
    """Numbers of the levels on the grid, on which they are, drawn with the probabilities given."""
    index = np.argmin(np.abs(levels[:, None] - grid[None]), axis=1)
    np.testing.assert_allclose(levels, grid[index], rtol=1e-9)
    if law is not None:
        found, law = np.bincount(index, minlength=len(law)) / len(index), np.array(law)
        np.testing.assert_allclose(found, law / law.sum(), atol=0.08)
        np.testing.assert_array_equal(found > 0, law > 0)
    return index


def uniform(u, low=0.0, high=1.0, atol=0.1):
    parts = np.linspace(0.0, 1.0, 5)
    np.testing.assert_allclose(np.quantile((u - low) / (high - low), parts), parts, atol=atol)


def log_normal(s, mean, std):
    assert abs(np.log(s).mean() - mean) < 0.2 * std and abs(np.log(s).std() - std) < 0.15 * std


def requested(one, **further):
    """Two of the teacher's steps in one of four, on the cosine grid: where the student was
    evaluated and the output that leads to their end.
    """
    u, y, s = np.arange(8) / 8, lower(one.y, one.s, one.s), one.s
    grid = np.append(np.tan((1 - u) * np.arctan(HIGH) + u * np.arctan(LOW)), 0.0)
    index = 2 * place(s, grid[:-1:2], [1] * 4)
    m, r = grid[index + 1], grid[index + 2]
    z = euler(y, s, m, teacher(y, s, LABEL, **further))
    return y, s, implied(y, s, euler(z, m, r, teacher(z, m, LABEL, **further)), r)


def loss_of(method, params, batch, key, step=STEP, player="student", **others):
    """With an average that is offered to all: most must not touch it."""
    slow = {"student": {"target": SLOW}}
    context = Context(jnp.asarray(step, jnp.int32), others, slow, method.frozen)
    return method.players[player].loss(params, context, batch, key)[0]
