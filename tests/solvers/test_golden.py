"""Solvers against the numbers of well-known implementations: states, evaluation levels and counts.

Every case is run in textbook form on NumPy arrays, where each state is compared, and as a table,
where the final state is. Tables are padded to common shapes, so that all of a family's cases
compile a handful of programs.
"""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.golden_numbers import Counted, load, teacher

from jaxdiff import grids, solvers
from jaxdiff.arrays import pytree_dataclass
from jaxdiff.conditioning.guidance import classifier_free
from jaxdiff.conditioning.threshold import dynamic
from jaxdiff.exact import GaussianMixture
from jaxdiff.process import VP, Discrete, level
from jaxdiff.sampling.sample import sample
from jaxdiff.sampling.table import pad
from jaxdiff.sampling.trace import table
from jaxdiff.solvers.dpm_solver import dpm_solver
from jaxdiff.solvers.planning import plan, plan_orders
from jaxdiff.solvers.probability_flow import probability_flow, probability_flow_step
from jaxdiff.solvers.steps import euler_step, heun_step

TOLERANCE = {"rtol": 1e-9, "atol": 1e-9}
# the peer's DEIS coefficients are sums of 10 000 points, wrong by up to 5e-5 of the largest
DEIS_TOLERANCE = {"rtol": 2e-3, "atol": 2e-3}


def dynamic_threshold(denoise):
    def clipped(x, sigma):
        out = denoise(x, sigma)
        bound = np.maximum(1.0, np.quantile(np.abs(out), 0.995, axis=-1, keepdims=True))
        return np.clip(out, -bound, bound) / bound

    return clipped


def predicts(case):
    return "data" if case else "noise"


def diffsampler(numbers, case):
    """Solver, options, levels, denoiser of a diff-sampler case; None where no solver of ours
    covers it.
    """
    makers = {
        "euler": lambda: (solvers.euler, {}),
        "heun": lambda: (solvers.heun, {}),
        "dpm_2": lambda: (solvers.dpm2, {"ratio": case["r"]}),
        "ipndm": lambda: (solvers.ipndm, {"order": case["max_order"]}),
        "dpm_pp": lambda: (
            solvers.dpmpp,
            {
                "order": case["max_order"],
                "prediction": predicts(case["predict_x0"]),
                "lower_final": case["lower_order_final"],
                "reference": True,
            },
        ),
        "unipc": lambda: (
            solvers.unipc,
            {
                "order": case["max_order"],
                "prediction": predicts(case["predict_x0"]),
                "variant": case["variant"],
                "lower_final": case["lower_order_final"],
                "reference": True,
            },
        ),
    }
    if case["solver"] == "deis" and case["deis_mode"] == "rhoab":
        solver, options = solvers.lms, {"order": case["max_order"]}
    elif case["solver"] == "deis":
        solver, options = solvers.deis, {"order": case["max_order"]}
    elif case["solver"] == "ipndm_v":
        solver, options = solvers.ipndm_v, {"order": case["max_order"], "reference": True}
    elif case["solver"] in makers:
        solver, options = makers[case["solver"]]()
    else:
        return None
    denoise = teacher(
        case["mixture"],
        load("teacher")["labels"] if case["conditional"] else None,
        case["cfg_scale"],
    )
    if case["dynamic_thresholding"]:
        denoise = dynamic_threshold(denoise)
    first = solvers.steps.unit_first if case["afs"] else None
    return solver, options, numbers[case["t_steps"]], denoise, first


OTHERS = {
    "sample_dpm_2_ancestral": (solvers.dpm2_ancestral, {}),
    "sample_dpmpp_2s_ancestral": (solvers.dpmpp_2s_ancestral, {}),
    "sample_dpmpp_2m_sde": (solvers.sde_dpmpp, {"order": 2}),
    "sample_dpmpp_3m_sde": (solvers.sde_dpmpp, {"order": 3, "reference": True}),
    "sample_dpmpp_sde": (solvers.sde_dpmpp_2s, {}),
}


def kdiffusion(numbers, case):
    order_two = {"order": 2, "lower_final": False}
    plain = {
        "sample_euler": (solvers.euler, solvers.churn, {"step": solvers.steps.euler_step}),
        "sample_heun": (solvers.heun, solvers.churn, {"step": solvers.steps.heun_step}),
        "sample_dpm_2": (solvers.dpm2, solvers.churn, {"step": solvers.steps.dpm2_step}),
    }
    name = case["function"]
    if name in plain:
        deterministic, stochastic, options = plain[name]
        churned = case.get("s_churn", 0)
        renamed = {"s_churn": "amount", "s_tmin": "low", "s_tmax": "high", "s_noise": "inflate"}
        edm = {"low": 0.0, "high": float("inf"), "inflate": 1.0} | {
            v: case[k] for k, v in renamed.items() if k in case
        }
        solver, options = (stochastic, options | edm) if churned else (deterministic, {})
    elif name == "sample_lms":
        solver, options = solvers.lms, {"order": case["order"]}
    elif name == "sample_dpmpp_2m":
        solver, options = solvers.dpmpp, order_two
    elif name == "sample_euler_ancestral":
        solver, options = solvers.ddim, {"eta": case["eta"], "inflate": case.get("s_noise", 1.0)}
    elif name == "sample_dpm_fast":
        orders = plan_orders(case["n"])
        ends = case["sigma_max"], case["sigma_min"]
        levels = np.geomspace(*ends, len(orders) + 1)
        return dpm_solver, {"orders": orders}, levels, teacher(), None
    elif name in OTHERS:
        solver, fixed = OTHERS[name]
        options = fixed | {"eta": case["eta"], "inflate": case.get("s_noise", 1.0)}
        if "solver_type" in case:
            options["second"] = {"midpoint": "midpoint", "heun": "exact"}[case["solver_type"]]
    else:
        return None
    levels = numbers[case["sigmas"]]
    levels = levels[:-1] if case["final_zero_dropped"] and levels[-1] == 0 else levels
    return (
        solver,
        options,
        levels,
        teacher("mix", load("teacher")["labels"] if case["conditional"] else None),
        None,
    )


@pytree_dataclass
class OwnVP:
    """VP with the two numbers as EDM derives them from a range of levels; one may be negative."""

    slope: float
    offset: float
    t_max: float = 1.0

    def alpha(self, t):
        return jnp.exp(-0.25 * self.slope * t * t - 0.5 * self.offset * t)

    def sigma(self, t):
        squared = jnp.expm1(0.5 * self.slope * t * t + self.offset * t)
        positive = squared > 0
        return jnp.where(positive, jnp.sqrt(jnp.where(positive, squared, 1)), 0) * self.alpha(t)


@pytree_dataclass
class OwnVE:
    """Level sqrt(t), alpha 1."""

    t_max: float = 1e4

    def alpha(self, t):
        return jnp.ones_like(t)

    def sigma(self, t):
        return jnp.sqrt(t)


def edm_process(case, low, high):
    if case["schedule"] == "ve":
        return OwnVE()
    slope = 2 * (np.log1p(low**2) / 1e-3 - np.log1p(high**2)) / (1e-3 - 1)
    return OwnVP(slope, np.log1p(high**2) - slope / 2)


def edm(numbers, case):
    used, n = np.array(numbers.get(case, "eval_sigmas")), case["num_steps"]
    one_each = case.get("solver") == "euler"
    denoise = teacher("mix", load("teacher")["labels"] if case["conditional"] else None)
    if case["function"] == "edm_sampler" or case["discretization"] == "edm":
        levels = grids.karras(n)
    else:  # Heun evaluates at the start, then at each step's end and again, churned, from there
        levels = np.append(used if one_each else [used[0], *used[1::2]], 0.0)
    if case.get("schedule", "linear") == "linear":
        solver, step = (solvers.euler, euler_step) if one_each else (solvers.heun, heun_step)
        options = {"ratio": case["alpha"]} if "alpha" in case else {}
    else:
        ends = (0.002, 80.0) if case["discretization"] == "edm" else (levels[-2], levels[0])
        options = {"process": edm_process(case, *ends), "order": 2 - one_each, "reference": True}
        solver, step = probability_flow, functools.partial(probability_flow_step, **options)
    if case["stochastic"]:
        solver, options = solvers.churn, {"step": step, "amount": case["S_churn"]}
        edges = {
            "S_min": ("low", 0.0),
            "S_max": ("high", float("inf")),
            "S_noise": ("inflate", 1.0),
        }
        options |= {ours: case.get(theirs, default) for theirs, (ours, default) in edges.items()}
    return solver, options, levels, denoise, None


@functools.cache
def vp_levels(family, kind, skip, num_steps):
    """Levels of the peer's grids, which are in time or in log SNR."""
    numbers = load(family)
    process = (
        VP() if kind == "linear" else Discrete.from_betas(np.asarray(numbers["betas_discrete"]))
    )
    if skip == "logSNR":
        return np.exp(np.linspace(*np.log(level(process, np.array([1.0, 1e-3]))), num_steps + 1))
    if skip == "time_quadratic":
        return np.asarray(level(process, np.linspace(1.0, 1e-3**0.5, num_steps + 1) ** 2))
    return np.asarray(level(process, np.linspace(1.0, 1e-3, num_steps + 1)))


def vp_original(numbers, case):
    method = case.get("method", "multistep")
    prediction = predicts(case["algorithm_type"] in ("dpmsolver++", "data_prediction"))
    if method == "adaptive":
        return None
    grid = numbers.name, case["noise_schedule"], case["skip_type"]
    if method != "multistep":
        levels, orders, ratios = singlestep_steps(grid, case)
        options = {"orders": orders, "ratios": ratios, "prediction": prediction}
        options["variant"] = case.get("solver_type", "dpm")
        return dpm_solver, options, levels, teacher(), None
    levels = vp_levels(*grid, case["steps"])
    options = {
        "order": case["order"],
        "lower_final": case.get("lower_order_final", True),
        "reference": True,
        "prediction": prediction,
    }
    if "variant" in case:
        options["variant"] = case["variant"].removesuffix("_coeff")
        return solvers.unipc, options, levels, teacher(), None
    options["lower_final"] &= case["steps"] < 10
    return solvers.dpmpp, options, levels, teacher(), None


def singlestep_steps(grid, case):
    """Levels, orders and inner nodes of a single-step case."""
    order, evaluations = case["order"], case["steps"]
    fixed = case["method"] == "singlestep_fixed"
    orders = [order] * (evaluations // order) if fixed else plan_orders(evaluations, order)
    if grid[-1] == "logSNR":  # steps of equal length, inner nodes evenly spaced in them
        return vp_levels(*grid, len(orders)), orders, None
    return plan(vp_levels(*grid, sum(orders)), orders=orders)


FAMILIES = {
    "solvers_diffsampler": diffsampler,
    "solvers_kdiffusion": kdiffusion,
    "solvers_edm": edm,
    "solvers_vp_original": vp_original,
}
# all but the adaptive cases, which have no grid: 2 of k-diffusion, 4 of dpm-solver
EXPECTED = {
    "solvers_diffsampler": 554,
    "solvers_kdiffusion": 171,
    "solvers_edm": 39,
    "solvers_vp_original": 408,
}


@functools.cache
def covered(family):
    numbers, make = load(family), FAMILIES[family]
    return [(case, made) for case in numbers.cases if (made := make(numbers, case)) is not None]


def alphas(family, levels):
    """alpha at every level: 1 except for peers working in the VP frame, whose start is z itself."""
    levels = np.asarray(levels)
    return 1 / np.sqrt(1 + levels**2) if family == "solvers_vp_original" else np.ones(len(levels))


def start(family, levels):
    z = load("teacher")["z"]
    return z / alphas(family, levels)[0] if family == "solvers_vp_original" else z * levels[0]


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_textbook_execution(family):
    """Every state, every evaluation level and the number of evaluations."""
    numbers = load(family)
    for case, (solver, options, levels, denoise, first) in covered(family):
        recorded = iter(numbers.get(case, "noise") if "noise" in case["arrays"] else ())
        D, answers = Counted(denoise), [first] if first else []
        requested = lambda y, s, D=D, answers=answers: answers.pop()(y, s) if answers else D(y, s)  # noqa: E731
        stochastic = "noise" in inspect.signature(solver).parameters
        extra = {"noise": lambda recorded=recorded: next(recorded)} if stochastic else {}
        x = start(family, levels)
        states = [x, *solver(requested, x, levels, **extra, **options)]
        if case.get("denoise_to_zero"):
            states.append(D(states[-1], levels[-1]))
            levels = [*levels, 0.0]
        states = [alpha * x for alpha, x in zip(alphas(family, levels), states, strict=True)]
        where = f"{family} {case['id']}"
        tolerance = DEIS_TOLERANCE if solver is solvers.deis else TOLERANCE
        same = functools.partial(np.testing.assert_allclose, err_msg=where, **tolerance)
        assert len(D.levels) == case["nfe"], where
        np.testing.assert_allclose(
            D.levels, numbers.get(case, "eval_sigmas"), rtol=1e-9, err_msg=where
        )
        same(states[-1], numbers.get(case, "final"))
        for name in {"traj", "inter"} & set(case["arrays"]):
            expected = numbers.get(case, name)  # without the start where single-step
            assert len(expected) in (len(states), len(states) - 1), where
            same([x[:4] for x in states[-len(expected) :]], expected)
        for name in {"x_at_eval", "eval_x"} & set(case["arrays"]):
            expected = numbers.get(case, name)
            if len(expected) == len(D.states):
                same([x[:4] for x in D.states], expected)


@pytest.mark.parametrize("every", [3, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("family", FAMILIES)
def test_table_execution(family, every):
    """The same final states and evaluation levels from tables, run by a few padded programs."""
    numbers, cases, denoisers = load(family), covered(family)[::every], {}
    tables = [
        table(solver, levels, first=first, denoise=case.get("denoise_to_zero", False), **options)
        for case, (solver, options, levels, _, first) in cases
    ]
    for (case, (_, _, levels, _, _)), made, padded in zip(cases, tables, pad(tables), strict=True):
        np.testing.assert_allclose(made.nodes, numbers.get(case, "eval_sigmas"), rtol=1e-9)
        given = ("mixture", "conditional", "cfg_scale", "dynamic_thresholding")
        kind = tuple(case.get(name) for name in given)
        D = denoisers.setdefault(kind, jax.tree_util.Partial(in_jax(*kind)))
        noise = numbers.get(case, "noise")[: len(made.draws)] if made.stochastic else None
        run = made if noise is not None else padded
        out = sample(D, run, jnp.asarray(start(family, levels)), noise=noise)
        out = alphas(family, made.levels)[-1] * out
        tolerance = DEIS_TOLERANCE if made.name == "deis" else TOLERANCE
        np.testing.assert_allclose(
            out, numbers.get(case, "final"), **tolerance, err_msg=f"{family} {case['id']}"
        )


def in_jax(mixture, conditional, guidance, thresholded):
    numbers = load("teacher")
    mu, var, classes = (numbers[f"{mixture}/{k}"] for k in ("mu", "var", "class_weights"))
    D = GaussianMixture(classes, mu, var).denoiser
    D = D if guidance is None else classifier_free(D, guidance)
    D = dynamic(D) if thresholded else D
    labels = jnp.asarray(numbers["labels"]) if conditional else None
    return lambda y, s, cond=None: D(y, s, labels)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_case_that_a_solver_covers_is_covered(family):
    load(family, full=True)
    assert len(covered(family)) == EXPECTED[family]


def test_what_fails_in_the_peer_is_right_here():
    """Order 1, which is Euler, and DEIS in the level, which is Adams-Bashforth: diff-sampler raises
    or diverges; here they are finite, Euler exactly, and nearer to the flow than Euler otherwise.
    """
    numbers, z = load("solvers_diffsampler", full=True), load("teacher")["z"]
    solver = {"ipndm": solvers.ipndm, "ipndm_v": solvers.ipndm_v, "deis": solvers.deis}
    end = lambda run, levels, **options: [*run(teacher(), z * levels[0], levels, **options)][-1]  # noqa: E731
    assert len(numbers.failed) == 45
    for case in numbers.failed:
        low, high = case.get("sigma_min", 0.002), case.get("sigma_max", 80.0)
        levels = [
            float(s)
            for s in grids.karras(
                case["num_steps"] - 1, low, high, rho=case.get("schedule_rho", 7), zero=False
            )
        ]
        run = solvers.lms if case.get("deis_mode") == "rhoab" else solver[case["solver"]]
        got = end(run, levels, order=case["max_order"])
        euler = end(solvers.euler, levels)
        if case["max_order"] == 1:
            np.testing.assert_allclose(got, euler, rtol=1e-10, atol=1e-12)
        else:
            fine = [float(s) for s in grids.log_snr(400, low, high, zero=False)]
            flow = end(solvers.heun, fine)
            assert np.abs(got - flow).mean() < np.abs(euler - flow).mean()
