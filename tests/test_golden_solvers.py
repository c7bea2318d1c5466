"""Solvers against the numbers of well-known implementations: states, evaluation levels and counts.

Every case is run in textbook form on NumPy arrays, where each state is compared, and as a table,
where the final state is. Tables are padded to common shapes, so that all of a family's cases
compile a handful of programs.
"""

import functools
import inspect

import jax
import numpy as np
import pytest
from golden_numbers import Counted, load, teacher

from jaxdiff import solvers
from jaxdiff.process import VP, Discrete, level
from jaxdiff.sampling.sample import sample
from jaxdiff.sampling.table import pad
from jaxdiff.sampling.trace import table

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
    first = solvers.unit_first if case["afs"] else None
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
        "sample_euler": (solvers.euler, solvers.churn, {"step": solvers.euler_step}),
        "sample_heun": (solvers.heun, solvers.churn, {"step": solvers.heun_step}),
        "sample_dpm_2": (solvers.dpm2, solvers.churn, {"step": solvers.dpm2_step}),
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


def edm(numbers, case):
    if case["function"] == "edm_sampler":
        solver = solvers.heun
    elif (case["schedule"], case["scaling"]) == ("linear", "none") and "alpha" not in case:
        solver = solvers.heun if case["solver"] == "heun" else solvers.euler
    else:
        return (
            None  # other variables of integration: another method, although it bears the same name
        )
    options = {}
    if case["stochastic"]:
        solver, step = (
            solvers.churn,
            solvers.euler_step if case.get("solver") == "euler" else solvers.heun_step,
        )
        options = {"step": step, "amount": case["S_churn"]}
        edges = {
            "S_min": ("low", 0.0),
            "S_max": ("high", float("inf")),
            "S_noise": ("inflate", 1.0),
        }
        options |= {ours: case.get(theirs, default) for theirs, (ours, default) in edges.items()}
    n = case["num_steps"]
    if case["function"] == "edm_sampler" or case["discretization"] == "edm":
        levels = (80 ** (1 / 7) + np.arange(n) / (n - 1) * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
        levels = np.append(levels, 0.0)
    else:
        used = np.array(numbers.get(case, "eval_sigmas"))
        levels = np.append(used[::2] if solver is not solvers.euler else used, 0.0)
    return (
        solver,
        options,
        levels,
        teacher("mix", load("teacher")["labels"] if case["conditional"] else None),
        None,
    )


@functools.cache
def vp_levels(family, kind, skip, steps):
    """Levels and the signal scales at both ends; the peer's grids are in time or in log SNR."""
    numbers = load(family)
    process = (
        VP() if kind == "linear" else Discrete.from_betas(np.asarray(numbers["betas_discrete"]))
    )
    ends = np.array([1.0, 1e-3])
    if skip == "logSNR":
        levels = np.exp(np.linspace(*np.log(np.asarray(level(process, ends))), steps + 1))
    elif skip == "time_quadratic":
        levels = np.asarray(level(process, np.linspace(1.0, 1e-3**0.5, steps + 1) ** 2))
    else:
        levels = np.asarray(level(process, np.linspace(1.0, 1e-3, steps + 1)))
    return levels, np.asarray(process.alpha(ends))


def vp_original(numbers, case):
    if (
        case.get("method", "multistep") != "multistep"
        or case.get("variant") == "vary_coeff"
        or "solver_type" in case
    ):
        return None
    levels, _ = vp_levels(numbers.name, case["noise_schedule"], case["skip_type"], case["steps"])
    options = {
        "order": case["order"],
        "lower_final": case.get("lower_order_final", True),
        "reference": True,
    }
    if "variant" in case:
        prediction = case["algorithm_type"].removesuffix("_prediction")
        return (
            solvers.unipc,
            options | {"prediction": prediction, "variant": case["variant"]},
            levels,
            teacher(),
            None,
        )
    options["lower_final"] &= case["steps"] < 10
    return (
        solvers.dpmpp,
        options | {"prediction": predicts(case["algorithm_type"] == "dpmsolver++")},
        levels,
        teacher(),
        None,
    )


FAMILIES = {
    "solvers_diffsampler": diffsampler,
    "solvers_kdiffusion": kdiffusion,
    "solvers_edm": edm,
    "solvers_vp_original": vp_original,
}
EXPECTED = {
    "solvers_diffsampler": 554,
    "solvers_kdiffusion": 166,
    "solvers_edm": 23,
    "solvers_vp_original": 264,
}


@functools.cache
def covered(family):
    numbers, make = load(family), FAMILIES[family]
    return [(case, made) for case in numbers.cases if (made := make(numbers, case)) is not None]


def scales(family, case):
    """alpha at the start and at the end: 1 except for peers working in the VP frame, whose start
    is z itself.
    """
    if family != "solvers_vp_original":
        return None
    return vp_levels(family, case["noise_schedule"], case["skip_type"], case["steps"])[1]


def start(family, case, levels):
    z, alpha = load("teacher")["z"], scales(family, case)
    return z * levels[0] if alpha is None else z / alpha[0]


@pytest.mark.parametrize("family", FAMILIES)
def test_textbook_execution(family):
    """Every state, every evaluation level and the number of evaluations."""
    numbers = load(family)
    for case, (solver, options, levels, denoise, first) in covered(family):
        D, noise = (
            Counted(denoise),
            iter(numbers.get(case, "noise") if "noise" in case["arrays"] else ()),
        )
        answers = [first] if first else []
        asked = lambda y, s, D=D, answers=answers: answers.pop()(y, s) if answers else D(y, s)  # noqa: E731
        extra = (
            {"noise": lambda noise=noise: next(noise)}
            if "noise" in inspect.signature(solver).parameters
            else {}
        )
        x = start(family, case, levels)
        states = [x, *solver(asked, x, levels, **extra, **options)]
        if case.get("denoise_to_zero"):
            states.append(D(states[-1] if solver is not solvers.unipc else states[-1], levels[-1]))
        where = f"{family} {case['id']}"
        tolerance = DEIS_TOLERANCE if solver is solvers.deis else TOLERANCE
        assert len(D.levels) == case["nfe"], where
        np.testing.assert_allclose(
            D.levels, numbers.get(case, "eval_sigmas"), rtol=1e-9, err_msg=where
        )
        alpha = scales(family, case)
        if alpha is not None and not case.get("denoise_to_zero"):
            states[-1] = states[-1] * alpha[1]
        np.testing.assert_allclose(
            states[-1], numbers.get(case, "final"), **tolerance, err_msg=where
        )
        if "traj" in case["arrays"]:
            got = np.stack([s[:4] for s in states])
            np.testing.assert_allclose(got, numbers.get(case, "traj"), **tolerance, err_msg=where)
        for name in ("x_at_eval", "eval_x"):
            if name in case["arrays"] and len(numbers.get(case, name)) == len(D.states):
                got = np.stack([s[:4] for s in D.states])
                np.testing.assert_allclose(got, numbers.get(case, name), **tolerance, err_msg=where)


@pytest.mark.parametrize("family", FAMILIES)
def test_table_execution(family):
    """The same final states and evaluation levels from tables, run by a few padded programs."""
    numbers = load(family)
    cases = [
        (c, m)
        for c, m in covered(family)
        if not c.get("denoise_to_zero") and not c.get("dynamic_thresholding")
    ]
    tables = [
        table(solver, levels, first=first, **options)
        for _, (solver, options, levels, _, first) in cases
    ]
    denoisers = {}
    for (case, (_, _, levels, _, _)), made, padded in zip(cases, tables, pad(tables), strict=True):
        np.testing.assert_allclose(made.nodes, numbers.get(case, "eval_sigmas"), rtol=1e-9)
        kind = (case["mixture"], case.get("conditional"), case.get("cfg_scale"))
        D = denoisers.setdefault(kind, jax.tree_util.Partial(in_jax(*kind)))
        noise = numbers.get(case, "noise")[: len(made.draws)] if made.stochastic else None
        run = made if noise is not None else padded
        out = sample(D, run, jax.numpy.asarray(start(family, case, levels)), noise=noise)
        alpha = scales(family, case)
        out = out if alpha is None else out * alpha[1]
        tolerance = DEIS_TOLERANCE if made.name == "deis" else TOLERANCE
        np.testing.assert_allclose(
            out, numbers.get(case, "final"), **tolerance, err_msg=f"{family} {case['id']}"
        )


def in_jax(mixture, conditional, guidance):
    from jaxdiff.conditioning.guidance import classifier_free
    from jaxdiff.exact import GaussianMixture

    numbers = load("teacher")
    mu, var, classes = (numbers[f"{mixture}/{k}"] for k in ("mu", "var", "class_weights"))
    D = GaussianMixture(classes, mu, var).denoiser
    D = D if guidance is None else classifier_free(D, guidance)
    labels = jax.numpy.asarray(numbers["labels"]) if conditional else None
    return lambda y, s, cond=None: D(y, s, labels)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_case_that_a_solver_covers_is_covered(family):
    load(family, full=True)
    assert len(covered(family)) == EXPECTED[family]
