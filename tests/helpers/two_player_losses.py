"""What the tests of the terms of two players' losses share: players far from exact that note what
they are evaluated at, and what is computed anew from it in NumPy.

A loss is written down once, for its value and its gradient: ``held`` (the real part) stands where
no gradient passes, and a derivative is the imaginary part at a step of 1e-30 i, exact to all
digits, as what the players say is a rational function of their inputs.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.recording_network import BATCH, HIGH, LABEL, LOW, OWN, SLOW, Noting, f, teacher
from scipy.stats import spearmanr

from jaxdiff.denoisers import denoiser
from jaxdiff.distill.parts.critic import SOFTPLUS, Head
from jaxdiff.distill.parts.generator import log_normal
from jaxdiff.distill.parts.student import Student
from jaxdiff.method import Context
from jaxdiff.process import EDM

DATA = 0.6  # of the data; a weight that forgets it has EDM's 0.5
HEAD = {"w": np.array([6.0, -8.0])}
PARAMS = {"student": OWN, "fake": {"network": SLOW, "head": HEAD}, "critic": HEAD}
OTHER = PARAMS["fake"]
PULLS = 0.5, -0.3  # of the label, on student and fake score

held = np.real


class Recorded(NamedTuple):
    """The calls of student, fake score and teacher, in order; and of what else notes its own."""

    student: list
    fake: list
    teacher: list
    others: list


def G(theta, y, s, *recorded):
    """What the student says."""
    return f(theta, y, s, *recorded) + PULLS[0] * LABEL[:, None]


def F(phi, y, s):
    """What the fake score's denoiser says."""
    return f(phi["network"], y, s) + PULLS[1] * LABEL[:, None]


def T(y, s, cond=LABEL):
    """What the teacher says."""
    return teacher(y, s, cond)


def logits_of(params, features, cond):
    """Two logits per sample, of both numbers of the first map of features; NumPy's or JAX's."""
    h = features[0]
    return params["w"][None] * h + 0.2 * h**2 + 0.1 * cond[:, None]


def L(params, h):
    return logits_of(params, (h,), LABEL)


def slope_of(params, h):
    """The derivative of each logit in its feature."""
    return params["w"] + 0.4 * h


def head(game=SOFTPLUS):
    return Head(logits_of, jax.tree.map(jnp.asarray, HEAD), game)


def softplus(u):
    positive = held(u) > 0
    return np.where(positive, u, 0) + np.log1p(np.exp(np.where(positive, -u, u)))


def played(make, player="student", params=None, batch=BATCH, others=()):
    """The value, metrics and gradient of a player's loss, where ``params`` are in place of PARAMS;
    and the recorded calls. ``make(teacher, student, fake score's model)`` is the method.

    All calls of the player that learns share one dropout key, of which the others know nothing.
    """
    nets = [Noting(_network(pull)) for pull in PULLS]
    seen = Noting(lambda params, y, level, *recorded, cond: teacher(y, level, cond))
    student = Student(nets[0], OWN, "x0", EDM(t_max=1e4), DATA, low=LOW, high=HIGH)
    model = student._replace(network=nets[1], params=SLOW)
    D = denoiser(seen, SLOW, prediction="x0", process=EDM(t_max=1e4))
    method = make(D, student, model)
    everyone = PARAMS | (params or {})
    context = Context(jnp.asarray(30), everyone, {}, method.frozen)
    batch = jax.tree.map(jnp.asarray, batch)

    def loss(own):
        return method.players[player].loss(own, context, batch, jax.random.key(7))

    own = jax.tree.map(jnp.asarray, everyone[player])
    value, metrics = loss(own)
    recorded = Recorded(*(list(n.calls) for n in (*nets, seen)), list(others))
    for name in ("student", "fake", "teacher"):
        keys = {call.key for call in getattr(recorded, name)}
        assert len(keys) <= 1 and (None not in keys) if name == player else keys <= {None}
    return value, metrics, jax.grad(loss, has_aux=True)(own)[0], recorded


def _network(pull):
    return lambda params, y, level, *recorded, cond: (
        f(params, y, level, *recorded) + pull * cond[:, None]
    )


def is_the_loss(make, wanted, player="student", params=None, **options):
    """The loss, its metrics and its gradient are those of ``wanted(own parameters, recorded)``, a
    value per sample or in all, or this and metrics.
    """
    value, metrics, gradient, recorded = played(make, player, params, **options)
    own = (PARAMS | (params or {}))[player]
    found = wanted(own, recorded)
    expected, shown = found if isinstance(found, tuple) else (found, {})
    np.testing.assert_allclose(value, np.mean(expected), rtol=1e-9)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-9)
    jax.tree.map(close, {"loss": value} | metrics, {"loss": value} | shown)
    slopes = slopes_of(lambda p: wanted(p, recorded), own)
    size = max(np.abs(g).max() for g in jax.tree.leaves(slopes))
    assert size > 0
    close = functools.partial(np.testing.assert_allclose, rtol=1e-8, atol=1e-10 * size)
    jax.tree.map(close, gradient, slopes)


def slopes_of(wanted, params):
    """The gradient in every number of the parameters, by steps of 1e-30 i."""
    leaves, structure = jax.tree.flatten(params)

    def slope(place, number):
        moved = np.array(leaves[place], complex)
        moved.flat[number] += 1e-30j
        answer = wanted(structure.unflatten([*leaves[:place], moved, *leaves[place + 1 :]]))
        return np.mean(answer[0] if isinstance(answer, tuple) else answer).imag / 1e-30

    slopes = [
        np.reshape([slope(i, n) for n in range(np.size(leaf))], np.shape(leaf))
        for i, leaf in enumerate(leaves)
    ]
    return structure.unflatten(slopes)


def normal(*draws):
    """Standard normal numbers."""
    for draw in draws:
        np.testing.assert_allclose([draw.mean(), draw.std()], [0, 1], atol=0.1)


def apart(*draws):
    """What is drawn for one thing says nothing of what is drawn for another. (What two draws of one
    key have in common is their order in memory.)
    """
    count = min(np.size(draw) for draw in draws)
    flat = [np.ravel(draw)[:count] for draw in draws]
    for i, one in enumerate(flat):
        for other in flat[:i]:
            assert abs(spearmanr(one, other).statistic) < 0.13


def karras_law(first, last):
    """Uniform on the Karras grid between fractions of it."""

    def law(s):
        ends = HIGH ** (1 / 7), LOW ** (1 / 7)
        even((ends[0] - s ** (1 / 7)) / (ends[0] - ends[1]), first, last)

    return law


def log_normal_law(mean, std):
    def law(s):
        assert abs(np.log(s).mean() - mean) < 0.1 * std
        np.testing.assert_allclose(np.log(s).std(), std, rtol=0.1)

    return law


def time_law(s, first=0.02, last=0.98):
    """Uniform in 2 to 98 % of the time of the variance-preserving process, log alpha = -t/20 -
    19.9 t^2/4.
    """
    even((-0.05 + np.sqrt(0.05**2 + 19.9 / 2 * np.log1p(s**2))) / (19.9 / 2), first, last)


def even(u, first, last):
    """Uniform from first to last, to both ends."""
    u = (u - first) / (last - first)
    np.testing.assert_allclose(np.quantile(u, [0, 0.25, 0.5, 0.75, 1]), np.arange(5) / 4, atol=0.05)
    assert -1e-9 < u.min() < 0.008 and 0.992 < u.max() < 1 + 1e-9


LOG_NORMAL, MIDDLE, WHOLE = log_normal_law(-1.2, 1.2), karras_law(0.02, 0.98), karras_law(0, 1)
HIGHER, HIGHER_LAW = log_normal(0.5, 0.3), log_normal_law(0.5, 0.3)
LOWER, LOWER_LAW = log_normal(-0.5, 0.4), log_normal_law(-0.5, 0.4)


def pushed(x, direction):
    """The pseudo-loss of a direction."""
    return 0.5 * mean_square(x - held(x - direction))


def mean_square(a):
    return np.mean(a**2, axis=1)


def size_of(a):
    """The mean absolute number of each sample, held."""
    return np.mean(np.abs(held(a)), axis=1)


def column(a):
    return np.asarray(a)[:, None]


def generated(theta, recorded, start):
    """The sample x of one evaluation from noise at a level, and that noise."""
    one = recorded.student[0]
    np.testing.assert_allclose(one.s, start, rtol=1e-12)
    z = one.y / start
    normal(z)
    return G(theta, one.y, one.s), z


def again(call, x, law, *others):
    """The state of an evaluation as samples x with noise of a level, (y, s); the noise is
    normal, and it, the level and other draws are apart.
    """
    eps = (call.y - held(x)) / column(call.s)
    normal(eps)
    law(call.s)
    apart(eps, call.s, *others)
    return x + column(call.s) * eps, call.s


def evaluated_alike(*calls):
    for call in calls[1:]:
        np.testing.assert_array_equal(call.y, calls[0].y)
        np.testing.assert_array_equal(call.s, calls[0].s)


def compared(recorded, x, law, *others):
    """What fake score and teacher say of the samples with noise, all evaluated alike: (y, s,
    D_fake, D_teacher).
    """
    evaluated_alike(*recorded.fake, *recorded.teacher)
    y, s = again(recorded.fake[0], x, law, *others)
    return y, s, F(OTHER, y, s), T(y, s)


def normalised(x, D_fake, D_teacher):
    """DMD's direction."""
    return (D_fake - D_teacher) / column(size_of(x - D_teacher) + 1e-6)


def identity(x, D_fake, D_teacher, alpha):
    """The loss of score identity distillation, its normaliser held."""
    away = D_teacher - D_fake
    product = np.sum(away * (D_teacher - x - alpha * away), axis=1)
    return product / size_of(x - D_teacher)


def scored(phi, recorded, x, law, weight, call=0):
    """The fake score's loss per sample, on held samples."""
    y, s = again(recorded.fake[call], x, law)
    return weight(s) * mean_square(F(phi, y, s) - x)


def edm(s):
    return s**-2.0 + DATA**-2.0


def of_cases(cases):
    """Those with options of their own are tried among the slow tests, where the method's defaults
    are tried among the quick.
    """
    slow = lambda name: name.endswith((", options", ", penalised"))  # noqa: E731
    return [pytest.param(name, marks=[pytest.mark.slow] * slow(name)) for name in cases]
