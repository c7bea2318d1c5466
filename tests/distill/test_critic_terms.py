"""Every term of the losses with critics in them, of both players, as in test_score_terms: what
the critics see, what they say of it to whom, factors, penalties and the ratio that is made of them.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.recording_network import HIGH, LABEL, LOW, OWN, PATH, VARIANCE, X0, place
from helpers.two_player_losses import (
    HEAD,
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
    L,
    T,
    again,
    apart,
    column,
    compared,
    edm,
    evaluated_alike,
    even,
    generated,
    head,
    held,
    identity,
    is_the_loss,
    karras_law,
    log_normal_law,
    logits_of,
    mean_square,
    normal,
    normalised,
    of_cases,
    played,
    pushed,
    size_of,
    slope_of,
    softplus,
    time_law,
)
from scipy.stats import norm

from jaxdiff import distill
from jaxdiff.distill.parts.critic import HINGE, SOFTPLUS, Critic
from jaxdiff.distill.parts.two_players import FakeScore, Penalty

ON_TEACHER = {"trunk": "teacher", "scores": False}
MEANS = np.linspace(0.5, 1.5, 10)  # running, of the ratio
NEARLY = karras_law(0.002, 0.998)  # the whole grid but for its very ends


def relu(u):
    return np.where(held(u) > 0, u, 0)


# the losses of critic and student
SOFT = (
    lambda seen, shown: np.mean(softplus(-seen)) + np.mean(softplus(shown)),
    lambda shown: np.mean(softplus(-shown)),
)
HARD = (
    lambda seen, shown: np.mean(relu(1 - seen)) + np.mean(relu(1 + shown)),
    lambda shown: -np.mean(shown),
)


def simple(theta, recorded):
    """A sample of one evaluation from the highest level."""
    return generated(theta, recorded, HIGH)


def of_fake(phi, y, s):
    return F(phi, y, s)


def of_teacher(phi, y, s):
    return T(y, s)


def rate_of(phi, s, trunk):
    """How what the trunk says changes with the state."""
    if trunk is of_teacher:
        return VARIANCE / (VARIANCE + column(s) ** 2)
    return phi["network"]["scale"] / column(1 + s)


def discriminator_value(phi, real, made, x, trunk, game=SOFT, penalty=0.0):
    """The critic's loss on data and held samples with the same noise, and its mean logits."""
    np.testing.assert_array_equal(real.s, made.s)
    s, eps = real.s, (real.y - X0) / column(real.s)
    normal(eps)
    apart(eps, s, x)
    np.testing.assert_allclose(made.y, x + column(s) * eps, rtol=1e-9)
    return compared_logits(phi, real, made, trunk, game, penalty)


def compared_logits(phi, real, made, trunk, game=SOFT, penalty=0.0):
    """The same, whatever their noise."""
    h = trunk(phi, real.y, real.s)
    seen, shown = L(phi["head"], h), L(phi["head"], trunk(phi, made.y, made.s))
    value = game[0](seen, shown)
    if penalty:
        slopes = slope_of(phi["head"], h) * rate_of(phi, real.s, trunk)
        value = value + penalty * np.mean(np.sum(slopes**2, axis=1))
    return value, {"real": np.mean(held(seen)), "made": np.mean(held(shown))}


def opposed(start, law, factor, trunk=of_fake, shared=False, **options):
    """The fake score's loss and that of the critic, on data and samples with noise of their own;
    ``shared`` with the fake score, of samples.
    """

    def wanted(phi, recorded):
        x, z = generated(OWN, recorded, start)
        first, *rest = recorded.fake
        real, made = recorded.teacher if trunk is of_teacher else rest
        y, s = again(first, x, law, z)
        if shared:
            evaluated_alike(first, made)
        else:
            again(made, x, law, z, s, (first.y - x) / column(s))
        eps = (made.y - x) / column(made.s)
        again(real, X0, law, z, made.s, eps)
        value, metrics = compared_logits(phi, real, made, trunk, **options)
        return edm(s) * mean_square(F(phi, y, s) - x) + factor * value, metrics

    return wanted


def matched(factor, trunk=of_fake, game=SOFT, law=MIDDLE, fake_law=WHOLE, steps=simple):
    """The critic sees other noise than the two denoisers."""

    def wanted(theta, recorded):
        x, z = steps(theta, recorded)
        if trunk is of_teacher:
            (first, shown), (also,) = recorded.teacher, recorded.fake
        else:
            (first,), (also, shown) = recorded.teacher, recorded.fake
        evaluated_alike(first, also)
        y, s = again(first, x, law, z)
        away = normalised(x, F(OTHER, y, s), T(y, s))
        y_own, s_own = again(shown, x, fake_law, z, s, (first.y - held(x)) / column(s))
        return pushed(x, away) + factor * game[1](L(HEAD, trunk(OTHER, y_own, s_own)))

    return wanted


def ratio_of(y, s, limits=(0.1, 20.0)):
    return np.clip(np.exp(np.mean(L(HEAD, F(OTHER, held(y), s)), axis=1)), *limits)


def bins_of(s):
    """Ten, equal in the level's logarithm."""
    return np.minimum(np.floor(10 * np.log(s / LOW) / np.log(HIGH / LOW)), 9).astype(int)


def means_of(r, s):
    """Of each bin of this batch, 1 where it has none."""
    index = bins_of(s)
    return np.array([r[index == i].mean() if (index == i).any() else 1.0 for i in range(10)])


def weighed(name, limits=(0.1, 20.0), means=means_of, factor=3e-3, start=HIGH, law=NEARLY):
    """DMD's direction times h of the ratio, which is what the critic says of the noisy samples."""

    def wanted(theta, recorded):
        x, z = generated(theta, recorded, start)
        y, s, D_fake, D_teacher = compared(recorded, x, law, z)
        r = ratio_of(y, s, limits)
        assert (r == limits[0]).any() and (r == limits[1]).any()
        assert ((r > limits[0]) & (r < limits[1])).mean() > 0.3
        r = r / (means(r, s)[bins_of(s)] + 1e-6) if means else r
        h = {"jensen-shannon": r / (1 + r), "kl": r}[name]
        away = column(h / (h.mean() + 1e-6)) * normalised(x, D_fake, D_teacher)
        return pushed(x, away) + factor * SOFT[1](L(HEAD, F(OTHER, y, s)))

    return wanted


def drifting(limits=(0.1, 20.0), start=HIGH, law=NEARLY):
    """The running means are drawn to those of this batch, where it has any."""

    def wanted(means, recorded):
        x, z = generated(OWN, recorded, start)
        y, s = again(recorded.fake[0], x, law, z)
        r, index = ratio_of(y, s, limits), bins_of(s)
        found = np.array([r[index == i].mean() if (index == i).any() else held(means)[i]
                          for i in range(10)])  # fmt: skip
        assert len(set(index)) > 2
        return 0.5 * np.sum((means - found) ** 2)

    return wanted


def identified(critic=True, scale=100, factor=0.01, bound=10.0):
    """SiDA: a = 1; halves of the two terms, that of the critic with the normaliser of the other and
    the size of a sample, 2.
    """

    def wanted(theta, recorded):
        x, z = generated(theta, recorded, 2.5)
        _, _, D_fake, D_teacher = compared(recorded, x, karras_law(0.2, 1.0), z)
        value = scale * identity(x, D_fake, D_teacher, 1.0)
        logits = L(HEAD, D_fake)
        inside = np.abs(held(logits)) < bound
        assert inside.any() and not inside.all()
        bounded = np.where(inside, logits, np.clip(held(logits), -bound, bound))
        generator_term = factor * 2 * SOFT[1](bounded) / size_of(x - D_teacher)
        return 0.5 * value + 0.5 * generator_term if critic else value

    return wanted


def identifies(phi, recorded, factor=0.5):
    """Its fake score's: EDM's weight of both the summed error and the critic's halves."""
    x, z = generated(OWN, recorded, 2.5)
    first, real, made = recorded.fake
    evaluated_alike(first, made)
    y, s = again(first, x, LOG_NORMAL, z)
    value, metrics = discriminator_value(phi, real, made, x, of_fake)
    return edm(s) * (2 * mean_square(F(phi, y, s) - x) + factor * value), metrics


COSINE = [20.0, *np.tan(np.arctan(HIGH) * np.array([0.75, 0.5, 0.25])
                        + np.arctan(LOW) * np.array([0.25, 0.5, 0.75]))]  # fmt: skip


def denoised(theta, recorded, levels=COSINE):
    """Data denoised from one of a few levels, and the noise they had."""
    one = recorded.student[0]
    place(one.s, np.array(levels), [1] * len(levels))
    eps = (one.y - X0) / column(one.s)
    normal(eps)
    apart(eps, one.s)
    return G(theta, one.y, one.s), eps


def added(levels=COSINE, law=time_law, weight=lambda s: 2.5 / np.sqrt(1 + s**2)):
    """The critic sees the samples; the teacher denoises them with new noise, held."""

    def wanted(theta, recorded):
        x, eps = denoised(theta, recorded, levels)
        y, s = again(recorded.teacher[0], held(x), law, eps)
        ((seen, _),) = recorded.others
        np.testing.assert_allclose(seen, held(x))
        return -np.mean(L(HEAD, x)) + weight(s) * mean_square(x - T(y, s))

    return wanted


def of_samples(levels=COSINE, penalty=1e-5):
    """Data, samples that were denoised, R1 on data."""

    def wanted(params, recorded):
        x, _ = denoised(OWN, recorded, levels)
        (real, _), (made, _) = recorded.others
        np.testing.assert_array_equal(real, X0)
        np.testing.assert_allclose(made, x)
        return critics_loss(params, X0, x, HARD, penalty)

    return wanted


def critics_loss(params, real, made, game, penalty):
    seen, shown = L(params, real), L(params, made)
    size = np.mean(np.sum(slope_of(params, real) ** 2, axis=1))
    metrics = {"real": np.mean(held(seen)), "fake": np.mean(held(shown))}
    return game[0](seen, shown) + penalty * size, metrics


FLOW = log_normal_law(0, 1)  # of t/(1 - t), the logit of t being normal


def latent_adversarial(levels=COSINE, law=FLOW):
    """All that moves the student is what the critic says of the teacher's features."""

    def wanted(theta, recorded):
        x, eps = denoised(theta, recorded, levels)
        y, s = again(recorded.teacher[0], x, law, eps)
        return SOFT[1](L(HEAD, T(y, s)))

    return wanted


def heads_of_teacher(levels=COSINE, law=FLOW, penalty=0.0):
    def wanted(phi, recorded):
        real, made = recorded.teacher
        law(real.s)
        x, _ = denoised(OWN, recorded, levels)
        return discriminator_value(phi, real, made, x, of_teacher, penalty=penalty)

    return wanted


GRID = np.array([80.0, 4.0, 1.3, 0.5, 0.0])


def pair_of(one, grid=GRID):
    """The level below that of a student's call, which is on a grid; the noise of the call."""
    eps = (one.y - X0) / column(one.s)
    normal(eps)
    apart(eps, one.s)
    return grid[place(one.s, grid[:-1], [1] * (len(grid) - 1)) + 1], eps


def stepped(theta, recorded, made):
    """The step to the level below, as it was made, of a sample with latents of its own."""
    one = recorded.student[0]
    (s, eps), latents = pair_of(one), np.stack(one.further, axis=1)
    normal(latents)
    assert latents.shape[1] == 3
    apart(latents, eps, one.s)
    x, ratio = G(theta, one.y, one.s, *one.further), column(s / one.s)
    mean = x + ratio**2 * (one.y - x)
    size, some = ratio * np.sqrt(column(one.s**2 - s**2)), s > 0
    np.testing.assert_allclose(made[~some], held(mean)[~some])
    z = (made - held(mean))[some] / size[some]
    normal(z)
    for draw in (latents, eps, one.s):
        apart(draw[some], z)
    return made + mean - held(mean)


def pair_feature(y_s, y_t, t, s):
    return y_s + 0.03 * y_t + 0.01 * (t - 2 * s)[:, None]


def fooled_by_pairs(theta, recorded, game=SOFT):
    ((made, (y_t, t, s, _)),) = recorded.others
    one = recorded.student[0]
    np.testing.assert_array_equal(y_t, one.y)
    np.testing.assert_allclose(t, one.s)
    np.testing.assert_array_equal(s, pair_of(one)[0])
    return game[1](L(HEAD, pair_feature(stepped(theta, recorded, made), y_t, t, s)))


def of_pairs(penalty):
    """Two states of one diffusion, against the noisier and a step from it; R1 in the other."""

    def wanted(params, recorded):
        (y_s, (y_t, t, s, _)), (made, same_labels) = recorded.others
        jax.tree.map(np.testing.assert_array_equal, (y_t, t, s), same_labels[:3])
        np.testing.assert_array_equal(y_t, recorded.student[0].y)
        stepped(OWN, recorded, made)
        some = s > 0
        np.testing.assert_array_equal(y_s[~some], X0[~some])
        eps, rise = (y_s - X0)[some] / column(s)[some], column(np.sqrt(t**2 - s**2))
        further = (y_t - y_s) / rise
        normal(eps, further)
        apart(eps, further[some])
        real, fake = (pair_feature(y, y_t, t, s) for y in (y_s, made))
        return critics_loss(params, real, fake, SOFT, penalty)

    return wanted


def reconstructed(factor=1.0, grid=GRID):
    """The critic sees the sample at the level below that of the student's input."""

    def wanted(theta, recorded):
        (one,), (two,) = recorded.student, recorded.fake
        s, eps = pair_of(one, grid)
        np.testing.assert_allclose(two.s, np.maximum(s, LOW))
        x = G(theta, one.y, one.s)
        some = s > 0
        own = (two.y - held(x))[some] / column(s)[some]
        normal(own)
        apart(own, eps[some])
        apart(own, s[some])
        np.testing.assert_allclose(two.y[~some], held(x)[~some])
        error = mean_square(x - X0) / (2 * (one.s**2 - s**2))
        value = SOFT[1](L(HEAD, F(OTHER, two.y + x - held(x), two.s))) + factor * error
        return value, {"reconstruction": np.mean(held(error))}

    return wanted


def of_reconstructions(penalty=0.01, grid=GRID):
    def wanted(phi, recorded):
        (one,), (real, made) = recorded.student, recorded.fake
        s, eps = pair_of(one, grid)
        np.testing.assert_allclose(real.s, np.maximum(s, LOW))
        apart(eps, real.y - X0)
        return discriminator_value(phi, real, made, G(OWN, one.y, one.s), of_fake, penalty=penalty)

    return wanted


def jumped(theta, recorded, cut):
    """An Euler step from the highest level to the cut."""
    x, z = generated(theta, recorded, HIGH)
    return cut / HIGH * recorded.student[0].y + (1 - cut / HIGH) * x, z


def truncated(cut=2.5, mean=-1.2, std=1.2, factor=1.0):
    """Score matching up to the cut, and the critic of what arrives there."""

    def wanted(theta, recorded):
        (_, one), (two,) = recorded.student, recorded.fake
        x, z = jumped(theta, recorded, cut)
        np.testing.assert_allclose(two.y, held(x))
        np.testing.assert_allclose(two.s, cut)
        s, eps = one.s, (one.y - X0) / column(one.s)
        normal(eps)
        apart(eps, s, z)
        ends = np.isclose(s, cut, rtol=1e-9)
        assert (s[~ends] < cut).all()
        np.testing.assert_allclose(ends.mean(), 1 - norm.cdf(np.log(cut), mean, std), atol=0.04)
        parts = [0.1, 0.25, 0.5]
        found, law = np.quantile(np.log(s), parts), norm.ppf(parts, mean, std)
        np.testing.assert_allclose(found, law, atol=0.13 * std)
        error = edm(s) * mean_square(G(theta, one.y, s) - X0)
        shown = SOFT[1](L(HEAD, F(OTHER, x, two.s)))
        return error + factor * shown, {"matching": np.mean(held(error)), "game": held(shown)}

    return wanted


def of_the_cut(cut=2.5, penalty=0.005 / 16):
    def wanted(phi, recorded):
        real, made = recorded.fake
        x, z = jumped(OWN, recorded, cut)
        np.testing.assert_allclose([real.s, made.s], cut)
        np.testing.assert_allclose(made.y, x)
        eps = (real.y - X0) / cut
        normal(eps)
        apart(eps, z)
        h = F(phi, real.y, real.s)
        seen, shown = L(phi["head"], h), L(phi["head"], F(phi, made.y, made.s))
        slopes = slope_of(phi["head"], h) * rate_of(phi, real.s, of_fake)
        return SOFT[0](seen, shown) + penalty * np.mean(np.sum(slopes**2, axis=1))

    return wanted


def critic_of(feature, game, notes):
    """A critic that notes its inputs."""

    def logits(params, x, recorded):
        if not isinstance(x, jax.core.Tracer):
            notes.append(jax.tree.map(np.asarray, (x, recorded)))
        cond = recorded[3] if isinstance(recorded, tuple) else recorded
        return logits_of(
            params, (feature(x, *recorded[:3]) if isinstance(recorded, tuple) else x,), cond
        )

    return Critic(logits, jax.tree.map(jnp.asarray, HEAD), game)


def two(method, game=SOFTPLUS, **options):
    """How a method is made with a head; and of what notes there are none."""
    where = {k: options.pop(k) for k in ("trunk", "scores") if k in options}
    scores = where.get("scores", True)
    return lambda T, own, fake, notes: method(
        T, own, fake_score=FakeScore(fake if scores else None, head=head(game), **where), **options
    )


def alone(method, **options):
    """Of methods without a teacher."""
    return lambda T, own, fake, notes: method(own, FakeScore(fake, head=head()), **options)


def adding(**options):
    return lambda T, own, fake, notes: distill.add(T, own, critic_of(None, None, notes), **options)


def stepping(game=None, **options):
    return lambda T, own, fake, notes: distill.ddgan(
        own, critic_of(pair_feature, game, notes), latent=3, **options
    )


STRONG = {"adversarial": 0.3, "critic": 0.4, "levels": HIGHER, "fake_levels": LOWER}
WEIGHED = {
    "divergence": "kl", "limits": (0.3, 5.0), "student_levels": (3.0,), "levels": HIGHER,
    "adversarial": 0.3, "critic": 0.4, "penalty": Penalty(0.2),
}  # fmt: skip
KL = ("kl", (0.3, 5.0))
ONE_OF_MANY = {"critic_from": 30, "adversarial": 0.02, "scale": 7.0, "bound": 3.0}
NOISES, GIVEN = [9.0, 0.7], {"student_levels": (9.0, 0.7), "levels": HIGHER}
SHORT = np.array([20.0, 2.0, 0.4, 0.0])

# how a method is made, a player, and its loss
CASES = {
    "dmd2": (two(distill.dmd2), "student", matched(3e-3)),
    "dmd2's critic": (two(distill.dmd2), "fake", opposed(HIGH, WHOLE, 1e-2)),
    "dmd2, on the teacher": (
        two(distill.dmd2, HINGE, trunk="teacher", **STRONG),
        "student", matched(0.3, of_teacher, HARD, HIGHER_LAW, LOWER_LAW),
    ),
    "dmd2's critic, on the teacher": (
        two(distill.dmd2, HINGE, trunk="teacher", penalty=Penalty(0.2), **STRONG),
        "fake", opposed(HIGH, LOWER_LAW, 0.4, of_teacher, game=HARD, penalty=0.2),
    ),
    "dmd2's critic, penalised": (
        two(distill.dmd2, penalty=Penalty(0.2), **STRONG),
        "fake", opposed(HIGH, LOWER_LAW, 0.4, penalty=0.2),
    ),
    "f_distill": (two(distill.f_distill), "student", weighed("jensen-shannon")),
    "f_distill's critic": (
        two(distill.f_distill), "fake", opposed(HIGH, NEARLY, 1e-2, shared=True)
    ),
    "f_distill's means": (two(distill.f_distill, rate=0.3), "ratio", drifting()),
    "f_distill, without bins": (
        two(distill.f_distill, bins=0, **WEIGHED),
        "student", weighed(*KL, None, 0.3, 3.0, HIGHER_LAW),
    ),
    "f_distill, running": (
        two(distill.f_distill, rate=0.3, **WEIGHED),
        "student", weighed(*KL, lambda r, s: MEANS, 0.3, 3.0, HIGHER_LAW),
    ),
    "f_distill's critic, options": (
        two(distill.f_distill, **WEIGHED),
        "fake", opposed(3.0, HIGHER_LAW, 0.4, penalty=0.2, shared=True),
    ),
    "f_distill's means, options": (
        two(distill.f_distill, rate=0.3, **WEIGHED),
        "ratio", drifting((0.3, 5.0), 3.0, HIGHER_LAW),
    ),
    "sida, before its critic": (two(distill.sida), "student", identified(False)),
    "sida": (two(distill.sida, critic_from=30), "student", identified()),
    "sida, options": (
        two(distill.sida, **ONE_OF_MANY), "student", identified(True, 7.0, 0.02, 3.0)
    ),
    "sida's critic": (two(distill.sida), "fake", identifies),
    "add": (adding(), "student", added()),
    "add's critic": (adding(), "critic", of_samples()),
    "add, options": (
        adding(distillation=1.7, weight=lambda s: s**-1, **GIVEN),
        "student", added(NOISES, HIGHER_LAW, lambda s: 1.7 / s),
    ),
    "add's critic, options": (adding(penalty=0.3, **GIVEN), "critic", of_samples(NOISES, 0.3)),
    "ladd": (two(distill.ladd, **ON_TEACHER), "student", latent_adversarial()),
    "ladd's heads": (two(distill.ladd, **ON_TEACHER), "fake", heads_of_teacher()),
    "ladd, options": (
        two(distill.ladd, **GIVEN, **ON_TEACHER), "student", latent_adversarial(NOISES, HIGHER_LAW)
    ),
    "ladd's heads, options": (
        two(distill.ladd, penalty=Penalty(0.2), **GIVEN, **ON_TEACHER),
        "fake", heads_of_teacher(NOISES, HIGHER_LAW, 0.2),
    ),
    "ddgan": (stepping(), "student", fooled_by_pairs),
    "ddgan, another game": (
        stepping(HINGE), "student", lambda theta, recorded: fooled_by_pairs(theta, recorded, HARD)
    ),
    "ddgan's critic": (stepping(), "critic", of_pairs(0.01 / 15)),
    "ddgan's critic, options": (stepping(penalty=0.3), "critic", of_pairs(0.3)),
    "ufogen": (alone(distill.ufogen), "student", reconstructed()),
    "ufogen's critic": (alone(distill.ufogen), "fake", of_reconstructions()),
    "ufogen, options": (
        alone(distill.ufogen, levels=SHORT, reconstruction=0.8),
        "student", reconstructed(0.8, SHORT),
    ),
    "ufogen's critic, options": (
        alone(distill.ufogen, levels=SHORT, penalty=Penalty(0.3)),
        "fake", of_reconstructions(0.3, SHORT),
    ),
    "truncated": (alone(distill.truncated_diffusion), "student", truncated()),
    "truncated's critic": (alone(distill.truncated_diffusion), "fake", of_the_cut()),
    "truncated, options": (
        alone(distill.truncated_diffusion, cut=1.5, adversarial=0.7, mean=0.4, std=0.7),
        "student", truncated(1.5, 0.4, 0.7, 0.7),
    ),
    "truncated's critic, options": (
        alone(distill.truncated_diffusion, cut=1.5, penalty=0.3), "fake", of_the_cut(1.5, 0.3)
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", of_cases(CASES))
def test_a_players_loss_is_that_of_its_paper(name):
    make, player, wanted = CASES[name]
    notes = []
    params = {"ratio": MEANS}
    is_the_loss(lambda *recorded: make(*recorded, notes), wanted, player, params, others=notes)


def moved_for_the_penalty(make, factor):
    """The critic's loss with the approximate penalty, less that without; and its calls."""
    with_penalty, _, _, recorded = played(make(Penalty(0.3, 0.02)), "fake")
    without, _, _, _ = played(make(Penalty()), "fake")
    calls = recorded.teacher or recorded.fake[-4:]
    real, _, moved, still = calls
    evaluated_alike(real, still)
    np.testing.assert_array_equal(moved.s, real.s)
    n = (moved.y - real.y) / 0.02
    normal(n)
    trunk = of_teacher if recorded.teacher else of_fake
    change = [L(HEAD, trunk(OTHER, call.y, call.s)) for call in (moved, real)]
    size = np.mean((change[0] - change[1]) ** 2)
    np.testing.assert_allclose(with_penalty - without, factor * 0.3 * size, rtol=1e-6)
    return n, real


@pytest.mark.parametrize("player", ["student", "fake"])
def test_a_fake_score_may_be_conditioned_on_which_evaluation_made_a_sample(player):
    """By the level of that evaluation, in all of its calls; without it has one label."""
    for apart_ in (True, False):

        def make(D, student, model, apart_=apart_):
            fake_score = FakeScore(model, head=head())
            return distill.dmd2(
                D,
                student,
                fake_score=fake_score,
                student_levels=(8.0, 2.0),
                label_evaluations=apart_,
            )

        recorded = played(make, player)[-1]
        at = recorded.student[-1].s  # of the last call, which alone is differentiated
        assert set(np.round(at, 6)) == {8.0, 2.0} and recorded.fake
        for call in recorded.fake:
            assert len(call.further) == int(apart_)
            if apart_:
                np.testing.assert_allclose(call.further[0], np.log(at) / 4)


PENALISED = {
    "dmd2": (
        lambda p: lambda *recorded: two(distill.dmd2, critic=0.4, penalty=p)(*recorded, None),
        0.4,
    ),
    "ladd": (
        lambda p: lambda *recorded: two(distill.ladd, penalty=p, **ON_TEACHER)(*recorded, None),
        1,
    ),
    "ufogen": (lambda p: lambda *recorded: alone(distill.ufogen, penalty=p)(*recorded, None), 1),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", PENALISED)
def test_the_approximate_penalty_is_the_change_of_the_logits_of_data(name):
    moved_for_the_penalty(*PENALISED[name])


@pytest.mark.parametrize("name", PENALISED)
def test_the_approximate_penalty_moves_data_by_other_noise_than_theirs(name):
    n, real = moved_for_the_penalty(*PENALISED[name])
    apart(n, (real.y - X0) / column(real.s))


def test_a_discriminator_sees_data_and_samples_with_the_same_noise():
    calls, made = [], PATH[:, 0]

    def logits(params, y, s, cond):
        if not isinstance(y, jax.core.Tracer):
            calls.append((np.asarray(y), np.asarray(s)))
        return jnp.mean(logits_of(params, (y + 0.1 * s[:, None],), cond), axis=1)

    def wanted(params, recorded):
        (y, s), (y_made, s_made) = recorded.others
        np.testing.assert_array_equal(s, s_made)
        even(np.log(s), np.log(1e-3), np.log(152.0))
        eps = (y - X0) / column(s)
        normal(eps)
        apart(eps, s)
        np.testing.assert_allclose(y_made, made + column(s) * eps, rtol=1e-9)
        seen, shown = (np.mean(L(params, h + 0.1 * column(s)), axis=1) for h in (y, y_made))
        return SOFT[0](seen, shown), {"real": np.mean(held(seen)), "made": np.mean(held(shown))}

    batch = {"image": X0, "sample": made, "label": LABEL}
    is_the_loss(
        lambda T, own, fake: distill.discriminator(T, logits, HEAD), wanted, "student",
        {"student": HEAD}, batch=batch, others=calls,
    )  # fmt: skip
