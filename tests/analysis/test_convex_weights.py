"""What steps are made of: the papers' formulas, derived by hand."""

import numpy as np
import pytest

import jaxdiff as jd
from jaxdiff import solvers
from jaxdiff.analysis.convex_weights import convex_weights

LEVELS = [10.0, 6.0, 2.0, 0.5]
S, R = np.array(LEVELS[:-1]), np.array(LEVELS[1:])


def weights(solver, levels=LEVELS, **options):
    return convex_weights(jd.table(solver, levels, **options))


def test_euler_is_convex_with_the_weights_of_the_paper():
    found = weights(solvers.euler)
    np.testing.assert_allclose(found.steps, np.eye(3), atol=1e-12)
    exact = np.tril(np.array(LEVELS)[1:, None] * (1 / R - 1 / S)[None])
    np.testing.assert_allclose(found.outputs[1:], exact, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(found.start, np.array(LEVELS) / LEVELS[0], rtol=1e-12)
    assert found.convex_steps.all() and found.convex_states.all()
    assert found.nodes.tolist() == LEVELS[:-1] and found.levels.tolist() == LEVELS


def test_heun_is_convex_where_a_step_is_shorter_than_half_the_level():
    found = weights(solvers.heun)
    for n, (s, r) in enumerate(zip(S, R, strict=True)):
        np.testing.assert_allclose(
            found.steps[n, 2 * n : 2 * n + 2], [1 - s / (2 * r), s / (2 * r)]
        )
    assert found.convex_steps.tolist() == [True, False, False]  # 6 > 10/2, 2 < 6/2, 0.5 < 2/2


def test_dpm_solver_2_is_never_convex():
    found = weights(solvers.dpm_solver, order=2)
    for n, (s, r) in enumerate(zip(S, R, strict=True)):
        m = np.sqrt(s * r)
        np.testing.assert_allclose(found.steps[n, 2 * n : 2 * n + 2], [1 - s / m, s / m])
    assert not found.convex_steps.any()


def test_dpm_solver_2m_extrapolates_the_last_two_outputs():
    found = weights(solvers.dpmpp, lower_final=False)
    h = np.log(S / R)
    np.testing.assert_allclose(found.steps[0], [1, 0, 0], atol=1e-12)
    for n in (1, 2):
        ahead = h[n] / (2 * h[n - 1])
        np.testing.assert_allclose(found.steps[n, n - 1 : n + 1], [-ahead, 1 + ahead])
    assert found.convex_steps.tolist() == [True, False, False]


def test_pndm_extrapolates_the_slopes():
    """Of order 2, the slope 3/2 eps_n - 1/2 eps_{n-1} with eps_{n-1} as it was found."""
    found = weights(solvers.ipndm, order=2)
    # eps_0 = (x_1 - D_0)/s_1, as x_1 lies on the first line
    np.testing.assert_allclose(found.steps[1, :2], [-0.5, 1.5], rtol=1e-12)
    s0, s1, s2, s3 = LEVELS
    x = [np.array([1.0, 0, 0, 0])]
    D = np.eye(4)[1:]
    slope = [(x[0] - D[0]) / s0]
    x.append(x[0] + (s1 - s0) * slope[0])
    slope.append((x[1] - D[1]) / s1)
    x.append(x[1] + (s2 - s1) * (1.5 * slope[1] - 0.5 * slope[0]))
    slope.append((x[2] - D[2]) / s2)
    x.append(x[2] + (s3 - s2) * (1.5 * slope[2] - 0.5 * slope[1]))
    towards = (x[3] - s3 / s2 * x[2]) / (1 - s3 / s2)
    np.testing.assert_allclose(found.steps[2], towards[1:], rtol=1e-10)
    assert abs(towards[0]) < 1e-12 and not found.convex_steps[1:].any()


@pytest.mark.parametrize("name", ["euler", "heun", "dpm_solver", "dpmpp", "ipndm", "unipc", "deis"])
def test_weights_sum_to_1_and_make_the_states(rng, name):
    """A constant denoiser keeps what is there; and a run with outputs along the axes."""
    levels = [*LEVELS, 0.0]
    found = weights(getattr(solvers, name), levels)
    np.testing.assert_allclose(found.start + found.outputs.sum(1), 1.0, rtol=1e-9)
    np.testing.assert_allclose(found.steps.sum(1), 1.0, rtol=1e-9)
    np.testing.assert_allclose(found.rest, 0.0, atol=1e-9)
    outputs, calls = rng.normal(size=(20, 3)), iter(range(20))
    start = rng.normal(size=3)
    states = list(getattr(solvers, name)(lambda y, s: outputs[next(calls)], start, levels))
    made = found.start[:, None] * start + found.outputs @ outputs[: len(found.nodes)]
    np.testing.assert_allclose(made, [start, *states], rtol=1e-8, atol=1e-10)


def test_an_analytic_first_step_leaves_the_start_in_it():
    table = jd.table(solvers.euler, LEVELS, first=solvers.steps.unit_first)
    found = convex_weights(table)
    assert abs(found.rest[0]) > 4e-3 and not found.convex_steps[0]


def test_what_has_no_such_weights_is_refused():
    with pytest.raises(ValueError, match="draws noise"):
        weights(solvers.ddim, eta=1.0)
    with pytest.raises(ValueError, match="padded"):
        convex_weights(jd.pad([jd.table(solvers.euler, LEVELS)])[0])
