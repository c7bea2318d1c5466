"""The executor of experiments/running_a_table.md, run as it stands there, against ours."""

import json
import pathlib
import re

import jax.numpy as jnp
import numpy as np
import pytest
from helpers.every_solver import name

from jaxdiff import grids, solvers
from jaxdiff.exact import GaussianMixture
from jaxdiff.sampling.sample import sample, trajectory
from jaxdiff.sampling.trace import table

PAGE = (pathlib.Path(__file__).parents[2] / "experiments" / "running_a_table.md").read_text()
(CODE,) = re.findall(r"```python\n(.*?)```", PAGE, re.S)
DETERMINISTIC = [
    (solvers.euler, {}),
    (solvers.heun, {}),
    (solvers.ipndm, {"order": 4}),
    (solvers.unipc, {"order": 3}),
    (solvers.dpm_solver, {"order": 3, "variant": "taylor", "ratios": (0.25, 2 / 3)}),
    (solvers.edict, {}),
    (solvers.bdia, {"gamma": 0.8, "frame": "ve"}),
]
STOCHASTIC = [
    (solvers.ddim, {"eta": 0.5}),
    (solvers.churn, {"amount": 10.0}),
    (solvers.dpmpp_2s_ancestral, {}),
    (solvers.sde_dpmpp, {"order": 3, "eta": 0.5}),
    (solvers.sde_dpmpp_2s, {}),
    (solvers.sa_solver, {"predictor": 2, "corrector": 2}),
    (solvers.restart, {"intervals": [(0.3, 2.0, 2, 2)]}),
    (solvers.predictor_corrector, {"predictor": "none", "corrector_steps": 2}),
]


def executor(code=CODE):
    names = {}
    exec(code, names)
    return names["run"]


@pytest.fixture(scope="module")
def mixture():
    means = np.array([[-1.0, 0.5], [1.0, 0.0], [0.2, -1.2]])
    return GaussianMixture(np.array([0.5, 0.3, 0.2]), means, np.full((3, 2), 0.05))


@pytest.fixture
def D(mixture):
    return lambda y, s: np.asarray(mixture.denoise(jnp.asarray(y), s))


START = np.random.default_rng(1).normal(size=(4, 2)) * 20.0
LEVELS = grids.karras(5, 0.05, 20.0)


def close(a, b):
    np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize(("solver", "options"), DETERMINISTIC, ids=name)
def test_deterministic_tables(tmp_path, mixture, D, solver, options):
    made, path = table(solver, LEVELS, **options), tmp_path / "sampler.json"
    made.save(path)
    close(executor()(path, D, START), sample(mixture.denoiser, made, jnp.asarray(START)))


@pytest.mark.parametrize(("solver", "options"), STOCHASTIC, ids=name)
def test_stochastic_tables_with_recorded_noise(tmp_path, mixture, D, solver, options):
    made, path = table(solver, LEVELS, **options), tmp_path / "sampler.json"
    made.save(path)
    noise = np.random.default_rng(2).normal(size=(len(made.draws), *START.shape))
    expected = sample(mixture.denoiser, made, jnp.asarray(START), noise=jnp.asarray(noise))
    close(executor()(path, D, START, noise), expected)
    assert np.abs(executor()(path, D, START, noise[::-1]) - expected).max() > 1e-3


def test_noise_of_its_own_is_standard_normal_and_enters_slot_by_slot(tmp_path, mixture, D):
    made, path = table(solvers.predictor_corrector, LEVELS), tmp_path / "sampler.json"
    made.save(path)
    count = (made.nodes.shape[0] + 1) * made.slots
    assert count > len(made.draws)  # some slots are never drawn
    np.random.seed(3)
    fresh = np.random.standard_normal((count, *START.shape))
    np.random.seed(3)
    found = executor()(path, D, START)
    expected = sample(mixture.denoiser, made, jnp.asarray(START), noise=fresh[list(made.draws)])
    close(found, expected)


def test_a_map_between_two_levels_has_its_targets_as_labels(tmp_path):
    made, path = table(solvers.jump, LEVELS), tmp_path / "sampler.json"
    made.save(path)
    assert "targets" in json.loads(path.read_text())

    def jumping(y, s, cond=None, *, target):
        return jnp.tanh(y) * (1.0 + target / (s + 1.0))

    run = executor()
    found = run(path, lambda y, s, r: np.asarray(jumping(jnp.asarray(y), s, target=r)), START)
    close(found, sample(jumping, made, jnp.asarray(START)))


def test_an_analytic_first_step_and_a_last_denoising_need_nothing_else(tmp_path, mixture, D):
    options = {"first": solvers.steps.unit_first, "denoise": True}
    made, path = table(solvers.dpmpp, LEVELS[:-1], **options), tmp_path / "sampler.json"
    made.save(path)
    close(executor()(path, D, START), sample(mixture.denoiser, made, jnp.asarray(START)))


@pytest.mark.parametrize("solver", [solvers.unipc, solvers.heun])
def test_accepted_rows_are_the_trajectory(tmp_path, mixture, D, solver):
    made, path = table(solver, LEVELS), tmp_path / "sampler.json"
    made.save(path)
    whole = executor(CODE.replace("return state", 'return past["states"][-2::-1]'))
    states, text = whole(path, D, START), json.loads(path.read_text())
    expected = trajectory(mixture.denoiser, made, jnp.asarray(START)).states
    close(np.stack([states[i] for i in text["accepted"]]), expected[1:])
    assert len(states) == np.prod(text["shapes"]["states"][:2])


def test_the_block_is_short_and_plain():
    lines = CODE.strip().splitlines()
    assert len(lines) <= 30
    assert max(map(len, lines)) <= 100
    assert re.findall(r"import (\w+)", CODE) == ["json", "numpy"]


def test_the_page_names_every_field():
    fields = re.findall(r"^\| `(\w+)` \|", PAGE, re.M)
    made = table(solvers.jump, LEVELS).with_metadata(model="any")
    assert sorted(fields) == sorted(made.to_dict())
