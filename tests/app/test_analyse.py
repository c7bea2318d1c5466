"""The command that shows how a model samples: its numbers on exact models, its page, its errors."""

import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import analysis, grids
from jaxdiff.app import analyse as command
from jaxdiff.app import config as configs
from jaxdiff.app import (
    ends,
    geometry,
    jacobians,
    measured_images,
    step_errors,
    subjects,
    tune_tasks,
)
from jaxdiff.app.main import main
from jaxdiff.app.models import Model
from jaxdiff.data.dataset import Dataset
from jaxdiff.exact import Gaussian
from jaxdiff.grids.dynamic import best_grids
from jaxdiff.report import analysis_effects
from jaxdiff.report.analysis_effects import Shown
from jaxdiff.report.geometry import Curve, Panel, boomerang, panels

pytestmark = pytest.mark.usefixtures("as_users")

LEVELS = grids.karras(12, zero=False)
VARIANCES = np.array([1.0, 0.25, 0.04])


@pytest.fixture(scope="module")
def study():
    """A Gaussian as the model, beside null models of exact samples of it."""
    model = Gaussian(np.zeros(3, np.float32), VARIANCES.astype(np.float32))
    random = np.random.default_rng(0)
    data = (random.normal(size=(60, 3)) * np.sqrt(VARIANCES)).astype(np.float32)
    given = subjects.Data(data, None, None, "exact samples")
    known = {
        "model": subjects.Subject(model.denoiser),
        "Gaussian": subjects.Subject(model.denoiser),
        "finite data set": subjects.Subject(analysis.finite_data_set(data).denoiser),
    }
    noise = jnp.asarray(random.normal(size=(6, 3)), jnp.float32)
    paths = {name: geometry.euler_path(one, LEVELS, noise) for name, one in known.items()}
    return geometry.Study(known, noise, LEVELS, given, paths)


def test_statistics_of_a_gaussian_are_those_of_eulers_recursion(study):
    """Each principal coordinate is multiplied by (v + s r)/(v + s^2) in a step from s to r."""
    found = geometry.statistics(study.paths["model"])
    x = [LEVELS[0] * np.asarray(study.noise, np.float64)]
    for s, r in zip(LEVELS[:-1], LEVELS[1:], strict=True):
        x.append(x[-1] * (VARIANCES + s * r) / (VARIANCES + s * s))
    x = np.stack(x)
    D = x * VARIANCES / (VARIANCES + LEVELS[:, None, None] ** 2)
    mean = lambda a: np.linalg.norm(a, axis=2).mean(axis=1)  # noqa: E731
    np.testing.assert_allclose(found["norm of x"]["mean"], mean(x), rtol=1e-4)
    np.testing.assert_allclose(found["norm of D"]["mean"], mean(D), rtol=1e-4)
    np.testing.assert_allclose(found["distance to end"]["mean"], mean(x - x[-1]), atol=1e-4)
    eps = mean(x * LEVELS[:, None, None] / (VARIANCES + LEVELS[:, None, None] ** 2))
    np.testing.assert_allclose(found["norm of eps"]["mean"], eps, rtol=2e-3)
    u = (x[-1] - x[0]) / np.linalg.norm(x[-1] - x[0], axis=1)[:, None]
    rest = x - x[0] - np.sum((x - x[0]) * u, axis=2)[..., None] * u
    peak = mean(rest).max()
    assert found["summary"]["peak deviation of x"] == pytest.approx(peak, rel=1e-3)
    assert found["summary"]["at level"] == pytest.approx(LEVELS[mean(rest).argmax()], rel=1e-5)
    assert np.shape(found["boomerang"]) == (13, 6, 3)
    assert sum(found["share"]["per sample"]) == pytest.approx(1.0, abs=1e-5)


def test_the_optimal_denoiser_is_no_distance_from_itself(study):
    same = study._replace(
        subjects=study.subjects | {"model": study.subjects["finite data set"]},
        paths=study.paths | {"model": study.paths["finite data set"]},
    )
    found = geometry.optimal(same)
    ours = found["models"]["model"]
    assert ours.pop("density rises")["jump"] == 1.0  # a step of mean shift
    for values in ours.values():
        np.testing.assert_allclose(values, 0, atol=1e-5)
    assert found["models"]["Gaussian"]["on the optimal path"][6] > 1e-3
    assert 1.0 <= found["effective neighbours"][-1] < 1.1
    assert found["effective neighbours"][0] > 59


def test_copies_are_found_where_the_data_are_recalled(study):
    found, near = ends.copies(study)
    assert found["finite data set"]["copies"] > found["model"]["copies"]
    assert found["finite data set"]["median"] < 0.02 < found["model"]["median"]
    data = study.data.values
    apart = np.linalg.norm(np.asarray(study.paths["model"].end)[:, None] - data[None], axis=2)
    np.testing.assert_allclose(near["model"].distance, apart.min(axis=1), rtol=1e-3)
    assert list(found)[-1] == ends.OTHERS
    assert 0 < found[ends.OTHERS]["smallest"]  # an example is not its own neighbour


def test_steps_errors_are_those_of_single_euler_steps_and_their_half_is_found(study):
    found, advice = step_errors.local_error(study, 2)
    fine = grids.karras(3 * 12, zero=False)
    x = fine[0] * np.asarray(study.noise, np.float64)
    want = []
    for s, r in zip(LEVELS[:-1], LEVELS[1:], strict=True):
        at = x * np.sqrt((VARIANCES + s * s) / (VARIANCES + fine[0] ** 2))
        exact = x * np.sqrt((VARIANCES + r * r) / (VARIANCES + fine[0] ** 2))
        step = at * (VARIANCES + s * r) / (VARIANCES + s * s)
        want.append(np.linalg.norm(step - exact, axis=1).mean())
    np.testing.assert_allclose(
        found["models"]["model"]["error"], want, rtol=0.15
    )  # single precision
    assert step_errors._half(np.array([0.1, 0.0, 3.0, 2.0, 0.1])) == (2, 2)
    assert step_errors._half(np.array([1.0, 2.0, 2.0, 1.0])) == (1, 2)
    assert len(found["recommended"]["GITS, model"]) == 3
    assert any("between levels" in line for line in advice)
    for one in found["of a few"].values():
        assert one["counts"] == [1, 4]  # of six trajectories
        for grid in one["levels"]:
            assert len(grid) == 3 and set(grid) <= set(fine.tolist())
            assert (grid[0], grid[-1]) == (fine[0], fine[-1])
    shrunk = np.sqrt((VARIANCES + fine[:, None, None] ** 2) / (VARIANCES + fine[0] ** 2))
    some = jnp.asarray(fine[0] * np.asarray(study.noise[:4]) * shrunk, jnp.float32)
    outputs = jnp.asarray(VARIANCES / (VARIANCES + fine[:, None, None] ** 2), jnp.float32) * some
    costs = analysis.truncation_errors(fine, some, outputs, "dev")
    want = best_grids(costs, fine, [2], 1.15)[0]
    assert found["of a few"]["Gaussian"]["levels"][1] == pytest.approx(want.tolist())
    assert found["solvers"]["Heun"]["nfe"] == 2 and found["solvers"]["Euler"]["nfe"] == 2
    assert found["solvers"]["Euler"]["convex"] == 1.0  # each towards the output where it begins
    assert found["solvers"]["Heun"]["least"] < 0


def test_the_jacobian_of_a_gaussian_is_symmetric_with_its_trace_and_a_turned_one_is_not(study):
    turn = np.array([[0, 1, 0], [-1, 0, 0], [0, 0, 1]], np.float32)
    turned = subjects.Subject(lambda y, s, c=None: y @ turn.T)
    given = study._replace(subjects=study.subjects | {"model": turned})
    found = jacobians.jacobians(given, 0)
    assert found["samples"] == 6 and found["probes"] is None
    model, gaussian, finite = found["models"].values()
    assert "asymmetry" not in finite and finite["steepness"]["mean"][-1] < 0.1
    steepest = np.max(VARIANCES / (VARIANCES + LEVELS[:, None] ** 2), axis=1)
    np.testing.assert_allclose(gaussian["steepness"]["mean"], steepest, rtol=0.01)  # from below
    np.testing.assert_allclose(model["steepness"]["mean"], 1, rtol=1e-5)
    (section,) = analysis_effects.jacobian({"jacobian": found, "paths": given.paths}, Shown())
    drawn = section.figures[0].figure.axes
    titles = [axes.get_title(loc="left") or axes.get_title() for axes in drawn]
    assert titles == ["|J - J^T| / |J|", "largest singular value of J", "tr J"]
    ratio = np.linalg.norm(turn - turn.T) / np.linalg.norm(turn)
    np.testing.assert_allclose(model["asymmetry"]["mean"], ratio, rtol=1e-5)
    np.testing.assert_allclose(model["trace"]["mean"], 1, rtol=1e-5)
    np.testing.assert_allclose(gaussian["asymmetry"]["mean"], 0, atol=1e-5)
    trace = np.sum(VARIANCES / (VARIANCES + LEVELS[:, None] ** 2), axis=1)
    np.testing.assert_allclose(gaussian["trace"]["mean"], trace, rtol=1e-5)


def test_the_jacobian_of_many_numbers_is_probed_sample_by_sample(study):
    """A diagonal one, of which random signs find the trace exactly; conditions go along."""
    ones = np.ones((10, 12), np.float32)
    cond = np.arange(1, 11, dtype=np.float32)
    model = subjects.Subject(lambda y, s, c: y * c[:, None], cond)
    null = subjects.Subject(lambda y, s, c=None: 0.5 * y)
    known = {"model": model, "Gaussian": null}
    paths = {name: geometry.euler_path(one, LEVELS[:3], ones) for name, one in known.items()}
    given = geometry.Study(known, ones, LEVELS[:3], study.data, paths)
    found = jacobians.jacobians(given, 0)
    assert found["samples"] == 8 and found["probes"] == 8
    trace = found["models"]["model"]["trace"]
    np.testing.assert_allclose(trace["mean"], 12 * cond[:8].mean(), rtol=1e-5)
    np.testing.assert_allclose(trace["std"], 12 * cond[:8].std(), rtol=1e-5)
    np.testing.assert_allclose(found["models"]["Gaussian"]["asymmetry"]["mean"], 0, atol=1e-6)


def test_curvature_is_a_gaussians_where_it_is_more_than_rounding(study):
    """x' = s x/(v + s^2) and x'' = v x/(v + s^2)^2, of each principal coordinate."""
    one, path = study.subjects["Gaussian"], study.paths["Gaussian"].path
    both, alone = (geometry.bends(one, path, torsion=t)["curvature"] for t in (True, False))
    x, s = np.asarray(path.states, np.float64), LEVELS[:, None, None]
    first, second = s * x / (VARIANCES + s * s), VARIANCES * x / (VARIANCES + s * s) ** 2
    along = np.sum(first * second, axis=2) / np.sum(first**2, axis=2)
    across = np.linalg.norm(second - along[..., None] * first, axis=2)
    want = (across / np.sum(first**2, axis=2)).mean(axis=1)
    rows = np.isin(np.float32(LEVELS), np.float32(alone["levels"]))
    assert rows[:9].all() and not rows[-1]  # at 0.002 single precision has 200 times as much
    np.testing.assert_allclose(alone["mean"], want[rows], rtol=0.05)
    np.testing.assert_allclose(both["mean"], alone["mean"], rtol=1e-3)
    straight = subjects.Subject(analysis.isotropic_of(study.data.values).denoiser)
    path = geometry.euler_path(straight, LEVELS, study.noise).path
    assert geometry.bends(straight, path, torsion=False) == {}


def test_densities_of_low_levels_are_those_of_the_first(study):
    """Below DENSE at every level there is one to compare, and not none."""
    data = analysis.finite_data_set(study.data.values)
    low = study.paths["finite data set"]
    low = low._replace(path=low.path._replace(levels=0.01 * low.path.levels / LEVELS[0]))
    found = geometry.density_rises(data, low)
    assert set(found) == {"jump", "step", "ratio"} and np.isfinite(list(found.values())).all()


def test_a_straight_line_between_noises_shrinks_them_and_their_ends(study):
    found, images = ends.latent(study)
    assert list(found["models"]) == ["model", "Gaussian", "finite data set"]
    line, root = (found["models"]["Gaussian"][mode] for mode in ("linear", "spherical"))
    middle = len(found["fractions"]) // 2
    first, second = np.asarray(study.noise[:1]), np.asarray(study.noise[1:2])
    f = found["fractions"][middle]
    want = np.linalg.norm((1 - f) * first + f * second) / np.sqrt(3)
    if found["pairs"] == 1:
        assert line["noise"][middle] == pytest.approx(want, rel=1e-5)
    assert line["noise"][middle] < root["noise"][middle]
    assert line["noise"][0] == pytest.approx(root["noise"][0])
    assert images["linear"][0].shape[1:] == (3,)


def test_figures_say_what_they_cannot_draw():
    level = Curve([1.0, 0.1, 0.0], [1.0, np.nan, 2.0])
    figure = panels([Panel("a", {"one": level}), Panel("b", {"one": level}, log="xy")])
    (line,) = figure.axes[0].lines
    np.testing.assert_allclose(line.get_xdata(), [1.0, 0.01])  # level 0 one step below 0.1
    with pytest.raises(ValueError, match="no finite point"):
        panels([Panel("c", {"one": Curve([1.0], [np.nan])})])
    with pytest.raises(ValueError, match=r"\(2,\) places and \(1,\) values"):
        panels([Panel("c", {"one": Curve([1.0, 2.0], [1.0])})])
    with pytest.raises(ValueError, match=r"\(T, n, 3\)"):
        boomerang({"one": np.zeros((4, 2, 2))})


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "give --run"),
        ({"run": "r", "problem": "gaussian"}, "one of the two"),
        ({"problem": "gaussian", "students": ("s",)}, "--students would have no effect"),
        ({"problem": "gaussian", "guidance": (3.0,)}, "--guidance would have no effect"),
        (
            {"problem": "gaussian", "data": configs.OtherData(limit=3)},
            "--data would have no effect",
        ),
        ({"problem": "gaussian", "out": "page.txt"}, "ends in .html"),
        ({"problem": "gaussian", "count": 1}, "--count must be at least 2"),
        ({"problem": "gaussian", "num_steps": 2, "nfe": 7}, "--nfe 7 levels cannot be chosen"),
        ({"problem": "gaussian", "low": 2.0, "high": 1.0}, "low"),
    ],
)
def test_what_does_not_go_together_is_refused(tmp_path, options, said):
    given = {"out": str(tmp_path / "a.html")} | options
    with pytest.raises(ValueError, match=said):
        command.analyse(configs.Analyse(**given), progress=False)
    assert not list(tmp_path.iterdir())


def test_classes_of_data_are_the_models_by_their_names(monkeypatch):
    """Data of a published model come with numbers of their own; so do the test data of a run."""
    images = np.arange(8, dtype=np.uint8).reshape(8, 1, 1, 1)
    given = Dataset(images, np.arange(8) // 4, 2, class_names=("bee", "ant"))
    metadata = {"kind": "teacher", "data": None, "class_names": ("ant", "bee", "cow")}
    model = Model(lambda y, s, c=None: y, {}, (1, 1, 1), 3, False, metadata)
    for module in (subjects, measured_images):
        monkeypatch.setattr(module, "read_data", lambda *a: given)
    monkeypatch.setattr(subjects, "data_of", lambda *a: given)
    config = configs.Analyse("r", data=configs.OtherData(path="x"))
    data = subjects.data_for(model, config, False)
    np.testing.assert_array_equal(data.labels, [1, 1, 1, 1, 0, 0, 0, 0])
    one = subjects.data_for(model, dataclasses.replace(config, label="bee"), False)
    np.testing.assert_allclose(one.values.ravel(), images[:4].ravel() / 127.5 - 1, atol=1e-6)
    own = model._replace(metadata=metadata | {"data": {"path": "x"}})
    tested = measured_images._test_data(own, configs.Edit("r"), False)
    np.testing.assert_array_equal(tested.labels, data.labels)
    other = model._replace(metadata=metadata | {"class_names": ("ant", "dog", "cow")})
    with pytest.raises(ValueError, match="images of bee, which the model does not know"):
        subjects.data_for(other, config, False)
    monkeypatch.setattr(tune_tasks, "data_of", lambda *a: given)
    tuned = configs.Tune("r", method="ays")
    with pytest.raises(ValueError, match="has the classes bee, ant, the model was trained on ant"):
        tune_tasks.images_of(tuned, model, False)
    known = dataclasses.replace(given, num_classes=3, class_names=("ant", "bee", "cow"))
    monkeypatch.setattr(tune_tasks, "data_of", lambda *a: known)
    assert tune_tasks.images_of(tuned, model, False) is known
    own = dataclasses.replace(tuned, method="gits", data=configs.OtherData(path="x"))
    with pytest.raises(ValueError, match="--data would have no effect: gits reads no data"):
        tune_tasks.images_of(own, model, False)


@pytest.mark.parametrize("names", [("bee", "ant"), ("ant", "bee"), ("0", "1")])
def test_a_student_has_the_classes_of_the_model_it_is_analysed_beside(monkeypatch, names):
    metadata = {"kind": "teacher", "data": None, "class_names": ("ant", "bee"), "method": "sid"}
    model = Model(lambda y, s, c=None: y, {}, (1, 1, 1), 2, False, metadata)
    student = model._replace(student=True, metadata=metadata | {"class_names": names})
    made = {"r": model, "s": student}
    monkeypatch.setattr(subjects, "load_model", lambda path, *a: made[path])
    config = configs.Analyse("r", students=("s",))
    if names == ("bee", "ant"):
        with pytest.raises(ValueError, match="the student s has other classes than the model"):
            subjects.loaded(config, False)
    else:  # numbers without names stand for any
        assert subjects.loaded(config, False)[1] == {"student by sid, s": student}
    shown = {"r": model._replace(metadata=metadata | {"pairs": 3}), "s": student}
    monkeypatch.setattr(subjects, "load_model", lambda path, *a: shown[path])
    with pytest.raises(ValueError, match="s is a student of a network that is shown an array"):
        subjects.loaded(config, False)


def test_labels_need_classes_and_large_samples_are_refused():
    model = Model(lambda y, s, c=None: y, {}, (3,), 0, False, {"class_names": ()})
    with pytest.raises(ValueError, match="no classes"):
        subjects.label_of(model, configs.Analyse("r", label="3"))
    data = subjects.Data(np.zeros((2, subjects.LARGEST + 1), np.float32), None, None, "")
    with pytest.raises(ValueError, match="smaller samples"):
        subjects.subjects_of(model, data, None, 4)


@pytest.mark.slow
def test_a_problem_is_analysed_from_end_to_end(tmp_path, capsys):
    out = tmp_path / "page.html"
    given = ["--problem", "mixture-2d", "--count", "12", "--num-steps", "5", "--nfe", "3"]
    assert main(["analyse", *given, "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "peak deviation of x" in said and "GITS, Gaussian" in said
    numbers = json.loads(out.with_suffix(".json").read_text())
    straight = numbers["paths"]["isotropic Gaussian"]["summary"]
    assert straight["peak deviation / chord"] < 1e-6
    assert numbers["paths"]["model"]["summary"]["peak deviation / chord"] > 1e-4
    page = out.read_text()
    for heading in (
        "The boomerang",
        "Is it a gradient?",
        "Where the error is made",
        "Are samples copies?",
    ):
        assert heading in page
    assert page.count("<img") >= 7
