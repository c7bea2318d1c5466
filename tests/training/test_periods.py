"""Players with periods of their own, stopped anywhere: a run that is resumed after every one of its
steps has, at each of them, the numbers of one that is not, bit for bit.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers.gaussian_players import HEAD, flat_teacher, frames, tiny, tiny_batch

from jaxdiff import distill
from jaxdiff.distill.parts.two_players import FakeScore
from jaxdiff.method import Method, Player
from jaxdiff.training import loop
from jaxdiff.training.ema import constant, power
from jaxdiff.training.step import due, init_state

NAMES, STEPS = ("fake", "ratio", "student"), 6
PRODUCT = list(itertools.product((1, 2, 3), repeat=3))
QUICK = [(1, 2, 3), (3, 2, 1)]


MOVING = optax.adam(1e-3)  # from the first update; the papers' begin with a warm-up from 0


def with_periods(method, periods):
    """The method with other periods of its players, and with averages of them all."""
    players = {
        name: player._replace(
            every=every, ema={"slow": constant(0.8), "even": power(1.0)}, optimiser=MOVING
        )
        for (name, player), every in zip(method.players.items(), periods, strict=True)
    }
    return method._replace(players=players)


def chasing(periods):
    """Three players, each of which goes after the others and draws noise."""

    def player(name, every):
        def loss(params, context, batch, key):
            others = sum(context.params[other] for other in NAMES if other != name)
            apart = params - 0.4 * others - batch["image"][0] - jax.random.normal(key, (3,))
            return jnp.sum(apart**2), {}

        return Player(loss, optax.sgd(0.1, momentum=0.5), every, {"slow": constant(0.8)})

    return Method(
        init=lambda key: dict(zip(NAMES, jax.random.normal(key, (3, 3)), strict=True)),
        players={name: player(name, every) for name, every in zip(NAMES, periods, strict=True)},
        sampler=None,
        frozen={},
    )


@pytest.fixture(scope="module")
def programs():
    """One runner of the three for all their periods, which are no part of its programs."""
    return loop.step_runner(chasing((1, 1, 1)), "jit", None)


def goes_on_from_every_step(method, data, folder):
    """And moves the players that are due, and no others."""
    options = {"key": 0, "progress": False}
    before = init_state(method, jax.random.key(0))
    for step in range(STEPS):
        whole = loop.fit(method, data, num_updates=step + 1, **options)
        parts = loop.fit(method, data, num_updates=step + 1, checkpoint=folder, **options)
        for tree in ("step", "params", "opt_state", "ema"):
            jax.tree.map(np.testing.assert_array_equal, getattr(whole, tree), getattr(parts, tree))
        expected = {name for name, player in method.players.items() if step % player.every == 0}
        moved = {
            name for name in method.players
            if any(map(differ, *(jax.tree.leaves(s.params[name]) for s in (before, whole))))
        }  # fmt: skip
        assert moved == expected == set(due(method, step))
        before = whole


def differ(a, b):
    return bool((np.asarray(a) != np.asarray(b)).any())


def number(step):
    return {"image": np.full((1, 3), np.sin(step), np.float32)}


@pytest.mark.parametrize(
    "periods",
    [pytest.param(p, marks=[] if p in QUICK else pytest.mark.slow) for p in PRODUCT],
    ids=str,
)
def test_all_periods_of_three_players_resume_to_the_same_numbers(
    periods, programs, tmp_path, monkeypatch
):
    monkeypatch.setattr(loop, "step_runner", lambda *_: programs)
    with jax.enable_x64(False):
        goes_on_from_every_step(chasing(periods), number, tmp_path)


@pytest.mark.parametrize(
    "name, periods",
    [
        pytest.param("f_distill", (2, 3), marks=pytest.mark.slow),
        pytest.param("f_distill", (1, 2), marks=pytest.mark.slow),
        pytest.param("dmd2", (3, 2), marks=pytest.mark.slow),
        pytest.param("ddgan", (2, 3), marks=pytest.mark.slow),
    ],
)
def test_methods_with_other_periods_resume_to_the_same_numbers(
    name, periods, tmp_path, monkeypatch
):
    """With every combination of their players in one run."""
    with jax.enable_x64(False):
        method = with_periods(frames()[name](), periods)
        runner = loop.step_runner(method, "jit", None)
        monkeypatch.setattr(loop, "step_runner", lambda *_: runner)
        goes_on_from_every_step(method, tiny_batch, tmp_path)


@pytest.mark.slow
def test_a_method_compiled_anew_resumes_to_the_same_numbers(tmp_path):
    """As another process would."""
    with jax.enable_x64(False):
        make = lambda: distill.f_distill(  # noqa: E731
            flat_teacher, tiny(ema={"slow": constant(0.9)}), FakeScore(head=HEAD), every=2
        )
        options = {"key": 0, "progress": False}
        whole = loop.fit(make(), tiny_batch, num_updates=5, **options)
        loop.fit(make(), tiny_batch, num_updates=3, checkpoint=tmp_path, **options)
        again = loop.fit(make(), tiny_batch, num_updates=5, checkpoint=tmp_path, **options)
        for tree in ("params", "opt_state", "ema"):
            jax.tree.map(np.testing.assert_array_equal, getattr(whole, tree), getattr(again, tree))
