"""Grids against golden schedules, closed forms and each other."""

import itertools

import numpy as np
import pytest
from helpers.golden_numbers import load

from jaxdiff import grids
from jaxdiff.process import (
    VP,
    Cosine,
    Discrete,
    RectifiedFlow,
    level,
    linear_betas,
    scaled_linear_betas,
    zero_terminal_snr,
)

MAKERS = [
    grids.karras,
    grids.log_snr,
    grids.poly_exponential,
    grids.vp_time,
    grids.arctan,
    grids.cosine,
    grids.exponential,
]
STABLE_DIFFUSION = Discrete.from_betas(scaled_linear_betas(1000))
PROCESSES = {"sd": STABLE_DIFFUSION, "ddpm": Discrete.from_betas(linear_betas(1000))}


@pytest.mark.parametrize("maker", MAKERS, ids=lambda maker: maker.__name__)
def test_ends_and_number_of_knots(maker):
    for num_steps, zero in itertools.product(range(1, 51), (True, False)):
        levels = maker(num_steps, 0.01, 40.0, zero=zero)
        assert levels.shape == (num_steps + 1,) and levels.dtype == np.float64
        assert (np.diff(levels) < 0).all() and levels[0] == pytest.approx(40.0)
        if num_steps > 1 or not zero:
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


PROCESS_GRIDS = [
    lambda n, zero: grids.of_process(VP(), n, zero=zero),
    lambda n, zero: grids.of_process(Cosine(), n, start=0.999, rho=2.0, zero=zero),
    lambda n, zero: grids.beta(VP(), n, zero=zero),
    lambda n, zero: grids.beta(RectifiedFlow(), n, 0.8, 1.3, start=0.999, zero=zero),
    lambda n, zero: grids.flow(n, zero=zero),
    lambda n, zero: grids.flow(n, shift=3.0, end=0.002, zero=zero),
]


@pytest.mark.parametrize("maker", PROCESS_GRIDS)
@pytest.mark.parametrize("num_steps", [1, 2, 3, 10, 50])
def test_grids_in_time_decrease(maker, num_steps):
    for zero in (True, False):
        levels = maker(num_steps, zero)
        assert levels.shape == (num_steps + 1,) and levels.dtype == np.float64
        assert (np.diff(levels) < 0).all() and (levels[-1] == 0) == zero


@pytest.mark.parametrize("spacing", ["leading", "linspace", "trailing"])
def test_timesteps_decrease(spacing):
    for num_steps in range(1 if spacing == "trailing" else 2, 51):
        chosen = grids.timesteps(num_steps, spacing)
        assert chosen.shape == (num_steps,) and chosen.dtype == np.int64
        assert (np.diff(chosen) < 0).all() and 0 <= chosen[-1] and chosen[0] <= 999
        assert grids.of_timesteps(STABLE_DIFFUSION, chosen).shape == (num_steps + 1,)


def test_timesteps_of_the_paper():
    """Table 2 of 2305.08891, whose timesteps count from 1."""
    expected = {
        "leading": [901, 801, 701, 601, 501, 401, 301, 201, 101, 1],
        "linspace": [1000, 889, 778, 667, 556, 445, 334, 223, 112, 1],
        "trailing": [1000, 900, 800, 700, 600, 500, 400, 300, 200, 100],
    }
    for spacing, printed in expected.items():
        np.testing.assert_array_equal(grids.timesteps(10, spacing) + 1, printed)


def test_levels_of_timesteps():
    betas = linear_betas(1000)
    products = np.cumprod(1 - betas)
    process = Discrete(products)
    levels = grids.of_timesteps(process, [999, 500, 0])
    chosen = products[[999, 500, 0]]
    np.testing.assert_allclose(levels, [*np.sqrt((1 - chosen) / chosen), 0.0], rtol=1e-12)
    assert grids.of_timesteps(process, [500, 0], zero=False).shape == (2,)
    ending = Discrete(zero_terminal_snr(products))
    assert grids.of_timesteps(ending, [999, 500], largest=1e3)[0] == 1e3
    with pytest.raises(ValueError, match="not finite"):
        grids.of_timesteps(ending, [999, 500])
    with pytest.raises(ValueError, match="0 to 999"):
        grids.of_timesteps(process, [1000, 500])
    with pytest.raises(ValueError, match="strictly decrease"):
        grids.of_timesteps(process, [500, 500])


def timestep_grids(numbers):
    """Golden levels of a scheduler beside ours: (its number of steps, its levels, ours)."""
    for case in numbers.cases:
        config, n = case["config"], case["num_inference_steps"]
        multistep = case["scheduler"] in ("DPMSolverMultistepScheduler", "UniPCMultistepScheduler")
        if "sched_sigmas" not in case["arrays"] or not multistep:
            continue
        process = PROCESSES[case["betas"]]
        high, low = grids.of_timesteps(process, [999, 0], zero=False)
        if config.get("use_karras_sigmas"):
            ours = grids.karras(n, low, high)
        elif config.get("use_lu_lambdas"):
            ours = grids.exponential(n, low, high)
        else:
            spacing = config.get("timestep_spacing", "linspace")
            every = grids.timesteps(n + 1, spacing)
            zero = config.get("final_sigmas_type", "zero") == "zero"
            chosen = every[:-1] if zero else [*every[:-1], 0]
            ours = grids.of_timesteps(process, chosen, zero=zero)
        yield case, np.asarray(numbers.get(case, "sched_sigmas")), ours


def test_golden_timesteps():
    """Grids of the schedulers that take integer timesteps, Karras and log-linear levels."""
    numbers, count = load("solvers_diffusers"), 0
    for case, theirs, ours in timestep_grids(numbers):
        count += 1
        np.testing.assert_allclose(ours, theirs, rtol=1e-9, err_msg=case["id"])
    assert count > 0
    for case in numbers.cases:
        if case["scheduler"] in ("DDIMScheduler", "DDPMScheduler", "PNDMScheduler"):
            config, n = case["config"], case["num_inference_steps"]
            theirs = list(dict.fromkeys(np.asarray(numbers.get(case, "timesteps")).tolist()))
            spacing = config.get("timestep_spacing", "leading")
            ours = grids.timesteps(n, spacing, offset=config.get("steps_offset", 0))
            theirs = [k for k in theirs if k in ours]  # PNDM also evaluates between them
            np.testing.assert_array_equal(ours, theirs, err_msg=case["id"])


def test_flow_grids():
    np.testing.assert_allclose(
        grids.flow(4, start=0.8), [4.0, 0.6 / 0.4, 0.4 / 0.6, 0.25, 0.0], rtol=1e-12
    )
    plain, shifted = grids.flow(5), grids.flow(5, shift=3.0)
    tau = plain / (1 + plain)
    np.testing.assert_allclose(shifted / (1 + shifted), 3 * tau / (1 + 2 * tau), rtol=1e-12)
    np.testing.assert_allclose(grids.shift(plain, 3.0), shifted, rtol=1e-12)
    mu, power = 0.7, 1.5
    dynamic = np.exp(mu) / (np.exp(mu) + (1 / tau[:-1] - 1) ** power)
    ours = grids.flow(5, shift=np.exp(mu), power=power)[:-1]
    np.testing.assert_allclose(ours / (1 + ours), dynamic, rtol=1e-12)
    assert grids.resolution_shift(4096) == pytest.approx(np.exp(1.15))
    assert grids.resolution_shift(256) == pytest.approx(np.exp(0.5))
    for num_steps, factor in ((4, 1.0), (6, 3.0)):
        end = factor * 1e-3 / (1 + (factor - 1) * 1e-3)
        ours = grids.flow(num_steps, shift=factor, start=1 - 1e-12, end=end)
        numbers = load("solvers_diffusers")
        for case in numbers.cases:
            own = case["scheduler"] == "FlowMatchEulerDiscreteScheduler"
            if own and (case["num_inference_steps"], case["config"]["shift"]) == (
                num_steps,
                factor,
            ):
                theirs = numbers.get(case, "sched_sigmas")
                np.testing.assert_allclose(ours / (1 + ours), theirs, rtol=1e-6)


def test_beta_grids():
    """Quantiles: a grid of n steps has the times that split Beta(a, b) into n equal parts."""
    from scipy.stats import beta

    levels = grids.beta(RectifiedFlow(), 8, 0.6, 0.6, start=0.9, end=0.1, zero=False)
    tau = levels / (1 + levels)
    np.testing.assert_allclose(
        beta(0.6, 0.6).cdf((tau - 0.1) / 0.8), np.linspace(1, 0, 9), atol=1e-9
    )
    uniform = grids.of_process(VP(), 6)
    np.testing.assert_allclose(grids.beta(VP(), 6, 1.0, 1.0), uniform, rtol=1e-9)
    with pytest.raises(ValueError, match="a, b > 0"):
        grids.beta(VP(), 3, 0.0)


def test_cosine_is_uniform_in_the_time_of_its_process():
    process = Cosine(offset=0.0)
    low, high = (float(level(process, t)) for t in (0.01, 0.99))
    ours = grids.cosine(7, low, high, zero=False)
    theirs = grids.of_process(process, 7, start=0.99, end=0.01, zero=False)
    np.testing.assert_allclose(ours, theirs, rtol=1e-9)


PUBLISHED = {
    name: getattr(grids, name) for name in dir(grids) if name.startswith(("AYS_", "GITS_"))
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_lists(name):
    levels = grids.from_list(PUBLISHED[name])
    np.testing.assert_allclose(grids.resample(levels, len(levels) - 1), levels, rtol=1e-12)
    ending = grids.end_in_zero(levels)
    assert ending[-1] == 0 and (ending[:-1] == levels[:-1]).all() and levels[-1] > 0
    for num_steps in range(1, 51):
        more = grids.resample(levels, num_steps)
        assert (np.diff(more) < 0).all() and more.shape == (num_steps + 1,)
        assert more[0] == pytest.approx(levels[0]) and more[-1] == pytest.approx(levels[-1])


def test_published_lists_against_their_models():
    """Levels of the published timesteps in the model's process; a subset of a 60-step grid."""
    chosen = [999, 850, 736, 645, 545, 455, 343, 233, 124, 24, 0]
    ours = grids.of_timesteps(STABLE_DIFFUSION, chosen, zero=False)
    np.testing.assert_allclose(ours, grids.AYS_SD15, rtol=0.02)
    fine = grids.karras(60, zero=False)[[0, 19, 27, 33, 39, 45, 60]]
    np.testing.assert_allclose(fine, grids.GITS_CIFAR10, atol=5.1e-5)


REFUSED = {
    "not below the next": [
        lambda: grids.of_process(VP(), 3, end=2.0),
        lambda: grids.beta(VP(), 30, 1e-3, 1e-3),
        lambda: grids.flow(4, end=0.9995),
        lambda: grids.flow(4, end=0.0),
        lambda: grids.karras(3, rho=1e20),
        lambda: grids.log_snr(9, 1.0, 1.0 + 1e-15),
        lambda: grids.poly_exponential(3, rho=500.0),
        lambda: grids.vp_time(3, 5.0, 5.001, smallest=0.9),
        lambda: grids.resample([1.0, 2.0, 3.0], 4),
        lambda: grids.of_process(VP(), 3, start=2.0),
        lambda: grids.beta(VP(), 3, start=2.0),
        lambda: grids.beta(VP(), 1, end=-1.0),
        lambda: grids.flow(1, end=-1.0),
        lambda: grids.flow(1, end=0.9995),
        lambda: grids.snap([1.0, 2.0, 3.0], np.array([1.0, 2.0])),
    ],
    "are a list": [lambda: grids.of_timesteps(STABLE_DIFFUSION, np.array([[999, 0]]))],
    "at least two": [lambda: grids.snap([3.0, 2.9], np.array([3.0]))],
    "positive": [
        lambda: grids.of_process(VP(), 3, end=-1.0),
        lambda: grids.of_process(VP(), 3, rho=0.0),
        lambda: grids.karras(3, rho=0.0),
        lambda: grids.arctan(3, scale=-1.0),
        lambda: grids.snap([3.0, 2.0], np.array([0.0, 1.0])),
        lambda: grids.resolution_shift(-4),
    ],
    "between 0 and 1": [lambda: grids.vp_time(3, smallest=1.0)],
    "whole number": [lambda: grids.karras(-3), lambda: grids.timesteps(-4)],
}


@pytest.mark.parametrize("words", REFUSED)
def test_every_maker_checks_its_own_result(words):
    for make in REFUSED[words]:
        with pytest.raises(ValueError, match=words.replace("not below the next", "decrease")):
            make()


def test_errors():
    with pytest.raises(ValueError, match="at least 1"):
        grids.karras(0)
    with pytest.raises(ValueError, match="whole number"):
        grids.karras(2.5)
    with pytest.raises(ValueError, match="0 < low < high"):
        grids.log_snr(3, 2.0, 1.0)
    for wrong, message in (
        ([1.0], "at least two"),
        ([1.0, np.inf], "finite"),
        ([2.0, 1.0, -1.0], "not negative"),
        ([3.0, 1.0, 1.0], r"levels\[1\] = 1.0"),
        ([2.0, 0.0, 0.0], "strictly decrease"),
    ):
        with pytest.raises(ValueError, match=message):
            grids.from_list(wrong)
    for spacing in ("linspace", "leading"):  # timestep 0 it would be, free of noise
        with pytest.raises(ValueError, match="'trailing' is timestep 999"):
            grids.timesteps(1, spacing)
    for options in ({"start": 1.0}, {"shift": 0.0}):
        with pytest.raises(ValueError):
            grids.flow(3, **options)
    with pytest.raises(ValueError, match="do not fit"):
        grids.timesteps(11, num_timesteps=10)
    with pytest.raises(ValueError, match="beyond 999"):
        grids.timesteps(4, "trailing", offset=1)
    with pytest.raises(ValueError, match="spacing is"):
        grids.timesteps(4, "uniform")
