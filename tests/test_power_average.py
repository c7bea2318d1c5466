"""Power-function averages: closed forms, and golden numbers of EDM2's own functions."""

import numpy as np
import pytest
from helpers.diffusers_cases import family

from jaxdiff import power_average
from jaxdiff.training import ema


@pytest.fixture
def golden():
    cases, arrays = family("networks_edm2_io")

    def case(what):
        found = next(c for c in cases if c["what"].startswith(what))
        return {a: arrays[f"{found['id']}/{a}"] for a in found["arrays"]}

    return case


@pytest.mark.parametrize("width", [0.01, 0.05, 0.1, 0.25])
def test_widths_are_standard_deviations(width):
    """Of the profile itself, by a fine sum; and exponents go back and forth."""
    t = (np.arange(200_000) + 0.5) / 200_000
    weights = power_average.profile(t, 1.0, width)
    mean = np.sum(weights * t)
    assert np.isclose(np.sqrt(np.sum(weights * (t - mean) ** 2)), width, rtol=1e-6)
    assert np.isclose(power_average.width(power_average.exponent(width)), width, rtol=1e-9)


def test_tracking_gives_the_profile():
    """Averages by the decay of training, of parameters that are 1 at one update and 0 at others."""
    for width in (0.05, 0.2):
        path, average = np.eye(200), np.zeros(200)
        for n, p in enumerate(path):
            kept = power_average.decay(width, n + 1, 1)
            assert np.isclose(kept, ema.power(power_average.exponent(width))(np.asarray(n)))
            average = kept * average + (1 - kept) * p
        profile = power_average.profile(np.arange(1, 201), 200, width)
        assert np.abs(average - profile).max() < 0.02 * profile.max()


def test_an_average_that_was_stored_is_itself():
    times, widths = [100, 100, 200, 200], [0.05, 0.1, 0.05, 0.1]
    for i, (time, width) in enumerate(zip(times, widths, strict=True)):
        made = power_average.coefficients(times, widths, time, width)
        np.testing.assert_allclose(made, np.eye(4)[i], atol=1e-9)


def test_golden_profiles(golden):
    case = golden("exp/std")
    made = [power_average.exponent(w) for w in case["std"]]
    np.testing.assert_allclose(made, case["exp_of_std"], rtol=1e-12)
    made = [power_average.width(e) for e in case["exp"]]
    np.testing.assert_allclose(made, case["std_of_exp"], rtol=1e-12)
    case = golden("power_function_response")
    for i, (last, width) in enumerate(zip(case["ofs"], case["std"], strict=True)):
        made = power_average.profile(np.arange(101), last, width)
        np.testing.assert_allclose(made, case["response"][:, i], atol=1e-15)
    case = golden("power_function_beta")
    for width, beta in zip(case["std"], case["beta"], strict=True):
        made = power_average.decay(width, case["t_next"], case["t_delta"])
        np.testing.assert_allclose(made, beta, rtol=1e-12)


def test_golden_coefficients(golden):
    case = golden("solve_posthoc")
    made = power_average.coefficients(
        case["in_ofs"], case["in_std"], case["out_ofs"][0], case["out_std"]
    )
    np.testing.assert_allclose(made, case["coefs"], atol=1e-12)
    case = golden("EMA tracking")
    times, stored = case["snap_nimg"], case["snapshots"]
    made = power_average.coefficients(times, case["snap_std"], times.max(), case["out_std"])
    np.testing.assert_allclose(made.T @ stored, case["reconstructed"], atol=1e-12)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: power_average.exponent(0.3), "width lies in"),
        (lambda: power_average.width(-1.0), "not negative"),
        (lambda: power_average.coefficients([1, 1], [0.1, 0.1], 2, 0.2), "the same time and width"),
        (lambda: power_average.coefficients([0, 1], [0.1, 0.1], 2, 0.2), "positive"),
    ],
)
def test_what_makes_no_sense_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
