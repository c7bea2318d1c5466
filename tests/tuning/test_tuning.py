"""Tuning: objectives, the method, the harness with its held-out choice, and every tuner by name."""

import dataclasses
import functools
import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxdiff import grids, metrics, solvers, tuning
from jaxdiff.app import config as configs
from jaxdiff.app import tune as tuned
from jaxdiff.app import tune_tasks
from jaxdiff.exact import GaussianMixture
from jaxdiff.noise import start_noise
from jaxdiff.recipes.tuning import TUNERS, kernel, samplewise, schedules, weights
from jaxdiff.recipes.tuning import intermediate as intermediate
from jaxdiff.recipes.tuning import task as tasks
from jaxdiff.recipes.tuning.solve import Result, check, solve
from jaxdiff.sampling.pairs import pair_batches
from jaxdiff.sampling.sample import sample, trajectory
from jaxdiff.sampling.table import load_table
from jaxdiff.sampling.trace import table
from jaxdiff.training.loop import fit
from jaxdiff.training.step import due
from jaxdiff.training.tune import Tuned, held_out, tune
from jaxdiff.tuning.baselines import Baseline, baselines, steps_for
from jaxdiff.tuning.learned.bespoke import (
    bespoke_tuning,
    of_bespoke,
    plain_bespoke,
    step_errors,
    with_intermediate_levels,
)
from jaxdiff.tuning.learned.family import concrete
from jaxdiff.tuning.learned.levels import moving
from jaxdiff.tuning.learned.method import Turns
from jaxdiff.tuning.learned.objective import mmd2
from jaxdiff.tuning.learned.path import Path

MIXTURE = GaussianMixture([0.3, 0.7], [[-1.0, 0.0], [1.0, 0.5]], [0.02, 0.05])
D = MIXTURE.denoiser
GRID = grids.karras(3, 0.05)
START = table(solvers.ipndm, GRID, order=2)
FINE = table(solvers.unipc, grids.log_snr(60))
KEY = jax.random.key(0)


@functools.cache
def pairs(number, count=64):
    start = 80.0 * start_noise(jax.random.key(number), count, (2,), jnp.float64)
    return {"start": np.asarray(start), "image": np.asarray(sample(D, FINE, start))}


def paths(count=16):
    """Pairs with their trajectories, batch first."""
    own = {k: v[:count] for k, v in pairs(0).items()}
    path = tuning.follow(D, FINE, jnp.asarray(own["start"]))
    first = lambda x: np.moveaxis(np.asarray(x), 1, 0)  # noqa: E731
    levels = np.tile(np.asarray(path.levels), (count, 1))
    return own | {"states": first(path.states), "denoised": first(path.denoised), "levels": levels}


def family():
    return tuning.of_weights(tuning.of_grid(solvers.ipndm, GRID, order=2))


def method(made=None, **options):
    options = {"optimiser": optax.adam(0.02)} | options
    return tuning.tuning(D, made or family(), tuning.end_point(), **options)


def batches(size=32):
    return pair_batches(tasks.numbered(pairs(0)), size)


SCORE = held_out(D, pairs(1))
QUIET = {"progress": False}
FEW = functools.partial(baselines, first=[False], lows=[1.0])


# Teacher trajectories


@pytest.mark.slow
def test_a_path_is_followed_between_its_levels():
    start = jnp.asarray(pairs(0)["start"][:4])
    path = tuning.follow(D, FINE, start)
    np.testing.assert_allclose(path.end, pairs(0)["image"][:4], atol=1e-10)
    np.testing.assert_allclose(path.at(path.levels[7]), path.states[7], rtol=1e-12)
    np.testing.assert_allclose(path.denoised[5], D(path.states[5], path.levels[5]), rtol=1e-12)
    finer = tuning.follow(D, table(solvers.unipc, grids.log_snr(119)), start)  # halves the gaps
    np.testing.assert_allclose(path.at(finer.levels[41]), finer.states[41], atol=2e-3)
    at = lambda s: jnp.sum(path.at(s))  # noqa: E731
    slope = (at(1.0 + 1e-6) - at(1.0 - 1e-6)) / 2e-6
    assert jax.grad(at)(jnp.asarray(1.0)) == pytest.approx(float(slope), rel=1e-6)
    with pytest.raises(ValueError, match="draws noise"):
        tuning.follow(D, table(solvers.ddim, GRID, eta=1.0), start)


# Objectives


def test_the_end_point_is_a_mean_distance():
    batch = {k: jnp.asarray(v) for k, v in pairs(0).items()}
    found = tuning.end_point()(D, START, batch, KEY)
    made = sample(D, START, batch["start"])
    assert found == pytest.approx(float(np.mean((made - batch["image"]) ** 2)))
    assert SCORE(FINE) < 1e-10 < SCORE(START)
    made = sample(D, START, jnp.asarray(pairs(1)["start"]))
    assert SCORE(START) == pytest.approx(np.sqrt(np.mean((made - pairs(1)["image"]) ** 2)))


@pytest.mark.slow
def test_every_state_is_compared_at_its_level():
    batch = {k: jnp.asarray(v) for k, v in paths().items()}
    objective = tuning.every_state(sigma_data=0.5)
    found = trajectory(D, START, batch["start"])
    path = tuning.follow(D, FINE, batch["start"])
    own = [
        0.25 / (0.25 + s**2) * np.mean((y - path.at(s)) ** 2)
        for y, s in zip(found.states[1:-1], found.levels[1:-1], strict=True)
    ]
    own.append(np.mean((found.states[-1] - batch["image"]) ** 2))
    assert objective(D, START, batch, KEY) == pytest.approx(float(np.mean(own)), rel=1e-9)
    assert objective(D, FINE, batch, KEY) < 1e-12
    assert objective(D, START, batch, KEY) > 1e-3
    levels = jnp.asarray(np.append(grids.log_snr(5, 0.05, zero=False)[1:], 0.0))
    moved = lambda u: objective(D, table(solvers.euler, [80.0, *(levels[:4] * u), 0.0]), batch, KEY)  # noqa: E731
    difference = (moved(1 + 1e-5) - moved(1 - 1e-5)) / 2e-5
    assert jax.grad(moved)(1.0) == pytest.approx(float(difference), rel=1e-5)


@pytest.mark.slow
def test_the_kernel_distance_is_that_of_the_metrics(rng):
    x, y = rng.normal(size=(20, 3)), 0.5 + rng.normal(size=(30, 3))
    assert mmd2(jnp.asarray(x), jnp.asarray(y)) == pytest.approx(metrics.mmd2(x, y), rel=1e-10)
    objective = tuning.kernel_distance(lambda x: x)
    batch = {"start": jnp.asarray(pairs(0)["start"]), "index": jnp.arange(64),
             "reference": jnp.asarray(y[:, :2])}  # fmt: skip
    made = table(solvers.ddim, GRID, eta=1.0)
    samples = sample(D, made, batch["start"], key=KEY)
    expected = metrics.mmd2(np.asarray(samples), y[:, :2])
    assert objective(D, made, batch, KEY) == pytest.approx(expected, rel=1e-9)
    with pytest.raises(ValueError, match="two samples and two data; got 1"):
        objective(D, made, batch | {"reference": batch["reference"][:1]}, KEY)


# The method


@pytest.mark.slow
def test_numbers_are_tuned_in_turn():
    turns = Turns((("levels",), ("denoised", "start")), 2)
    each = {"levels": optax.sgd(1e-3), "denoised": optax.sgd(1e-2)}
    made = method(turns=turns, optimiser=each)
    assert [due(made, n) for n in range(5)] == [("levels",)] * 2 + [("denoised",)] * 2 + [
        ("levels",)
    ]
    first, second = (fit(made, batches(), num_updates=n, **QUIET).params for n in (2, 4))
    assert np.abs(first["levels"]["levels"] - family().init["levels"]).max() > 0
    assert not any(np.any(first["denoised"][name]) for name in ("denoised", "start"))
    np.testing.assert_array_equal(second["levels"]["levels"], first["levels"]["levels"])
    assert all(np.any(second["denoised"][name]) for name in ("denoised", "start"))
    with pytest.raises(ValueError, match=r"optimisers are for \['levels'\]"):
        method(turns=turns, optimiser={"levels": optax.sgd(1.0)})
    with pytest.raises(ValueError, match="the turns are"):
        method(turns=Turns((("levels",), ("levels", "start")), 2))
    with pytest.raises(ValueError, match="nothing to tune"):
        method(tuning.Family({}, lambda numbers: START))


# The harness


def test_tuning_improves_on_held_out_starts(tmp_path):
    found = tune(method(), batches(), SCORE, START, num_updates=150, folder=tmp_path, **QUIET)
    assert found.before == SCORE(START) and found.score < found.before / 2
    assert SCORE(found.table) == found.score
    metadata = load_table(tmp_path / "table.json").metadata
    known = {"updates": 150, "held_out": found.score, "before": found.before, "step": found.step}
    assert known.items() <= metadata.items() and metadata["finished"]
    again = tune(method(), batches(), SCORE, START, num_updates=150, folder=tmp_path, **QUIET)
    assert again.score == found.score and again.step == found.step
    for change, wrong in (
        ("updates", {"num_updates": 151}),
        ("guidance", {"metadata": {"guidance": 2}}),
    ):
        with pytest.raises(ValueError, match=f"tuned otherwise .{change}: .* there, .* here"):
            tune(
                method(), batches(), SCORE, START,
                **({"num_updates": 150, "folder": tmp_path, **wrong} | QUIET),
            )  # fmt: skip


@pytest.mark.slow
def test_another_model_in_the_folder_is_refused(tmp_path):
    def of(scale):
        model = jax.tree_util.Partial(lambda k, y, s, c=None: k * D(y, s), jnp.asarray(scale))
        return tuning.tuning(model, family(), tuning.end_point(), optimiser=optax.sgd(1e-3))

    tune(of(1.0), batches(), SCORE, START, num_updates=2, folder=tmp_path, **QUIET)
    with pytest.raises(ValueError, match="tuned otherwise .frozen"):
        tune(of(0.9), batches(), SCORE, START, num_updates=2, folder=tmp_path, **QUIET)


def test_a_tuned_table_can_be_the_start(tmp_path):
    """Its own history is not taken for that of the new run."""
    first = tune(
        method(),
        batches(),
        SCORE,
        START,
        num_updates=4,
        every=2,
        metadata={"model": "old"},
        **QUIET,
    )
    again = tuning.of_weights(first.table)
    found = tune(
        method(again), batches(), SCORE, first.table, num_updates=60, folder=tmp_path,
        metadata={"guidance": None}, **QUIET,
    )  # fmt: skip
    assert found.score < found.before == first.score and found.step > 0
    assert "model" not in found.table.metadata


def test_the_last_update_is_scored():
    found = tune(method(), batches(), SCORE, START, num_updates=30, every=50, **QUIET)
    assert found.step == 30 and found.score < found.before


def test_the_start_is_kept_if_nothing_is_better():
    worse = method(optimiser=optax.sgd(-1e-2))  # uphill
    found = tune(worse, batches(), SCORE, START, num_updates=20, every=10, **QUIET)
    assert found.step == 0 and found.score == found.before
    np.testing.assert_array_equal(found.table.denoised, START.denoised)


def test_patience_ends_a_run_that_no_longer_gains():
    seen = []
    scores = itertools.chain([5.0, 4.0, 3.0], itertools.repeat(3.5))

    def score(made):
        seen.append(made)
        return next(scores)

    found = tune(method(), batches(), score, START, num_updates=100, every=2, patience=6, **QUIET)
    assert found.score == 3.0 and found.step == 4 and len(seen) == 1 + 5  # the last one at step 10


@pytest.mark.slow
@pytest.mark.parametrize("moment", [3, 7, 11])
def test_a_run_that_was_stopped_goes_on_to_the_same_table(tmp_path, moment):
    slow = method(optimiser=optax.adam(2e-3))  # better and better
    run = functools.partial(tune, slow, batches(), SCORE, START, num_updates=12, every=2, **QUIET)
    whole = run(folder=tmp_path / "whole")

    def stop(n, row):
        if n >= moment:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(folder=tmp_path / "parts", log=stop, log_every=1)
    assert not load_table(tmp_path / "parts" / "table.json").metadata["finished"]
    parts = run(folder=tmp_path / "parts")
    assert whole.step == 12
    assert parts.score == whole.score and parts.step == whole.step
    np.testing.assert_array_equal(parts.table.denoised, whole.table.denoised)


@pytest.mark.parametrize("step", [6, 12])
def test_a_run_stopped_inside_a_score_has_it_made_up_for(tmp_path, step):
    slow = method(optimiser=optax.adam(2e-3))
    run = functools.partial(tune, slow, batches(), start=START, num_updates=12, every=2, **QUIET)
    whole, seen = run(SCORE), []

    def stopped(made):
        seen.append(made)
        if len(seen) == 1 + step // 2:
            raise KeyboardInterrupt
        return SCORE(made)

    with pytest.raises(KeyboardInterrupt):
        run(stopped, folder=tmp_path)
    found = run(SCORE, folder=tmp_path)
    assert found.score == whole.score and found.step == whole.step == 12


def test_a_loss_that_is_not_finite_leaves_the_last_good_table(tmp_path):
    def broken(step):
        batch = dict(batches()(step))
        return batch if step < 6 else batch | {"image": batch["image"] * np.nan}

    with pytest.raises(FloatingPointError, match="table/loss is nan in step 6"):
        tune(
            method(),
            broken,
            SCORE,
            START,
            num_updates=20,
            every=2,
            folder=tmp_path,
            log_every=1,
            **QUIET,
        )
    kept = load_table(tmp_path / "table.json")
    assert (
        kept.metadata["held_out"] < kept.metadata["before"]
        and SCORE(kept) == kept.metadata["held_out"]
    )


def test_a_start_that_cannot_be_scored_is_refused():
    with pytest.raises(ValueError, match="scores nan"):
        tune(method(), batches(), lambda made: float("nan"), START, num_updates=2, **QUIET)
    with pytest.raises(ValueError, match="at least one pair"):
        held_out(D, {"start": np.zeros((0, 2)), "image": np.zeros((0, 2))})


# Usual samplers


def test_baselines_have_the_evaluations_asked_for():
    for nfe in (1, 2, 5):
        recipes = baselines(nfe)
        assert {recipe.table().nfe for recipe in recipes} == {nfe}
        assert len({recipe.name for recipe in recipes}) == len(recipes)
    assert {r.solver for r in baselines(5)} >= {solvers.heun, solvers.unipc}
    assert solvers.heun not in {r.solver for r in baselines(4) if not r.first}


@pytest.mark.parametrize(
    ("solver", "nfe", "message"),
    [(solvers.heun, 4, "heun cannot have 4 evaluations; near it are 1, 3, 5"),
     (solvers.euler, 0, "euler cannot have 0 evaluations")],
)  # fmt: skip
def test_a_budget_that_a_solver_cannot_have(solver, nfe, message):
    with pytest.raises(ValueError, match=message):
        steps_for(solver, nfe)
    with pytest.raises(ValueError, match=message):
        baselines(nfe, choice=[(solver, {})], first=[False])


@pytest.mark.parametrize(("low", "high"), [(0.0002, 700.0), (0.02, 14.6), (0.05, 80.0)])
def test_baseline_grids_of_other_ranges(low, high):
    for recipe in baselines(4, low=low, high=high, choice=[(solvers.euler, {})]):
        assert recipe.levels[0] == pytest.approx(high) and (np.diff(recipe.levels) < 0).all()


def test_the_name_of_a_usual_sampler():
    recipe = Baseline(solvers.ipndm, {"order": 3}, GRID, "Karras from 0.05", True)
    assert recipe.name == "ipndm order=3 on Karras from 0.05, analytic first step"


# Bespoke by local errors


@pytest.mark.slow
def test_local_errors_are_those_of_each_step_alone():
    levels = with_intermediate_levels(grids.karras(2, 0.05))
    family = of_bespoke(levels)
    rows = {k: jnp.asarray(v) for k, v in paths().items()}
    path = Path(
        rows["levels"][0], jnp.moveaxis(rows["states"], 1, 0), jnp.moveaxis(rows["denoised"], 1, 0),
        rows["image"],
    )  # fmt: skip
    found = step_errors(D, family.init, moving(levels).levels(family.init["levels"]), path)
    own, options = [0.0, 0.0], {"order": 2, "sigma_data": 0.5}
    for i, truth in enumerate([path.at(levels[2]), path.end]):
        here = levels[2 * i : 2 * i + 3]
        start = path.at(here[0])
        end = sample(D, plain_bespoke(here, **options), start)
        rms = np.sqrt(np.mean((np.asarray(end) - np.asarray(truth)) ** 2, axis=1))
        own[i] = rms * 0.5 / (0.5 + here[2])
    move = levels[2] / (0.5 + levels[2])  # of the second step in the flow's time, to time 0
    expected = own[0] * (1 + move * (1 + move / 2)) + own[1]
    assert found == pytest.approx(expected.mean(), rel=1e-4)


@pytest.mark.slow
def test_local_errors_are_learned():
    levels = with_intermediate_levels(grids.karras(3, 0.05))
    made = bespoke_tuning(D, levels, optimiser=optax.adam(1e-2))
    start = concrete(of_bespoke(levels), of_bespoke(levels).init)
    found = tune(made, pair_batches(paths(), 16), SCORE, start, num_updates=100, every=50, **QUIET)
    assert found.score < found.before / 2


# Every tuner by name


def task(nfe=3, **options):
    data = np.asarray(MIXTURE.sample(jax.random.key(7), 256))
    return tasks.Task(D, nfe, pairs(0), pairs(1), data, num_updates=4, batch=16, **options)


QUICK = ("gs",)


@pytest.mark.parametrize(
    "which",
    [
        pytest.param(n, marks=[] if n in QUICK else pytest.mark.slow)
        for n in TUNERS
        if n not in samplewise.TUNERS  # whose steps have a file and tests of their own
    ],
)
def test_every_tuner_makes_a_sampler_of_the_budget(which, tmp_path):
    nfe = 4 if which == "epd" else 3
    result = solve(
        task(nfe), which, folder=tmp_path, metadata={"model": "mixture"}, every=2, **QUIET
    )
    assert result.tuned.table.nfe == nfe and result.baseline.nfe == nfe
    metadata = result.tuned.table.metadata
    assert metadata["model"] == "mixture" and metadata["held_out"] == result.tuned.score
    if which not in ("gits", "ays", "elbo", "dmn"):
        assert load_table(tmp_path / "table.json").metadata == metadata
        assert result.tuned.score <= result.tuned.before
    better = result.baseline_score < result.tuned.score
    assert result.best.metadata == ({} if better else result.tuned.table.metadata)


def test_tuners_say_what_cannot_be_done():
    with pytest.raises(ValueError, match="at least one evaluation, not 0"):
        check(task(0), "gs")
    with pytest.raises(ValueError, match="at least 16 pairs of samples; there are 3"):
        check(task()._replace(pairs=pairs(5, 3)), "gs")
    with pytest.raises(ValueError, match="batch at least 2"):
        check(task()._replace(batch=1), "gs")
    with pytest.raises(ValueError, match="epd cannot have 5 evaluations; near it are 1, 4, 7; epd"):
        check(task(5), "epd")
    with pytest.raises(ValueError, match="ggdm has nothing to tune in one evaluation"):
        check(task(1), "ggdm")
    with pytest.raises(ValueError, match="amed has a solver of its own"):
        check(task(solver=(solvers.euler, {})), "amed")
    for solver in (solvers.heun, solvers.sde_dpmpp):
        with pytest.raises(ValueError, match="one evaluation per step"):
            check(task(solver=(solver, {})), "gs")
    broken = task()._replace(denoiser=lambda y, s, c=None: y * np.nan)
    with pytest.raises(ValueError, match="does the denoiser give NaN"):
        tasks.ranked_baselines(broken)


@pytest.mark.slow
def test_a_solver_can_be_asked_for():
    requested = task(solver=(solvers.unipc, {"order": 2}))
    assert {r.solver for r in tasks.ranked_baselines(requested)} == {solvers.unipc}
    assert {made.name for made in schedules.dmn(requested)} == {"unipc"}


@pytest.mark.slow
def test_a_tuned_grid_can_be_the_start(monkeypatch):
    """One that is better than the baselines: learned levels of the same number of evaluations."""
    monkeypatch.setattr(tasks, "baselines", FEW)
    learned = tuning.of_grid(solvers.ipndm, GRID, order=2)
    made = tuning.tuning(D, learned, tuning.end_point(), optimiser=optax.adam(0.02))
    good = tune(made, batches(64), held_out(D, pairs(0)), START, num_updates=400, **QUIET).table
    alone = tasks.start_of(task())
    found = tasks.start_of(task()._replace(nearest=good))
    assert found.grid == "the nearest tuned table's levels" != alone.grid
    score = held_out(D, pairs(0))
    assert score(found.table()) < score(alone.table())


def test_bespoke_solvers_start_from_grids_of_any_range():
    """Where no VP process has both ends there is no such grid."""
    plan = intermediate.bespoke_solver(task(2, low=0.02))
    assert plan.start.nfe == 2 and (np.diff(plan.start.levels) < 0).all()


def test_every_evaluation_of_a_bespoke_solver_counts():
    """Odd numbers and even ones alike: the error falls from 2 evaluations to 4."""
    plans = [intermediate.bespoke_solver(task(nfe)) for nfe in range(2, 5)]
    assert [plan.start.nfe for plan in plans] == [2, 3, 4]
    errors = [plan.score(plan.start) for plan in plans]
    assert (np.diff(errors) < 0).all() and errors[2] < errors[0] / 2


@pytest.mark.slow
def test_tuned_bespoke_solvers_improve_with_every_evaluation():
    errors = []
    for nfe in range(2, 6):
        plan = intermediate.bespoke_solver(task(nfe)._replace(num_updates=200))
        found = tune(
            plan.method, plan.data, plan.score, plan.start, num_updates=200, every=50, **QUIET
        )
        errors.append(found.score)
        assert found.score < 0.8 * found.before
    assert (np.diff(errors) < 0).all()


def test_baselines_are_ranked_once(monkeypatch):
    monkeypatch.setattr(tasks, "baselines", FEW)
    ranked, seen = tasks.ranked, []
    monkeypatch.setattr(tasks, "ranked", lambda *a: seen.append(a) or ranked(*a))
    known = tasks.ranked_baselines(task())
    found = tasks.start_of(task(baselines=known))
    one_each = [r for r in known if (r.solver, r.options) in tasks.ONE_EACH]
    assert len(seen) == 1 and found is one_each[0]
    assert tasks.start_of(task()).name == found.name


@pytest.mark.slow
def test_samplers_are_chosen_on_held_out_pairs_and_searched_on_training_pairs():
    """Pairs of another model show which were looked at."""
    other = {"start": pairs(1)["start"], "image": 0.0 * pairs(1)["image"]}
    requested = task()._replace(held=other)
    found = solve(requested, "dmn")
    assert found.tuned.score == held_out(D, other)(found.tuned.table)
    inner = held_out(D, pairs(0))
    assert inner(found.tuned.table) == min(inner(made) for made in schedules.dmn(requested))
    assert weights.gs(requested).score(FINE) == held_out(D, other)(FINE)
    known = tasks.ranked_baselines(requested)[::-1]
    assert solve(requested._replace(baselines=known), "dmn").baseline_name == known[0].name


def test_labels_reach_objective_and_score():
    """A denoiser that cannot do without."""

    def network_levels(y, s, label=None):
        return y / (1.0 + s) + label[:, None].astype(y.dtype)

    labelled = pairs(0) | {"label": np.arange(64, dtype=np.int32) % 3}
    made = sample(
        network_levels, START, jnp.asarray(labelled["start"]), jnp.asarray(labelled["label"])
    )
    exact = labelled | {"image": np.asarray(made)}
    assert held_out(network_levels, exact, batch=24)(START) < 1e-12
    batch = {k: jnp.asarray(v) for k, v in exact.items()}
    assert tuning.end_point()(network_levels, START, batch, KEY) < 1e-20


def test_halves_of_labels_have_every_class():
    labels = np.arange(64) % 10
    for rows in tune_tasks.halves_of(32):
        assert set(labels[rows]) == set(range(10)) and len(labels[rows]) == 32


@pytest.mark.slow
def test_kernel_distances_keep_their_data_apart():
    (shown, _), (aside, _) = kernel._apart(task())
    assert len(shown) == 192 and len(aside) == 64
    assert not {tuple(x) for x in shown} & {tuple(x) for x in aside}
    plan = kernel.ggdm(task())
    batch = plan.data(0)
    assert {tuple(x) for x in batch["reference"]} <= {tuple(x) for x in shown}
    for given in (pairs(0), pairs(1)):
        assert not {tuple(x) for x in batch["start"]} & {tuple(x) for x in given["start"]}
    assert plan.scored_by == "squared MMD"


# The toy of the specification: one dimension, exact everything


@pytest.mark.slow
def test_learned_levels_on_the_toy():
    """iPNDM-3 in 6 steps from 20 to 0.05: root mean square .0213 on the better baseline grid, .0072
    by Nelder-Mead on its spacings.
    """
    toy = GaussianMixture([0.3, 0.5, 0.2], [[-1.0], [0.4], [1.3]], [[0.25**2], [0.15**2], [0.4**2]])
    y = 20.0 * np.random.default_rng(0).standard_normal(64)[:, None]
    fine = table(solvers.unipc, grids.log_snr(2000, 0.05, 20.0, zero=False))
    rows = {"start": y, "image": np.asarray(sample(toy.denoiser, fine, jnp.asarray(y)))}
    score = held_out(toy.denoiser, rows)
    levels = grids.log_snr(6, 0.05, 20.0, zero=False)
    start = table(solvers.ipndm, levels, order=3)
    baseline_scores = [
        score(table(solvers.ipndm, grid(6, 0.05, 20.0, zero=False), order=3))
        for grid in (grids.karras, grids.log_snr)
    ]
    assert min(baseline_scores) == pytest.approx(0.0213, rel=0.01)
    moved = tuning.of_grid(solvers.ipndm, levels, order=3)
    optimiser = optax.adam(optax.cosine_decay_schedule(0.05, 600))
    made = tuning.tuning(toy.denoiser, moved, tuning.end_point(), optimiser=optimiser)
    found = tune(made, lambda step: rows, score, start, num_updates=600, every=100, **QUIET)
    assert found.score < 0.0073


# A figure, and a table that states where it comes from


def test_what_a_table_says_of_itself(tmp_path):
    made = START.with_metadata(model="abc", guidance=None).with_metadata(held_out=0.5)
    made.save(tmp_path / "t.json")
    assert load_table(tmp_path / "t.json").metadata == {
        "model": "abc", "guidance": None, "held_out": 0.5
    }  # fmt: skip
    assert "metadata" not in json.loads(json.dumps(START.to_dict()))


@pytest.mark.parametrize(
    ("given", "rate"),
    [({}, 0.02), ({"batch": 8}, 0.005), ({"batch": 512}, 0.02), ({"batch": 8, "rate": 0.3}, 0.3)],
)
def test_small_batches_are_descended_by_at_a_lower_rate(given, rate):
    config = tune_tasks.with_levels(configs.Tune(problem="gaussian", **given), None)
    assert config.rate == pytest.approx(rate) == tune_tasks.blank(config).rate


def test_a_descent_that_was_best_early_says_that_its_rate_is_high():
    config = tune_tasks.with_levels(configs.Tune(problem="gaussian"), None)
    for method, step, said in (("gs", 50, 1), ("gs", 200, 0), ("gs", 0, 0), ("gits", 50, 0)):
        result = Result(START, "euler", 1.0, Tuned(START, 0.5, 1.0, step), "a score", 0.0)
        lines = tuned._hint(dataclasses.replace(config, method=method), 5, result)
        assert len(lines) == said
        assert not said or "update 50 of 400: a lower --rate than 0.02" in lines[0]


def test_a_table_is_saved_whatever_draws_its_picture(tmp_path):
    found = Tuned(START.with_metadata(), 1.0, 1.0, 0)
    result = Result(START, "euler", 1.0, found, "a score", 0.0)
    (tmp_path / "table.png").mkdir()
    with pytest.warns(UserWarning, match="table.png could not be made"):
        tuned.write(result, tmp_path, {"method": "gs"})
    assert load_table(tmp_path / "table.json").metadata["tuned"]


def test_a_figure_of_levels_and_weights(tmp_path):
    from jaxdiff.report.samplers import levels_and_weights

    flat = tuning.flatten(START)
    figure = levels_and_weights(
        {"before": (flat.nodes, flat.denoised), "after": (flat.nodes, flat.denoised)}
    )
    figure.savefig(tmp_path / "f.png")
    assert [a.get_title(loc="left") for a in figure.axes[1:3]] == ["before", "after"]
    with pytest.raises(ValueError, match="do not go with"):
        levels_and_weights({"x": (flat.nodes[:2], flat.denoised)})
    with pytest.raises(ValueError, match="no table"):
        levels_and_weights({})
