"""Every term of the losses that move samples by what two denoisers say, and of their fake score'.

Both players are far from exact and note their inputs. From the states and levels they were
shown the loss is computed anew as the paper has it, and its gradient, which shows where gradients
pass and where they must not. What is drawn must be spread as the paper says, and apart.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.recording_network import COUNT, HIGH, LABEL, LOW, OWN, START, X0, Noting, place
from helpers.two_player_losses import (
    HIGHER,
    HIGHER_LAW,
    LOG_NORMAL,
    LOWER,
    LOWER_LAW,
    MIDDLE,
    OTHER,
    WHOLE,
    F,
    G,
    T,
    again,
    apart,
    column,
    compared,
    edm,
    evaluated_alike,
    even,
    generated,
    held,
    identity,
    is_the_loss,
    karras_law,
    mean_square,
    normal,
    normalised,
    of_cases,
    pushed,
    scored,
    size_of,
    time_law,
)

from jaxdiff import distill
from jaxdiff.distill.parts.two_players import FakeScore
from jaxdiff.distill.score.score_implicit import squared_slope


def reward(x, cond):
    return x[:, 0] * cond + x[:, 1] ** 2


def instructed(theta, recorded):
    x, z = generated(theta, recorded, 1.0)
    _, _, D_fake, D_teacher = compared(recorded, x, LOG_NORMAL, z)
    return 2 * pushed(x, D_fake - D_teacher)  # sums over two numbers


def instructed_with_reward(theta, recorded):
    """With the weight s^-2, that of the divergence."""
    x, z = generated(theta, recorded, 3.0)
    _, s, D_fake, D_teacher = compared(recorded, x, HIGHER_LAW, z)
    found = reward(x, LABEL)
    values = 2 * pushed(x, column(s**-2) * (D_fake - D_teacher)) - 0.7 * found
    return values, {"reward": np.mean(held(found))}


def matching(x, recorded, *draws, law=MIDDLE):
    _, _, D_fake, D_teacher = compared(recorded, x, law, *draws)
    return normalised(x, D_fake, D_teacher)


def matched_with_pairs(factor=0.25, law=MIDDLE, distance=lambda a, b: mean_square(a - b)):
    def wanted(theta, recorded):
        x, z = generated(theta, recorded, HIGH)
        pair = recorded.student[1]
        np.testing.assert_array_equal(pair.y, START)
        np.testing.assert_allclose(pair.s, HIGH)
        error = distance(G(theta, pair.y, pair.s), X0)
        values = pushed(x, matching(x, recorded, z, law=law)) + factor * error
        return values, {"regression": np.mean(held(error))}

    return wanted


def matched(theta, recorded):
    x, z = generated(theta, recorded, HIGH)
    return pushed(x, matching(x, recorded, z))


def cubes(a, b):
    """A distance that is not the square."""
    return ((a - b) ** 3)[:, 0]


STEPS = (5.0, 1.0, 0.2)


def simulated(theta, recorded):
    """Samples of one evaluation of three, its input made by the student's sampling; and noise."""
    first, second, last = recorded.student
    one, two = (G(OWN, call.y, call.s) for call in (first, second))
    np.testing.assert_allclose([first.s, second.s], np.broadcast_to(column(STEPS[:2]), (2, COUNT)))
    which = place(last.s, np.array(STEPS), [1, 1, 1])
    for k, call in enumerate((first, second)):
        np.testing.assert_array_equal(last.y[which == k], call.y[which == k])
    third = ((last.y - two) / STEPS[2])[which == 2]
    draws = first.y / STEPS[0], (second.y - one) / STEPS[1]
    normal(*draws, third)
    apart(*draws, which)
    apart(draws[0][which == 2], third)
    apart(draws[1][which == 2], third)
    return G(theta, last.y, last.s), draws[0]


def matched_in_steps(theta, recorded):
    x, z = simulated(theta, recorded)
    return pushed(x, matching(x, recorded, z))


def decoupled(start=HIGH, law=MIDDLE, own_law=MIDDLE, weight=4.5):
    """The direction of guidance has noise and levels of its own, the size of the other one."""

    def wanted(theta, recorded):
        x, z = generated(theta, recorded, start)
        first, plain, guided = recorded.teacher
        evaluated_alike(first, recorded.fake[0])
        assert plain.cond is None
        y, s = (held(a) for a in again(first, x, law, z))
        evaluated_alike(plain, guided)
        y_own, s_own = (held(a) for a in again(guided, x, own_law, z, first.y - held(x), s))
        D = T(y, s)
        engine = T(y_own, s_own) - T(y_own, s_own, None)
        direction = F(OTHER, y, s) - D + (1 - weight) * engine
        return pushed(x, direction / column(size_of(x - D) + 1e-6))

    return wanted


def identified(start=2.5, law=karras_law(0.2, 1.0), alpha=1.2, scale=100):
    """Gradients pass through both denoisers; levels are all but the highest fifth."""

    def wanted(theta, recorded):
        x, z = generated(theta, recorded, start)
        _, _, D_fake, D_teacher = compared(recorded, x, law, z)
        return scale * identity(x, D_fake, D_teacher, alpha)

    return wanted


def implicit(theta, recorded):
    """Pseudo-Huber with c = 0.03."""
    x, z = generated(theta, recorded, 2.5)
    _, _, D_fake, D_teacher = compared(recorded, x, LOG_NORMAL, z)
    u = D_fake - D_teacher
    size = np.sqrt(np.sum(u**2, axis=1) + 0.03**2)
    return -np.sum(u * (D_fake - x), axis=1) / size


def implicit_square(theta, recorded):
    x, z = generated(theta, recorded, 3.0)
    _, s, D_fake, D_teacher = compared(recorded, x, HIGHER_LAW, z)
    found = reward(x, LABEL)
    values = -(s**-2) * np.sum(2 * (D_fake - D_teacher) * (D_fake - x), axis=1) - 0.7 * found
    return values, {"reward": np.mean(held(found))}


def stepped(theta, recorded):
    """The prediction x, the state below it and its level s, in time uniform; t a third above it or
    less, and not above the highest; 3 steps.
    """
    one, two = recorded.student[0], recorded.fake[0]
    y, t, s = one.y, one.s, two.s
    x = G(theta, y, t)
    eps, ratio = (y - X0) / column(t), column(s / t)
    rest = two.y - held(x) - ratio**2 * (y - held(x))
    z = rest / (ratio * column(np.sqrt(t**2 - s**2)))
    first, last = np.arctan(HIGH), np.arctan(LOW)
    u, v = (np.maximum((np.arctan(a) - first) / (last - first), 0) for a in (t, s))
    even(v, 0, 1)
    free = v > 1 / 3
    even(3 * (v - u)[free], 0, 1)
    start = u < 1e-9  # as where sampling starts
    assert abs(start.mean() - 1 / 6) < 0.03
    normal(eps, z[~start], z[start])
    apart(eps, z, v)
    apart(*(a[free] for a in (v - u, eps, z, v)))
    return x, two.y, s


def snr(s):
    return np.maximum(s**-2, 1)


def moments(weight=snr):
    def wanted(theta, recorded):
        x, y, s = stepped(theta, recorded)
        evaluated_alike(recorded.fake[0], recorded.teacher[0])
        return pushed(x, column(weight(s)) * (F(OTHER, y, s) - T(y, s)))

    return wanted


def auxiliary(weight=snr):
    def wanted(phi, recorded):
        x, y, s = stepped(OWN, recorded)
        evaluated_alike(recorded.fake[0], recorded.teacher[0])
        D = F(phi, y, s)
        return weight(s) * (mean_square(D - x) + mean_square(D - T(y, s)))

    return wanted


def fake_of(start, law):
    """The fake score's loss on samples from a level."""

    def wanted(phi, recorded):
        x, _ = generated(OWN, recorded, start)
        return scored(phi, recorded, x, law, edm)

    return wanted


def fake_of_sums(start, law):
    """The same of sums, not means, over a sample's two numbers."""
    return lambda phi, recorded: 2 * fake_of(start, law)(phi, recorded)


def fake_of_steps(phi, recorded):
    return scored(phi, recorded, simulated(OWN, recorded)[0], WHOLE, edm)


OPTIONS = {"start": 3.0, "levels": HIGHER, "fake_levels": LOWER}
REWARD = {"reward": reward, "reward_factor": 0.7}
inverse_square = lambda s: s**-2  # noqa: E731

# how a method is made, the student's loss and the fake score's
CASES = {
    "diff_instruct": (distill.diff_instruct, {}, instructed, fake_of_sums(1.0, LOG_NORMAL)),
    "diff_instruct, rewarded": (
        distill.diff_instruct, OPTIONS | REWARD | {"weight": inverse_square},
        instructed_with_reward, fake_of_sums(3.0, LOWER_LAW),
    ),
    "dmd": (distill.dmd, {}, matched_with_pairs(), fake_of(HIGH, WHOLE)),
    "dmd, options": (
        distill.dmd, {"regression": 0.6, "distance": cubes, "levels": HIGHER},
        matched_with_pairs(0.6, HIGHER_LAW, cubes), fake_of(HIGH, WHOLE),
    ),
    "dmd, without pairs": (
        distill.dmd, {"regression": 0.0, "fake_levels": LOWER}, matched, fake_of(HIGH, LOWER_LAW)
    ),
    "dmd, in steps": (
        distill.dmd, {"regression": 0.0, "student_levels": STEPS}, matched_in_steps, fake_of_steps
    ),
    "decoupled": (distill.decoupled_dmd, {}, decoupled(), fake_of(HIGH, WHOLE)),
    "decoupled, options": (
        distill.decoupled_dmd,
        {"engine_levels": HIGHER, "levels": LOWER, "student_levels": (3.0,), "guidance": 2.0},
        decoupled(3.0, LOWER_LAW, HIGHER_LAW, 2.0), fake_of(3.0, WHOLE),
    ),
    "sid": (distill.sid, {}, identified(), fake_of_sums(2.5, LOG_NORMAL)),
    "sid, options": (
        distill.sid, OPTIONS | {"alpha": 0.8, "scale": 7.0},
        identified(3.0, HIGHER_LAW, 0.8, 7), fake_of_sums(3.0, LOWER_LAW),
    ),
    "sim": (distill.sim, {}, implicit, fake_of(2.5, LOG_NORMAL)),
    "sim, rewarded": (
        distill.sim, OPTIONS | REWARD | {"slope": squared_slope, "weight": inverse_square},
        implicit_square, fake_of(3.0, LOWER_LAW),
    ),
    "moments": (distill.moment_matching, {"num_steps": 3}, moments(), auxiliary()),
    "moments, options": (
        distill.moment_matching, {"num_steps": 3, "weight": inverse_square},
        moments(inverse_square), auxiliary(inverse_square),
    ),
}  # fmt: skip


@pytest.mark.parametrize("player", ["student", "fake"])
@pytest.mark.parametrize("name", CASES)
def test_a_players_loss_is_that_of_its_paper(name, player):
    method, options, student, fake_score = CASES[name]
    make = lambda T, own, fake: method(T, own, fake_score=FakeScore(fake), **options)  # noqa: E731
    is_the_loss(make, student if player == "student" else fake_score, player)


# scenes

VSD = distill.variational_score_distillation
SCENE = {"scale": np.array([0.6, -1.1]), "shift": np.array([0.5, 2.0])}


def rendered(method, **options):
    """How a method of scenes is made, and the noise of its renderings."""
    draws = []

    def render(scene, key):
        z = jax.random.normal(jax.random.split(key)[1], (COUNT, 2))
        draws.append(np.asarray(z))
        return scene["scale"][None] * z + scene["shift"][None]

    def make(T, own, fake):
        recorded = (fake,) if method is VSD else ()
        return method(T, render, SCENE, *recorded, **options)

    return make, draws


def shown(scene, recorded):
    return scene["scale"] * recorded.others[0] + scene["shift"], recorded.others[0]


def distilled(weight, law):
    """Against the noise that was put in."""

    def wanted(scene, recorded):
        x, z = shown(scene, recorded)
        y, s = again(recorded.teacher[0], x, law, z)
        return pushed(x, column(weight(s) / s) * (x - T(y, s)))

    return wanted


def variational(weight, law):
    """Against the noise that the renderings' own denoiser sees."""

    def wanted(scene, recorded):
        x, z = shown(scene, recorded)
        _, s, D_fake, D_teacher = compared(recorded, x, law, z)
        return pushed(x, column(weight(s) / s) * (D_fake - D_teacher))

    return wanted


def fake_of_scenes(weight, law):
    """Its error of the noise."""
    return lambda phi, recorded: scored(phi, recorded, shown(SCENE, recorded)[0], law, weight)


default = lambda s: s**2 / (1 + s**2)  # noqa: E731
root = lambda s: s**0.5  # noqa: E731


late_law = functools.partial(time_law, first=0.02, last=0.5)
whole_law = functools.partial(time_law, first=1e-3, last=1.0)
velocity = lambda s: s**-2 + 1  # noqa: E731
ROOT = {"weight": root, "levels": HIGHER}
LATER = {"late_levels": LOWER, "late_from": 30, "fake_levels": HIGHER, "fake_weight": velocity}

# of scenes: how they are made, a player, its loss
SCENES = {
    "sds": (distill.score_distillation, {}, "student", distilled(default, time_law)),
    "sds, options": (distill.score_distillation, ROOT, "student", distilled(root, HIGHER_LAW)),
    "vsd": (VSD, {}, "student", variational(default, time_law)),
    "vsd, late": (VSD, {"late_from": 30}, "student", variational(default, late_law)),
    "vsd, options": (VSD, ROOT, "student", variational(root, HIGHER_LAW)),
    "vsd, late, options": (VSD, LATER, "student", variational(default, LOWER_LAW)),
    "vsd's fake": (VSD, {}, "fake", fake_of_scenes(inverse_square, whole_law)),
    "vsd's fake, options": (VSD, LATER, "fake", fake_of_scenes(velocity, HIGHER_LAW)),
}


@pytest.mark.parametrize("name", of_cases(SCENES))
def test_scenes_are_moved_against_differences_of_noise(name):
    method, options, player, loss = SCENES[name]
    options = options | ({"rank": 0} if method is VSD else {})
    make, draws = rendered(method, **options)
    is_the_loss(make, loss, player, {"student": SCENE}, others=draws)


# adapters

BASE = {"W": np.array([[0.5, -0.2], [0.1, 0.4]]), "shift": np.array([0.3, -0.1])}
ADDED = {"['W']": {"A": np.array([[0.3], [-0.6]]), "B": np.array([[0.2, 0.9]])}}


def low_rank(params, x, level, cond):
    return x @ params["W"] / (1.0 + level)[:, None] + params["shift"][None]


def adapted(own, y, s):
    """The network whose matrix has the adapters' product added, all else as it was."""
    matrix = BASE["W"] + own["['W']"]["A"] @ own["['W']"]["B"]
    return low_rank(BASE | {"W": matrix}, y, s, None)


def brushed(theta, recorded, law=time_law, weight=default, start=HIGH):
    """Against the noise that the adapted denoiser sees."""
    x, z = generated(theta, recorded, start)
    evaluated_alike(recorded.others[0], recorded.teacher[0])
    y, s = again(recorded.others[0], x, law, z)
    return pushed(x, column(weight(s) / s) * (adapted(ADDED, y, s) - T(y, s)))


def brushes(phi, recorded, law=whole_law, weight=lambda s: 1 / (s**2 + s**4), start=HIGH):
    """The adapters' loss, alpha^2 times the squared error of the noise, from which the gradient
    goes to both of their factors and to nothing else.
    """
    x, _ = generated(OWN, recorded, start)
    y, s = again(recorded.others[0], x, law)
    return weight(s) * mean_square(adapted(phi["network"], y, s) - x)


BRUSH = {
    "start": 3.0, "levels": HIGHER, "fake_levels": LOWER, "weight": root,
    "fake_weight": inverse_square,
}  # fmt: skip
BRUSHES = {
    "student": ("student", {}, brushed),
    "student, options": (
        "student", BRUSH, functools.partial(brushed, law=HIGHER_LAW, weight=root, start=3.0)
    ),
    "fake": ("fake", {}, brushes),
    "fake, options": (
        "fake", BRUSH,
        functools.partial(brushes, law=LOWER_LAW, weight=inverse_square, start=3.0),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", of_cases(BRUSHES))
def test_a_fake_score_of_adapters(name):
    player, options, wanted = BRUSHES[name]
    network = Noting(low_rank)
    base = jax.tree.map(jnp.asarray, BASE)
    make = lambda T, own, fake: distill.swiftbrush(  # noqa: E731
        T, own, fake._replace(network=network, params=base), rank=1, **options
    )
    is_the_loss(make, wanted, player, {"fake": {"network": ADDED}}, others=network.calls)
