"""Guidance by a measurement: the numbers of another library (azula), at single points and along
trajectories, in its variance exploding and variance preserving frames.

A state x = alpha y of level s = sigma/alpha; its gradient steps are in x, so that zeta here is
zeta/(alpha_r alpha_s).
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import golden_numbers

import jaxdiff as jd
from jaxdiff import operators as ops
from jaxdiff import posterior
from jaxdiff.conditioning.posterior.tds import moved, twisted
from jaxdiff.exact import GaussianMixture


@functools.cache
def golden():
    if not (golden_numbers.SHARED / "conditioning.json").exists():
        pytest.skip("the golden numbers of conditioning are not beside this checkout")
    return golden_numbers.load("conditioning")


@functools.cache
def mixture(name):
    mu, cov, weights = (golden()[f"mixture/{name}/{k}"] for k in ("mu", "cov", "weights"))
    return GaussianMixture(weights / weights.sum(), mu, cov)


def cases(what, **equal):
    found = [c for c in golden().cases if c["what"].startswith(what)]
    return [c for c in found if all(c[k] == v for k, v in equal.items())]


@functools.partial(jax.jit, static_argnames="iterations")
def at_a_point(D, A, u, noise, y, levels, factor, iterations):
    """Every method at the first of two levels, as a denoised state."""
    seen, clean = ops.Measurement(A, u, noise), ops.Measurement(A, u, jnp.zeros(()))
    s = levels[0]
    v = s**2 / (1 + s**2)
    step = lambda eta: posterior.per_step(1.0, levels, eta)  # noqa: E731
    prior = jnp.linspace(0.2, 1.0, 8)
    pigdm = lambda eta: posterior.pigdm(D, clean, weight=lambda s: v * step(eta)(s))  # noqa: E731
    made = {
        "dps_step_zeta0.3": posterior.dps(D, seen, levels, 0.3 * factor),
        "dps_step_zeta1.0": posterior.dps(D, seen, levels, factor),
        "dps_step_zeta1.0_batched_norm": posterior.dps(D, seen, levels, factor, reference=True),
        "pgdm_step_eta0.0": pigdm(0.0),
        "pgdm_step_eta1.0": pigdm(1.0),
        "tmpd": posterior.tmpd(D, seen),
        "diffpir_lmbda1.0_gmres8": posterior.diffpir(D, seen, 1.0),
        "diffpir_lmbda10.0_gmres8": posterior.diffpir(D, seen, 10.0),
        "jfps_cg8": posterior.gaussian_covariance(D, seen, prior),
    }
    for k, n in ((1, 1), (2, 2), (8, iterations)):
        made[f"mmps_cg{k}"] = posterior.mmps(D, seen, n)
        made[f"mmps_gmres{k}"] = posterior.mmps(D, seen, n, solver="minres")
    return {name: guided(y, s) for name, guided in made.items()}


@pytest.mark.slow
@pytest.mark.parametrize("operator", ("mask", "dense"))
def test_at_one_point(operator):
    matrix = golden()[f"operator/{operator}"]
    A = ops.matrix(matrix)
    found = cases("azula guidance at one point", operator=operator)
    assert len(found) == 12
    for case in found:
        get = lambda name, case=case: golden().get(case, name)  # noqa: E731
        alpha, sigma = float(get("alpha_t")[0]), float(get("sigma_t")[0])
        alpha_r, sigma_r = float(get("alpha_s")[0]), float(get("sigma_s")[0])
        s, r = sigma / alpha, sigma_r / alpha_r
        y, e = get("x") / alpha, get("eps")
        D = mixture(case["mixture"]).denoiser
        outs = at_a_point(
            D, A, get("y"), case["sigma_y"], y, jnp.array([s, r]), 1 / (alpha * alpha_r),
            len(matrix),
        )  # fmt: skip
        outs = jax.tree.map(np.asarray, outs)
        for name, x0 in outs.items():
            expected = get(name)
            if "step" in name:
                eta = 0.0 if name.endswith("eta0.0") else 1.0
                up = eta * (r / s) * np.sqrt(s**2 - r**2)
                down = np.sqrt(r**2 - up**2)
                x0 = alpha_r * (x0 + down / s * (y - x0) + up * e)
            np.testing.assert_allclose(x0, expected, rtol=1e-6, atol=2e-7, err_msg=name)


@pytest.mark.slow
def test_a_measurement_that_is_not_linear():
    """DPS's step for A(x) = tanh(2 A x)."""
    schedules = {c["schedule"]: c for c in golden().cases if c["what"] == "schedule"}
    found = cases("DPS, nonlinear")
    assert len(found) == 8
    for case in found:
        get = lambda name, case=case: golden().get(case, name)  # noqa: E731
        (alpha, below), (sigma, left) = process(
            case["schedule"], schedules, np.array([case["t"], case["s"]])
        )
        s, r = levels = jnp.array([sigma / alpha, left / below])
        seen = ops.Measurement(saturated(case["operator"]), get("y"), 0.0)
        D = posterior.dps(mixture(case["mixture"]).denoiser, seen, levels, 0.5 / (alpha * below))
        y = jnp.asarray(get("x") / alpha)
        up = (r / s) * np.sqrt(s**2 - r**2)
        x0 = jax.jit(D)(y, s)
        x = below * (x0 + np.sqrt(r**2 - up**2) / s * (y - x0) + up * get("eps"))
        np.testing.assert_allclose(x, get("dps_step"), rtol=1e-6, atol=1e-8, err_msg=case["id"])


def saturated(name):
    """tanh(2 A x) as an operator."""
    matrix = jnp.asarray(golden()[f"operator/{name}"])
    return ops.nonlinear(lambda x: jnp.tanh(2 * x @ matrix.T.astype(x.dtype)), (8,))


@pytest.mark.slow
@pytest.mark.parametrize("operator", ("mask", "dense"))
def test_along_trajectories(operator):
    matrix = golden()[f"operator/{operator}"]
    A = ops.matrix(matrix)
    make = {
        "mmps_gmres2": lambda D, m: posterior.mmps(D, m, 2, solver="minres"),
        "tmpd": posterior.tmpd,
        "diffpir_10_gmres2": lambda D, m: posterior.diffpir(D, m, 10.0),
    }
    schedules = {c["schedule"]: c for c in golden().cases if c["what"] == "schedule"}
    count = 0
    for case in cases("azula DDIMSampler", operator=operator):
        if case["guided"].startswith("diffpir") and operator == "dense":
            continue  # two iterations are not its minimum
        get = lambda name, case=case: golden().get(case, name)  # noqa: E731
        alpha, sigma = process(case["schedule"], schedules, get("timesteps"))
        levels = sigma / alpha
        seen = ops.Measurement(A, get("y"), case["sigma_y"])
        guided = make[case["guided"]](mixture(case["mixture"]).denoiser, seen)
        eta = case["eta"]
        start = jnp.asarray(get("x_T") / alpha[0])
        kwargs = {"noise": jnp.asarray(get("noise"))[: len(levels) - 1]}
        if not eta:
            kwargs = {}
        table = jd.table(
            jd.solvers.ddim if eta else jd.solvers.euler, levels, **({"eta": eta} if eta else {})
        )
        path = jd.trajectory(guided, table, start, **kwargs)
        expected = get("traj") / alpha[1:, None, None]
        np.testing.assert_allclose(path.states[1:], expected, rtol=1e-5, atol=1e-6)
        count += 1
    assert count == (24 if operator == "mask" else 16)


def process(name, schedules, t):
    """alpha and sigma of azula's schedules at times t."""
    args = schedules[name]["args"]
    if name == "ve":
        low, high = np.log(args["sigma_min"]), np.log(args["sigma_max"])
        return np.ones_like(t), np.exp(low + (high - low) * t)
    alpha = np.exp(np.log(args["alpha_min"]) * t**2)
    return alpha, np.sqrt(1 - alpha**2 + args["sigma_min"] ** 2)


def test_twisted_particles():
    """TDS step by step, with the recorded noise and ancestors: weights and states."""
    schedules = {c["schedule"]: c for c in golden().cases if c["what"] == "schedule"}
    A = jnp.asarray(golden()["operator/dense"])
    found = cases("azula TDSSampler")
    assert len(found) == 4
    for case in found:
        get = lambda name, case=case: golden().get(case, name)  # noqa: E731
        alpha, sigma = process(case["schedule"], schedules, get("timesteps"))
        levels, u = sigma / alpha, jnp.asarray(get("y"))
        D = mixture(case["mixture"]).denoiser
        now = _twisted(D, A, u, get("x_T") / alpha[0], levels[0])
        now = now._replace(log_weights=now.log_twist)
        for i, (s, r) in enumerate(zip(levels[:-1], levels[1:], strict=True)):
            weights = jax.nn.softmax(now.log_weights)
            np.testing.assert_allclose(weights, get("resampling_weights")[i], rtol=1e-6)
            kept = jax.tree.map(lambda x, i=i, get=get: x[get("ancestors")[i]], now)
            kept = kept._replace(log_weights=jnp.zeros(6))
            now = _moved(D, A, u, kept, s, r, get("noise")[i])
            np.testing.assert_allclose(
                now.states, get("traj")[i] / alpha[i + 1], rtol=1e-6, atol=1e-8
            )


def _twist(A, u):
    def log_likelihood(x0, level):
        r = u[None] - x0 @ A.T
        return -jnp.sum(r**2, axis=1) / (2 * (0.04 + 0.5 * level**2 / (1 + level**2)))

    return jax.tree_util.Partial(log_likelihood)


@jax.jit
def _twisted(D, A, u, y, level):
    return twisted(D, _twist(A, u), None, y, level)


@jax.jit
def _moved(D, A, u, now, s, r, noise):
    return moved(D, _twist(A, u), None, now, s, r, noise)
