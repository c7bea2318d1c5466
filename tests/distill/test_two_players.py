"""The frame of methods of two players: who moves, how often and by what, what they start from, what
is sampled with, and the messages about what does not fit.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers.gaussian_players import (
    FLAT,
    HEAD,
    KEY,
    critic,
    flat_teacher,
    frames,
    moves_itself_alone,
    pair_critic,
    render,
    scene,
    tiny,
    tiny_batch,
    tiny_network,
    tiny_params,
)
from helpers.two_player_losses import apart

from jaxdiff import distill, solvers
from jaxdiff.distance import absolute
from jaxdiff.distill.parts.critic import (
    Critic,
    approximate_penalty,
    critic_player,
    gradient_penalty,
)
from jaxdiff.distill.parts.generator import generate, generator_tables, log_normal
from jaxdiff.distill.parts.lora import adapted, adapters
from jaxdiff.distill.parts.student import Student
from jaxdiff.distill.parts.two_players import FakeScore, generating, two_players
from jaxdiff.distill.score.distribution_matching import slow_adam
from jaxdiff.method import Context
from jaxdiff.sampling.trace import table
from jaxdiff.training.ema import constant
from jaxdiff.training.loop import fit
from jaxdiff.training.step import due, init_state

FRAMES = frames()
T = flat_teacher
ON_TEACHER = {"head": HEAD, "trunk": "teacher", "scores": False}


QUICK = ("dmd2", "sida", "ddgan")


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[] if n in QUICK else pytest.mark.slow) for n in FRAMES]
)
def test_a_player_moves_itself_alone(name):
    with jax.enable_x64(False):
        moves_itself_alone(FRAMES[name](), tiny_batch())


# of every method: players in their order and how often they move; optimisers by player
ONCE, ADAM = {"fake": 1, "student": 1}, {"student": optax.adam(1e-5), "fake": optax.adam(1e-5)}
ADVERSARIAL = optax.adam(1e-5, b1=0.0)


def slow(updates):
    rate = optax.linear_schedule(0.0, 2e-6, updates)
    return optax.chain(optax.clip_by_global_norm(10.0), optax.adamw(rate, weight_decay=0.01))


def clipped(rate):
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate))


SLOWLY = {"student": slow(100), "fake": slow(500)}
OPPOSED = {"student": ADVERSARIAL, "fake": ADVERSARIAL}
DEFAULTS = {
    "diff_instruct": (ONCE, OPPOSED),
    "swiftbrush": (ONCE, {"student": clipped(1e-6), "fake": clipped(1e-3)}),
    "sds": ({"student": 1}, {"student": optax.adam(1e-2)}),
    "vsd": (
        ONCE,
        {
            "student": optax.adam(1e-3, b2=0.99, eps=1e-15),
            "fake": optax.adamw(optax.linear_schedule(0.0, 1e-4, 501), weight_decay=0.01),
        },
    ),
    "dmd": (ONCE, {"student": slow(500), "fake": slow(500)}),
    "dmd2": ({"fake": 1, "student": 5}, SLOWLY),
    "decoupled": ({"fake": 1, "student": 5}, SLOWLY),
    "f_distill": ({"fake": 1, "student": 5}, SLOWLY),
    "f_distill, running": (
        {"fake": 1, "ratio": 5, "student": 5}, SLOWLY | {"ratio": optax.sgd(0.3)}
    ),
    "ctm": (
        {"student": 1, "critic": 1},
        {"student": optax.radam(4e-4), "critic": optax.radam(2e-3, b1=0.5, b2=0.9)},
    ),
    "sid": (ONCE, OPPOSED),
    "sida": (ONCE, {"student": ADVERSARIAL, "fake": optax.chain(optax.clip(1.0), ADVERSARIAL)}),
    "sim": (ONCE, OPPOSED),
    "moments": (ONCE, {"student": optax.adam(3e-5), "fake": optax.adam(3e-5)}),
    "add": (
        {"student": 1, "critic": 1},
        {"student": optax.adam(1e-5), "critic": optax.adam(1e-4, b1=0.0)},
    ),
    "ladd": (ONCE, ADAM),
    "ddgan": (
        {"student": 1, "critic": 1},
        {
            "student": optax.adam(1.6e-4, b1=0.5, b2=0.9),
            "critic": optax.adam(1.25e-4, b1=0.5, b2=0.9),
        },
    ),
    "ufogen": (ONCE, ADAM),
    "truncated": (ONCE, {"student": clipped(2e-4), "fake": optax.adam(2.5e-3, b1=0.0, b2=0.99)}),
    "discriminator": ({"student": 1}, {"student": optax.adam(3e-4)}),
}  # fmt: skip

# as frames, but with the methods' own periods
BY_DEFAULT = FRAMES | {
    "dmd2": lambda: distill.dmd2(T, tiny(), fake_score=FakeScore(head=HEAD)),
    "f_distill": lambda: distill.f_distill(T, tiny(), FakeScore(head=HEAD)),
    "f_distill, running": lambda: distill.f_distill(T, tiny(), FakeScore(head=HEAD), rate=0.3),
    "ctm": lambda: distill.trajectory_consistency(T, tiny(), critic=critic()),
    "discriminator": lambda: distill.discriminator(T, None, jnp.ones(2)),
}


def descended(optimiser):
    """Where a few gradients take a parameter: rate, both betas, decay of weights, warm-up and
    clips show in it.
    """
    with jax.numpy_dtype_promotion("standard"):
        p = jnp.asarray(3.0)
        state, places = optimiser.init(p), []
        for g in (20.0, -0.3, 0.02, 0.5, -4.0, 0.1, 0.7):  # more than RAdam warms up for
            step, state = optimiser.update(jnp.asarray(g), state, p)
            p = optax.apply_updates(p, step)
            places.append(float(p) - 3.0)
    return places


@pytest.mark.parametrize("name", DEFAULTS)
def test_players_come_in_order_with_periods_and_optimisers_of_the_paper(name):
    periods, optimisers = DEFAULTS[name]
    players = BY_DEFAULT[name]().players
    assert {k: player.every for k, player in players.items()} == periods
    assert list(players) == list(periods)  # in this order
    for k, optimiser in optimisers.items():
        np.testing.assert_allclose(
            descended(players[k].optimiser), descended(optimiser), rtol=1e-9, err_msg=k
        )


def test_the_slow_optimiser_by_hand():
    """In every fifth step 500 steps of warm-up are 100 updates; a gradient of 100 is one of 10. The
    first update has rate 0; the second m = .9 + .1 and v = .1 (1 - .001) + .001, unbiased.
    """
    for every, updates in ((1, 500), (5, 100)):
        optimiser, p = slow_adam(every), jnp.asarray(3.0)
        with jax.numpy_dtype_promotion("standard"):
            first, state = optimiser.update(jnp.asarray(100.0), optimiser.init(p), p)
            second, _ = optimiser.update(jnp.asarray(1.0), state, p)
        step = 1.0 / (1 - 0.9**2) / np.sqrt(0.1009 / (1 - 0.999**2))
        assert first == 0.0
        np.testing.assert_allclose(second, -2e-6 / updates * (step + 0.01 * 3.0), rtol=1e-4)


def test_sidas_student_waits_for_its_critic():
    """The fake score alone moves for 100,000 images in batches of 256."""
    method = distill.sida(T, tiny(), FakeScore(head=HEAD))
    assert due(method, 390) == ("fake",) and due(method, 391) == ("fake", "student")
    assert due(distill.sid(T, tiny()), 0) == ("fake", "student")
    every = distill.sida(T, tiny(), FakeScore(head=HEAD), student_from=4, every=3)
    assert [len(due(every, n)) for n in range(7)] == [1, 1, 1, 1, 1, 1, 2]


# how often, of those that can be counted
EVERY = {
    "diff_instruct": lambda n: distill.diff_instruct(T, tiny(), every=n),
    "dmd": lambda n: distill.dmd(T, tiny(), every=n),
    "dmd2": lambda n: distill.dmd2(T, tiny(), FakeScore(head=HEAD), every=n),
    "decoupled": lambda n: distill.decoupled_dmd(T, tiny(), every=n),
    "f_distill": lambda n: distill.f_distill(T, tiny(), FakeScore(head=HEAD), every=n),
    "sid": lambda n: distill.sid(T, tiny(), every=n),
    "sida": lambda n: distill.sida(T, tiny(), FakeScore(head=HEAD), every=n),
    "sim": lambda n: distill.sim(T, tiny(), every=n),
    "moments": lambda n: distill.moment_matching(T, tiny(), every=n),
    "ladd": lambda n: distill.ladd(T, tiny(), FakeScore(**ON_TEACHER), every=n),
    "ufogen": lambda n: distill.ufogen(tiny(), FakeScore(head=HEAD), every=n),
    "truncated": lambda n: distill.truncated_diffusion(tiny(), FakeScore(head=HEAD), every=n),
}


@pytest.mark.parametrize("name", EVERY)
def test_the_fake_score_moves_in_every_step_and_the_student_in_some(name):
    periods = {k: player.every for k, player in EVERY[name](3).players.items()}
    assert periods.pop("fake") == 1 and set(periods.values()) == {3}


def test_optimisers_and_averages_are_the_players_own():
    """The model's optimiser or the fake score's, before the method's; averages of both."""
    first, second, third = (optax.sgd(rate) for rate in (1.0, 2.0, 3.0))
    ema = {"slow": constant(0.9)}
    student = tiny(optimiser=first, ema=ema)
    own = distill.sid(T, student).players
    assert own["student"].optimiser is first and own["fake"].optimiser is not first
    assert own["student"].ema == ema and own["fake"].ema == {}
    recorded = distill.sid(T, student, fake_score=FakeScore(optimiser=second)).players
    assert recorded["fake"].optimiser is second and recorded["student"].optimiser is first
    model = tiny(optimiser=third, ema={"fast": constant(0.5)})
    for rank in (0, 1):
        both = FakeScore(model, rank=rank)
        players = distill.sid(T, student, fake_score=both).players
        assert players["fake"].optimiser is third and set(players["fake"].ema) == {"fast"}
    brush = distill.swiftbrush(T, student, model, rank=1).players
    assert brush["fake"].optimiser is third
    scenes = distill.variational_score_distillation(
        T, render, scene(), model, rank=0, optimiser=first, ema=ema
    ).players
    assert scenes["student"].optimiser is first and scenes["fake"].optimiser is third
    assert scenes["student"].ema == ema and set(scenes["fake"].ema) == {"fast"}
    logits_of = critic()._replace(optimiser=second)
    assert distill.add(T, student, logits_of).players["critic"].optimiser is second
    one = distill.score_distillation(T, render, scene(), optimiser=first, ema=ema).players
    assert one["student"].optimiser is first and one["student"].ema == ema


def test_players_start_from_what_they_bring_or_from_draws_of_their_own():
    start = lambda key: {"w": jax.random.normal(key, (2,))}  # noqa: E731
    head = HEAD._replace(params=start)
    method = distill.dmd2(T, Student(tiny_network, start), fake_score=FakeScore(head=head))
    found, other = method.init(jax.random.key(0)), method.init(jax.random.key(1))
    assert set(found) == {"fake", "student"} and set(found["fake"]) == {"network", "head"}
    draws = [*jax.tree.leaves(found), *jax.tree.leaves(other)]
    assert len({tuple(np.asarray(d)) for d in draws}) == 6  # all apart

    method = distill.f_distill(T, tiny(), FakeScore(tiny(), head=HEAD), bins=4, rate=0.3)
    found = method.init(KEY)
    jax.tree.map(np.testing.assert_array_equal, found["student"], tiny_params())
    jax.tree.map(np.testing.assert_array_equal, found["fake"]["network"], tiny_params())
    np.testing.assert_array_equal(found["fake"]["head"]["w"], HEAD.params["w"])
    np.testing.assert_array_equal(found["ratio"], np.ones(4))
    assert "ratio" not in distill.f_distill(T, tiny(), FakeScore(head=HEAD), bins=0).players

    method = distill.ladd(T, tiny(), FakeScore(**ON_TEACHER))
    assert set(method.init(KEY)["fake"]) == {"head"}
    assert set(method.frozen) == {"teacher"}
    assert distill.ufogen(tiny(), FakeScore(head=HEAD)).frozen == {}
    assert set(distill.swiftbrush(T, tiny(), tiny()).frozen) == {"teacher", "base"}


@pytest.mark.parametrize("rank, make", [
    (64, lambda: distill.swiftbrush(T, tiny(), tiny())),
    (4, lambda: distill.variational_score_distillation(T, render, scene(), tiny())),
    (3, lambda: distill.swiftbrush(T, tiny(), tiny(), rank=3)),
])  # fmt: skip
def test_a_fake_score_of_adapters_starts_as_the_network(rank, make):
    """Its own parameters are the adapters alone, whose rank is the paper's."""
    method = make()
    own = method.init(KEY)["fake"]["network"]
    shapes = {name: (low["A"].shape, low["B"].shape) for name, low in own.items()}
    assert shapes == {"['in']": ((2, rank), (rank, 3)), "['out']": ((3, rank), (rank, 2))}
    new = adapted(method.frozen["base"], own)
    jax.tree.map(np.testing.assert_array_equal, new, tiny_params())


@pytest.mark.slow
def test_all_calls_of_a_step_have_the_same_labels():
    """A third of them dropped, for the player that learns and for the other, whatever the level."""
    seen, levels = [], []

    def network(params, x, label, cond=None, *, key=None, full=False):
        if not isinstance(cond, jax.core.Tracer):
            seen.append(np.asarray(cond))
            levels.append(np.asarray(jax.lax.stop_gradient(label)))
        return tiny_network(params, x, label, cond, full=full)

    def teacher(y, s, cond=None):
        seen.append(np.asarray(cond))
        return FLAT.denoiser(y, s)

    def logits(params, features, cond):
        seen.append(np.asarray(cond))
        return features[0] @ params["w"]

    def logits_of(params, x, cond):
        seen.append(np.asarray(cond))
        return x @ params["w"]

    def judge_pair(params, x, recorded):
        return logits_of(params, x, recorded[3])

    student = Student(network, tiny_params(), classes=7, label_drop=1 / 3)
    latent = student._replace(
        network=lambda params, x, label, cond, **rest: network(params, x, label[:, 0], cond, **rest)
    )
    head = FakeScore(head=HEAD._replace(logits=logits))
    makes = {
        "dmd2": lambda: distill.dmd2(teacher, student, fake_score=head),
        "add": lambda: distill.add(teacher, student, critic()._replace(logits=logits_of)),
        "ddgan": lambda: distill.ddgan(latent, pair_critic()._replace(logits=judge_pair), latent=2),
        "trajectory_consistency": lambda: distill.trajectory_consistency(
            teacher, latent, critic=critic()._replace(logits=logits_of), max_steps=1, scales=4
        ),
    }
    labels = (np.arange(3000) % 7).astype(np.int32)
    with jax.enable_x64(False):
        batch = {"image": jnp.zeros((3000, 2), jnp.float32), "label": jnp.asarray(labels)}
        for make in makes.values():
            method = make()
            everyone = method.init(KEY)
            average = {"student": {"target": everyone["student"]}}
            context = Context(jnp.asarray(0), everyone, average, method.frozen)
            for name, player in method.players.items():
                seen.clear(), levels.clear()
                loss = functools.partial(player.loss, context=context, batch=batch, key=KEY)
                loss(everyone[name])
                assert len(seen) >= 2
                kept = seen[0] == labels
                assert (seen[0][~kept] == 7).all() and abs(np.mean(~kept) - 1 / 3) < 0.03
                for cond in seen[1:]:
                    np.testing.assert_array_equal(cond, seen[0])
                for level in levels:
                    if level.std() > 0:
                        apart(level, kept)


# samplers


def table_of(method, num_steps=None, **options):
    recorded = {} if num_steps is None else {"num_steps": num_steps}
    return method.sampler(init_state(method, KEY), **recorded, **options).table


def cosine(count):
    u = np.arange(count) / count
    return list(np.tan((1 - u) * np.arctan(80.0) + u * np.arctan(0.002)))


ONE = solvers.consistency, {}
ANCESTRAL = solvers.ddim, {"eta": 1.0}
# for how many steps, with what solver, at what levels
SAMPLERS = {
    "diff_instruct": (1, ONE, [1.0]),
    "swiftbrush": (1, ONE, [80.0]),
    "dmd": (1, ONE, [80.0]),
    "dmd2": (1, ONE, [80.0]),
    "two steps": (2, ONE, [5.0, 1.0]),
    "decoupled": (1, ONE, [80.0]),
    "f_distill": (1, ONE, [80.0]),
    "sid": (1, ONE, [2.5]),
    "sim": (1, ONE, [2.5]),
    "moments": (8, ANCESTRAL, cosine(8)),
    "add": (4, ONE, cosine(4)),
    "ladd": (2, ONE, cosine(4)[:2]),
    "ddgan": (None, ANCESTRAL, [80.0, 4.0, 1.3, 0.5]),
    "ufogen": (4, ONE, [80.0, 4.0, 1.3, 0.5]),
    "truncated": (2, (solvers.euler, {}), [80.0, 2.5]),
    "truncated by others": (3, (solvers.heun, {}), [80.0, 2.5, 0.002]),
}


@pytest.mark.parametrize("name", SAMPLERS)
def test_students_are_sampled_at_the_levels_they_are_trained_at(name):
    steps, (solver, options), levels = SAMPLERS[name]
    made = {"truncated by others": lambda: distill.truncated_diffusion(
        tiny(), FakeScore(head=HEAD), solver=solvers.heun
    )} | FRAMES  # fmt: skip
    found, expected = table_of(made[name](), steps), table(solver, [*levels, 0.0], **options)
    for part in ("levels", "nodes", "states", "denoised", "noises"):
        np.testing.assert_allclose(
            getattr(found, part), getattr(expected, part), rtol=1e-6, atol=1e-9, err_msg=part
        )


def test_a_sampler_has_the_student_or_an_average_of_it():
    for method in (
        distill.sid(T, tiny(ema={"slow": constant(0.9)})),
        distill.ddgan(tiny(ema={"slow": constant(0.9)}), pair_critic(), latent=2),
    ):
        state = init_state(method, KEY)
        state = state._replace(ema={"student": {"slow": tiny_params(1)}})
        for ema, seed in ((None, 0), ("slow", 1)):
            found = method.sampler(state, ema=ema).denoiser.args[0]
            jax.tree.map(np.testing.assert_array_equal, found, tiny_params(seed))


def test_a_scene_is_sampled_by_rendering_it():
    for method in (FRAMES["sds"](), FRAMES["vsd"]()):
        state = init_state(method, KEY)
        np.testing.assert_array_equal(method.sampler(state)(KEY), render(scene(), KEY))
        other = {"mean": jnp.asarray([5.0, 6.0], jnp.float32)}
        state = state._replace(ema={"student": {"slow": other}})
        np.testing.assert_array_equal(method.sampler(state, ema="slow")(KEY), render(other, KEY))


@pytest.mark.slow
def test_latents_are_of_the_sample_and_the_evaluation():
    """Sample 3 is the same in any batch; its steps are random in themselves."""
    with jax.enable_x64(False):
        method = FRAMES["ddgan"]()
        state = fit(method, tiny_batch, num_updates=1, key=0, progress=False)
        sampler = method.sampler(state)
        x = sampler(KEY, 5, (2,))
        np.testing.assert_allclose(sampler(KEY, [3], (2,))[0], x[3], rtol=1e-6)
        assert sampler.latent == 2 and np.isfinite(x).all()
        assert np.abs(sampler(jax.random.key(6), 5, (2,)) - x).max() > 1e-3


def test_students_of_a_truncated_chain_jump_first():
    method = FRAMES["truncated"]()
    made = method.sampler(init_state(method, KEY), num_steps=3).table
    assert made.nfe == 3 and made.levels[0] == 80.0
    np.testing.assert_allclose(made.levels[1], 2.5)
    np.testing.assert_allclose(
        table_of(method, levels=[2.5, 0.3, 0.0]).levels, [80.0, 2.5, 0.3, 0.0]
    )


# what a method is made of


def test_backward_simulation_differentiates_the_last_evaluation_alone():
    """Samples of one step, its input made by sampling without gradient; each step in turn."""
    levels = [4.0, 1.0, 0.25]

    def D(scale):
        return lambda y, s: scale * y / (1 + s[:, None])

    like = jnp.zeros((3000, 1))
    x, slope = jax.jvp(lambda a: generate(D(a), levels, like, KEY)[0], (2.0,), (1.0,))
    np.testing.assert_allclose(slope, x / 2.0, rtol=1e-9)  # linear in the last call's scale alone
    # the three steps' variances: y_0 = 4 z; y_k = D(y_(k-1)) + s_k z
    variances, y = [], 16.0
    for s, r in zip(levels, [*levels[1:], 0.0], strict=True):
        x_variance = y * (2 / (1 + s)) ** 2
        variances.append(x_variance)
        y = x_variance + r * r
    np.testing.assert_allclose(x.var(), np.mean(variances), rtol=0.1)
    tables = generator_tables(levels)
    assert tables(3).nfe == 3 and tables(1).nfe == 1
    for wrong in ([], [1.0, 2.0], [1.0, 0.0]):
        with pytest.raises(ValueError, match="positive and decrease"):
            generator_tables(wrong)
    with pytest.raises(ValueError, match="up to 3"):
        tables(4)


def test_adapters_change_a_network_by_little():
    params = {"a": jnp.ones((3, 3, 2, 4)), "bias": jnp.ones(4), "b": jnp.ones((5, 2))}
    own = adapters(params, 2, KEY)
    assert [v["A"].shape for v in own.values()] == [(18, 2), (5, 2)]
    assert jax.tree.all(jax.tree.map(lambda x, y: (x == y).all(), adapted(params, own), params))
    moved = jax.tree.map(lambda x: x + 1.0, own)
    new = adapted(params, moved, 0.5)
    np.testing.assert_array_equal(new["bias"], params["bias"])
    expected = 1 + 0.5 * (moved["['b']"]["A"] @ moved["['b']"]["B"])
    np.testing.assert_allclose(new["b"], expected)
    wide = adapters({"a": jnp.ones((3, 3, 2, 4)), "c": jnp.ones((18, 4))}, 200, KEY)
    a, c = (wide[f"['{name}']"]["A"] for name in "ac")
    np.testing.assert_allclose([jnp.var(a), jnp.var(c)], 1 / 18, rtol=0.1)
    assert (a != c).all()
    with pytest.raises(ValueError, match="at least 1"):
        adapters(params, 0, KEY)
    with pytest.raises(ValueError, match="nothing to adapt"):
        adapters({"bias": jnp.ones(3)}, 1, KEY)


def test_penalties():
    """Exact for a quadratic; the approximate one is its size squared times it for little moves."""
    logits = lambda y: jnp.sum(y**2, axis=1, keepdims=True)  # noqa: E731
    y = jnp.asarray([[0.5, -1.0], [2.0, 0.3]])
    np.testing.assert_allclose(gradient_penalty(logits, y), 4 * jnp.sum(y**2, axis=1))
    many = jnp.broadcast_to(y[:1], (200_000, 2))
    about = approximate_penalty(logits, many, KEY, 1e-3).mean() / 1e-6
    np.testing.assert_allclose(about, 4 * jnp.sum(y[0] ** 2), rtol=0.02)


# what does not fit

CRITIC = FakeScore(head=HEAD)
ERRORS = {
    '"fake" or "teacher"': lambda: distill.diff_instruct(
        T, tiny(), fake_score=FakeScore(trunk="student")
    ),
    "needs a teacher": lambda: two_players(
        tiny(), FakeScore(head=HEAD, trunk="teacher"), None, None, None, None, teacher=None,
        optimisers=(optax.sgd(1.0), optax.sgd(1.0)),
    ),
    "alone .scores=False. is a head": lambda: distill.dmd2(
        T, tiny(), fake_score=FakeScore(head=HEAD, scores=False)
    ),
    "alone .scores=False. is": lambda: distill.sid(
        T, tiny(), fake_score=FakeScore(trunk="teacher", scores=False)
    ),
    "f-distill has a critic: give": lambda: distill.f_distill(T, tiny(), FakeScore()),
    "DMD2 has a critic: give .* it is dmd": lambda: distill.dmd2(T, tiny(), FakeScore()),
    "SiDA has a critic: give": lambda: distill.sida(T, tiny(), FakeScore()),
    "no divergence 'tv'; there are reverse-kl, kl": lambda: distill.f_distill(
        T, tiny(), FakeScore(head=HEAD), divergence="tv"
    ),
    "not a way to draw them": lambda: distill.diff_instruct(
        T, tiny(), fake_score=FakeScore(Student(tiny_network, lambda key: tiny_params()), rank=2)
    ),
    "has no critic.* head: use sida": lambda: distill.sid(T, tiny(), fake_score=CRITIC),
    "DMD has no critic.* head: use dmd2": lambda: distill.dmd(T, tiny(), fake_score=CRITIC),
    "Decoupled DMD has no critic": lambda: distill.decoupled_dmd(T, tiny(), fake_score=CRITIC),
    "Diff-Instruct has no critic": lambda: distill.diff_instruct(T, tiny(), fake_score=CRITIC),
    "SIM has no critic": lambda: distill.sim(T, tiny(), fake_score=CRITIC),
    "moment matching has no critic": lambda: distill.moment_matching(T, tiny(), fake_score=CRITIC),
    "reward_factor=0.5": lambda: distill.diff_instruct(T, tiny(), reward_factor=0.5),
    "reward_factor=2.0": lambda: distill.sim(T, tiny(), reward_factor=2.0),
    "reward_factor=0.0": lambda: distill.dmd2(T, tiny(), CRITIC, reward_factor=0.0),
    "label_evaluations= labels": lambda: distill.dmd2(T, tiny(), CRITIC, label_evaluations=True),
    "distance= is of": lambda: distill.dmd(T, tiny(), regression=0.0, distance=absolute),
    "engine_levels=": lambda: distill.decoupled_dmd(
        T, tiny(), guidance=1.0, engine_levels=log_normal()
    ),
    "of bins, and there are none": lambda: distill.f_distill(
        T, tiny(), CRITIC, bins=0, rate=0.5
    ),
    "in .0, 1., 1 for": lambda: distill.f_distill(T, tiny(), CRITIC, rate=0.0),
    '"reverse-kl" has weight 1': lambda: distill.f_distill(
        T, tiny(), CRITIC, divergence="reverse-kl", bins=5
    ),
    "trunk='teacher' is of a head": lambda: distill.sid(
        T, tiny(), fake_score=FakeScore(trunk="teacher")
    ),
    "no use for a model": lambda: distill.ladd(T, tiny(), FakeScore(tiny(), **ON_TEACHER)),
    "give one": lambda: distill.sid(
        T, tiny(), fake_score=FakeScore(tiny(optimiser=optax.sgd(1.0)), optimiser=optax.sgd(1.0))
    ),
    "LADD has a discriminator alone": lambda: distill.ladd(
        T, tiny(), FakeScore(head=HEAD, trunk="teacher")
    ),
    "std= are of score matching": lambda: distill.trajectory_consistency(
        T, tiny(), denoising=0.0, std=2.0
    ),
    "last= is of the balance": lambda: distill.trajectory_consistency(
        T, tiny(), denoising=0.0, last=bool
    ),
    "critic_from= are of a critic": lambda: distill.trajectory_consistency(
        T, tiny(), critic_from=3
    ),
    "at least 1 step, not 0": lambda: distill.moment_matching(T, tiny(), num_steps=0),
    "in 8 steps, not 4": lambda: table_of(FRAMES["moments"](), 4),
    "LADD needs a head on the teacher": lambda: distill.ladd(T, tiny(), FakeScore(head=HEAD)),
    "LADD needs a head": lambda: distill.ladd(T, tiny(), FakeScore(trunk="teacher")),
    "UFOGen's critic is a head on its own": lambda: distill.ufogen(tiny(), FakeScore()),
    "UFOGen's critic is": lambda: distill.ufogen(tiny(), FakeScore(head=HEAD, trunk="teacher")),
    "TDPM's critic is a head on its own": lambda: distill.truncated_diffusion(tiny(), FakeScore()),
    "TDPM's critic is": lambda: distill.truncated_diffusion(
        tiny(), FakeScore(head=HEAD, trunk="teacher")
    ),
    "between levels 0.002 and 80.0; got 100": lambda: distill.truncated_diffusion(
        tiny(), FakeScore(head=HEAD), cut=100.0
    ),
    "steps >= 2": lambda: table_of(FRAMES["truncated"](), 1),
    "decrease to 0": lambda: distill.ddgan(tiny(), pair_critic(), levels=[3.0, 1.0]),
    "decrease to 0; got": lambda: distill.ddgan(tiny(), pair_critic(), levels=[1.0, 3.0, 0.0]),
    "at least one number, not 0": lambda: distill.ddgan(tiny(), pair_critic(), latent=0),
    "in 4 steps, not 2": lambda: table_of(FRAMES["ddgan"](), 2),
    "up to 4 evaluations, not 5": lambda: table_of(FRAMES["add"](), 5),
}  # fmt: skip


@pytest.mark.parametrize("message", ERRORS)
def test_what_does_not_fit_is_refused(message):
    with pytest.raises(ValueError, match=message):
        ERRORS[message]()


@pytest.mark.slow
def test_what_a_batch_lacks_is_named():
    method = distill.dmd(T, tiny())
    context = Context(jnp.asarray(0), method.init(KEY), {}, method.frozen)
    with pytest.raises(ValueError, match="DMD needs pairs"):
        data = {"image": jnp.zeros((4, 2), jnp.float32)}
        method.players["student"].loss(tiny_params(), context, data, KEY)


def test_a_critic_that_is_not_there_is_named():
    """To a loss that calls it."""
    calls = lambda step: step.logits(step.x, jnp.ones(len(step.x)))  # noqa: E731
    optimisers = optax.sgd(1.0), optax.sgd(1.0)
    method = two_players(
        tiny(),
        FakeScore(),
        generating([1.0]),
        calls,
        calls,
        None,
        teacher=None,
        optimisers=optimisers,
    )
    context = Context(jnp.asarray(0), method.init(KEY), {}, method.frozen)
    data = {"image": jnp.zeros((4, 2), jnp.float32)}
    with pytest.raises(ValueError, match="this loss needs a critic"):
        method.players["student"].loss(tiny_params(), context, data, KEY)


def test_a_critic_brings_its_optimiser_or_has_the_methods():
    own, default = optax.sgd(1.0), optax.sgd(2.0)
    critic = Critic(lambda params, x, cond: x, {})
    assert critic_player(critic, None, default).optimiser is default
    assert critic_player(critic._replace(optimiser=own), None, default).optimiser is own
