"""What the tests of two players share: one-dimensional Gaussians in closed form, a network of a few
numbers, every method made with it, and two checks.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff import distill
from jaxdiff.arrays import expand
from jaxdiff.denoisers import denoiser
from jaxdiff.distill.parts.critic import Critic, Head
from jaxdiff.distill.parts.student import Student
from jaxdiff.distill.parts.two_players import FakeScore
from jaxdiff.exact import Gaussian
from jaxdiff.method import Context
from jaxdiff.process import EDM
from jaxdiff.training.step import init_state, update
from jaxdiff.typing import Outputs

KEY = jax.random.key(5)

# a Gaussian matched to a Gaussian

MEAN, STD = 0.3, 0.5  # of the data, in one dimension
TEACHER = Gaussian(np.array([MEAN]), np.array([STD**2]))
THETA = {"mean": jnp.asarray(-0.2), "std": jnp.asarray(0.9)}  # of what the student makes
LEVEL, START, COUNT = 0.7, 2.0, 200_000


def generator_network(params, x, label, cond=None, **_):
    """g(z) = mean + std z of x = START z."""
    return params["mean"] + params["std"] * x / START


def posterior_network(params, x, label, cond=None, *, full=False, key=None):
    """The exact denoiser of N(mean, std^2), whose label is the level."""
    variance = params["std"] ** 2
    value = params["mean"] + variance / (variance + expand(label, x) ** 2) * (x - params["mean"])
    return Outputs(value, None, (x,)) if full else value


def generator():
    return Student(generator_network, THETA, prediction="x0", process=EDM(), high=START)


def fake():
    return Student(posterior_network, THETA, prediction="x0", process=EDM())


def fixed(key, like):
    return jnp.full(like.shape[:1], LEVEL, like.dtype)


def noisy(theta):
    """Mean and variance of samples and of data with noise of the level."""
    return theta["mean"], theta["std"] ** 2 + LEVEL**2, MEAN, STD**2 + LEVEL**2


def kl(theta):
    m, v, mu, w = noisy(theta)
    return 0.5 * (v / w + (m - mu) ** 2 / w - 1.0 + jnp.log(w / v))


def gradient(method, batch, player="student", params=None):
    """The gradient of a player's loss where the method starts, or at ``params``."""
    others = method.init(KEY)
    context = Context(jnp.asarray(0), others, {}, method.frozen)
    loss = lambda p: method.players[player].loss(p, context, batch, KEY)[0]  # noqa: E731
    return jax.jit(jax.grad(loss))(others[player] if params is None else params)


def check(found, expected, rtol=0.02):
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=rtol, err_msg=name)


# every method, small


def tiny_network(params, x, label, cond=None, *, full=False, key=None):
    """A few numbers, with features."""
    hidden = jnp.tanh(x @ params["in"] + label[:, None] * params["label"][None])
    value = hidden @ params["out"]
    return Outputs(value, None, (hidden,)) if full else value


def latent_network(params, x, label, cond=None, **options):
    recorded = jnp.sum(label[:, 1:], axis=1, keepdims=True)
    return tiny_network(params, x + 0.1 * recorded, label[:, 0], cond, **options)


def tiny_params(seed=0):
    draw = np.random.default_rng(seed).normal
    return {k: jnp.asarray(0.3 * draw(size=s), jnp.float32)
            for k, s in (("in", (2, 3)), ("label", (3,)), ("out", (3, 2)))}  # fmt: skip


def tiny(network=tiny_network, **options):
    return Student(network, tiny_params(), **options)


def tiny_batch(step=0):
    draw = np.random.default_rng(step).normal
    image = (draw(size=(8, 2)) * 0.5).astype(np.float32)
    return {"image": image, "start": (80 * draw(size=(8, 2))).astype(np.float32)}


HEAD = Head(
    lambda params, features, cond: features[0] @ params["w"],
    {"w": jnp.asarray([[0.5], [-0.3], [0.2]], jnp.float32)},
)
FLAT = Gaussian(np.array([0.2, -0.4], np.float32), np.array([0.09, 0.5], np.float32))


def flat_teacher(y, s, cond=None):
    return FLAT.denoiser(y, s)


def critic(game=None):
    """Of samples alone."""
    return Critic(lambda params, x, cond: jnp.tanh(x) @ params["w"], critic_params(), game)


def pair_critic(game=None):
    """Of a sample and the state before it."""

    def logits(params, x, recorded):
        return jnp.tanh(x + 0.3 * recorded[0]) @ params["w"]

    return Critic(logits, critic_params(), game)


def critic_params():
    return {"w": jnp.asarray([[0.4], [-0.2]], jnp.float32)}


def render(scene, key):
    return scene["mean"][None] + jax.random.normal(key, (8, 2), jnp.float32)


def scene():
    return {"mean": jnp.asarray([1.0, -1.0], jnp.float32)}


def frames():
    """How every method is made, by name."""
    T, head = flat_teacher, FakeScore(head=HEAD)
    on_teacher = FakeScore(head=HEAD, trunk="teacher", scores=False)
    seen = denoiser(tiny_network, tiny_params(1))
    return {
        "diff_instruct": lambda: distill.diff_instruct(T, tiny()),
        "swiftbrush": lambda: distill.swiftbrush(T, tiny(), tiny(), rank=1),
        "sds": lambda: distill.score_distillation(T, render, scene()),
        "vsd": lambda: distill.variational_score_distillation(T, render, scene(), tiny(), rank=1),
        "dmd": lambda: distill.dmd(T, tiny()),
        "dmd2": lambda: distill.dmd2(T, tiny(), fake_score=head, every=2),
        "two steps": lambda: distill.dmd2(T, tiny(), head, student_levels=(5.0, 1.0), every=1),
        "decoupled": lambda: distill.decoupled_dmd(T, tiny()),
        "f_distill": lambda: distill.f_distill(T, tiny(), head, every=2),
        "sid": lambda: distill.sid(T, tiny()),
        "sida": lambda: distill.sida(T, tiny(), head),
        "sim": lambda: distill.sim(T, tiny()),
        "moments": lambda: distill.moment_matching(T, tiny()),
        "add": lambda: distill.add(T, tiny(), critic()),
        "ladd": lambda: distill.ladd(seen, tiny(), on_teacher),
        "ddgan": lambda: distill.ddgan(tiny(latent_network), pair_critic(), latent=2),
        "ufogen": lambda: distill.ufogen(tiny(), head),
        "truncated": lambda: distill.truncated_diffusion(tiny(), head),
    }


def moves_itself_alone(method, batch):
    """In an update of one player the others' parameters stay, bit for bit; its own move. Its loss
    can be compiled, which is seen without compiling it. Rates are past their warm-up.
    """
    state = init_state(method, jax.random.key(0))
    counts = lambda x: x + 1000 if jnp.issubdtype(x.dtype, jnp.integer) else x  # noqa: E731
    state = state._replace(opt_state=jax.tree.map(counts, state.opt_state))
    batch = jax.tree.map(jnp.asarray, batch)
    for player in method.players:
        step = functools.partial(update, method, active=(player,))
        jax.eval_shape(step, state, batch)
        new, metrics = step(state, batch)
        assert all(np.isfinite(v).all() for v in metrics.values())
        for other in method.players:
            pairs = zip(
                jax.tree.leaves(state.params[other]), jax.tree.leaves(new.params[other]),
                strict=True,
            )  # fmt: skip
            same = [np.array_equal(a, b) for a, b in pairs]
            assert all(same) if other != player else not all(same), (player, other)
