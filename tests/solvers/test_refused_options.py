"""Options of solvers that mean nothing are refused by name, before anything runs."""

import numpy as np
import pytest

import jaxdiff as jd
from jaxdiff.solvers.orders import check_order

LEVELS = [80.0, 5.0, 0.5, 0.0]
MESSAGES = {
    ("dpm2_ancestral", "eta", -1.0): "dpm2_ancestral needs 0 <= eta <= 1, not -1.0",
    ("dpmpp_2s_ancestral", "eta", 1.5): "dpmpp_2s_ancestral needs 0 <= eta <= 1",
    ("sde_dpmpp", "eta", -1.0): "sde_dpmpp needs eta >= 0, not -1.0",
    ("sde_dpmpp_2s", "eta", 2.0): "sde_dpmpp_2s needs 0 <= eta <= 1",
    ("sde_dpmpp_2s", "ratio", 0.0): r"must lie within \(0, 1\); one is 0.0",
    ("sa_solver", "tau", -1.0): "sa_solver needs tau >= 0",
    ("churn", "amount", -1.0): "churn needs an amount of at least 0",
    ("heun", "ratio", 0.0): r"heun needs a ratio within \(0, 1\], not 0.0",
    ("dpm2", "ratio", -1.0): r"must lie within \(0, 1\); one is -1.0",
    ("er_sde", "inflate", float("nan")): "er_sde: inflate is a number, not nan",
    ("er_sde", "inflate", float("inf")): "its weights are not finite",
    ("deis", "high", 0.001): "deis needs 0 < low < high",
    ("deis", "smallest", -1.0): "smallest time within",
    ("epd", "times", -1.0): "at no positive level",
}


@pytest.mark.parametrize("solver, option, value", MESSAGES)
def test_numbers_out_of_range_are_refused_by_name(solver, option, value):
    with pytest.raises(ValueError, match=MESSAGES[solver, option, value]):
        jd.table(getattr(jd.solvers, solver), LEVELS, **{option: value})


@pytest.mark.parametrize("order", [0, 1.5, 2.0, "2", np.int64(0)])
def test_orders_are_whole_numbers(order):
    """1.5 was looked for among all numbers, for ever."""
    with pytest.raises(ValueError, match="deis has orders 1, 2, ..., not"):
        check_order("deis", order, None)
    check_order("deis", np.int64(7), None)  # type: ignore[arg-type]


def test_solvers_without_a_table_say_so():
    for solver in (jd.solvers.genie, jd.solvers.ddpm_learned, jd.solvers.adjusted_ddim):
        with pytest.raises(TypeError, match="jaxdiff.direct runs any"):
            jd.table(solver, LEVELS)
    with pytest.raises(TypeError, match="dpm_v3 needs the option 'statistics'"):
        jd.table(jd.solvers.dpm_v3, LEVELS)
    with pytest.raises(TypeError, match="er_sde: inflate is like 1.0, not 'much'"):
        jd.table(jd.solvers.er_sde, LEVELS, inflate="much")


def test_what_a_solver_calls_its_state_is_its_own_affair():
    def own(model, x, sigmas, noise=None, *, share=1.0):
        for s, r in zip(sigmas, sigmas[1:], strict=False):
            x = x + share * ((r - s) / s) * (x - model(x, s))
            yield x

    made, euler = jd.table(own, LEVELS), jd.table(jd.solvers.euler, LEVELS)
    np.testing.assert_allclose(made.denoised, euler.denoised, atol=1e-12)
    with pytest.raises(TypeError, match="own has no option 'order'; it has: share"):
        jd.table(own, LEVELS, order=2)
