"""Grids against golden schedules, closed forms and each other."""

import numpy as np
import pytest
from golden_numbers import load

from jaxdiff import grids
from jaxdiff.process import VP, RectifiedFlow

MAKERS = [
    grids.karras,
    grids.log_snr,
    grids.poly_exponential,
    grids.vp_time,
    grids.arctan,
]


@pytest.mark.parametrize("maker", MAKERS, ids=lambda maker: maker.__name__)
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_ends_and_number_of_knots(maker, steps):
    for zero in (True, False):
        levels = maker(steps, 0.01, 40.0, zero=zero)
        assert levels.shape == (steps + 1,) and levels.dtype == np.float64
        assert (np.diff(levels) < 0).all() and levels[0] == pytest.approx(40.0)
        if steps > 1 or not zero:
            assert levels[-2 if zero else -1] == pytest.approx(0.01)
        assert (levels[-1] == 0) == zero


def test_golden_schedules():
    numbers = load("solvers_diffsampler")
    for n in (3, 5, 7, 10, 18, 36):
        for name, levels in {
            "polynomial_rho7": grids.karras(n - 1, zero=False),
            "logsnr": grids.log_snr(n - 1, zero=False),
        }.items():
            np.testing.assert_allclose(levels, numbers[f"schedules/{name}/{n}"], rtol=1e-9)


def test_printed_values():
    six = [80, 30.1833, 9.7232, 2.5152, 0.4700, 0.0515, 0.002]
    np.testing.assert_allclose(grids.karras(6, zero=False), six, rtol=0, atol=5.1e-5)
    for rho, expected in (
        (1, [80, 20.9655, 6.9502, 2.8237, 1.2867, 0.5272, 0.002]),
        (2, [80, 8.6725, 2.3043, 0.9263, 0.3843, 0.1098, 0.002]),
    ):
        np.testing.assert_allclose(
            grids.vp_time(6, rho=rho, zero=False), expected, rtol=0, atol=5.1e-5
        )


def test_grids_that_are_one():
    log_snr = grids.log_snr(8, zero=False)
    np.testing.assert_allclose(grids.poly_exponential(8, zero=False), log_snr, rtol=1e-12)
    np.testing.assert_allclose(grids.karras(8, rho=1e7, zero=False), log_snr, rtol=1e-5)
    vp = VP()
    low, high = (float(vp.sigma(t) / vp.alpha(t)) for t in (1e-3, 1.0))
    uniform = grids.of_process(vp, 8, zero=False)
    np.testing.assert_allclose(grids.vp_time(8, low, high, zero=False), uniform, rtol=1e-9)


def test_grids_of_processes():
    times = np.array([0.8, 0.6, 0.4, 0.2])
    levels = grids.of_process(RectifiedFlow(), 4, start=0.8, end=0.2)
    np.testing.assert_allclose(levels, [*times / (1 - times), 0.0], rtol=1e-12)
    quadratic = grids.of_process(VP(), 2, start=0.81, end=0.01, rho=2.0, zero=False)
    assert quadratic[1] == pytest.approx(float(VP().sigma(0.25) / VP().alpha(0.25)))
    with pytest.raises(ValueError, match="not finite; start a little earlier"):
        grids.of_process(RectifiedFlow(), 4)


def test_resampling_and_snapping():
    for levels in (grids.log_snr(6), grids.log_snr(6, zero=False)):
        zero = levels[-1] == 0
        np.testing.assert_allclose(grids.resample(levels, 6), levels, rtol=1e-12)
        more = grids.log_snr(11, levels[-2 if zero else -1], levels[0], zero=bool(zero))
        np.testing.assert_allclose(grids.resample(levels, 11), more, rtol=1e-12)
    allowed = np.array([0.1, 1.0, 10.0])
    np.testing.assert_array_equal(grids.snap([9.0, 2.0, 0.9, 0.12, 0.0], allowed), [10, 1, 0.1, 0])


def test_errors():
    with pytest.raises(ValueError, match="at least 1"):
        grids.karras(0)
    with pytest.raises(ValueError, match="whole number"):
        grids.karras(2.5)
    with pytest.raises(ValueError, match="0 < low < high"):
        grids.log_snr(3, 2.0, 1.0)
