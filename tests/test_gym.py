"""The gym: problems are what they say, the ruler measures known distances, the table is kept."""

import json
import math
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.digits import __main__ as digits
from experiments.gym import __main__ as gym
from experiments.gym import cost, report, ruler, store, train
from experiments.gym.problems import HIGH, PROBLEMS, SIGMA_DATA, make_problem
from jaxdiff.networks import MLP
from jaxdiff.recipes import RECIPES
from jaxdiff.recipes.goal import Recipe
from jaxdiff.sampling.sample import start_noise


class Fake:
    """A sampler that gives what it is told to."""

    def __init__(self, x, stochastic=False, nfe=1):
        self.x, self.table = x, SimpleNamespace(stochastic=stochastic, nfe=nfe)

    def __call__(self, key, count, shape):
        return self.x[:count]


@pytest.fixture(scope="module")
def small():
    """A gym of small sets and a small network."""
    narrow = lambda log_variance=False: MLP(8, 1, embedding=8, log_variance=log_variance)  # noqa: E731
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"COUNT": 512, "DRAWS": 2, "FLOORS": 4, "FEWER": 256}.items():
            patch.setattr(ruler, name, value)
        patch.setattr(train, "module", narrow)
        yield
        for kept in (train._ruler, train._teacher_params):
            kept.cache_clear()


# Problems


@pytest.mark.parametrize("seed", [0, 5])
@pytest.mark.parametrize("name", PROBLEMS)
def test_data_have_the_standard_deviation_that_they_should(name, seed):
    problem = make_problem(name, seed=seed)
    mean, covariance = problem.model.moments()
    assert np.trace(covariance) / problem.dimension == pytest.approx(SIGMA_DATA**2)
    if name != "gaussian":
        np.testing.assert_allclose(mean, 0.0, atol=1e-12)
        assert problem.model.weights.sum() == pytest.approx(1.0)
        assert len(problem.modes) == 6
    x = np.asarray(problem.samples(jax.random.key(seed), 20_000))
    assert x.dtype == np.float32
    assert np.sqrt(x.var(axis=0).mean()) == pytest.approx(SIGMA_DATA, rel=0.02)


def test_the_spectrum_falls_as_that_of_images():
    variances = np.sort(np.asarray(make_problem("gaussian").model.variances))[::-1]
    np.testing.assert_allclose(variances / variances[0], 1.0 / np.arange(1, 17) ** 2)


def test_in_one_dimension_the_flow_matches_quantiles():
    """The exact flow is monotone there, so it takes each quantile at HIGH to that of the data."""
    problem = make_problem("mixture-2d", dimension=1, components=4, seed=1)
    start = HIGH * start_noise(jax.random.key(0), 64, (1,), jnp.float64)
    w, mean, variance = (
        np.asarray(v).reshape(-1)
        for v in (problem.model.weights, problem.model.means, problem.model.variances)
    )

    def cdf(x, level):
        z = (np.asarray(x) - mean) / np.sqrt(2 * (variance + level**2))
        return np.array([[math.erf(v) for v in row] for row in z]) @ w / 2 + 0.5

    np.testing.assert_allclose(cdf(problem.flow(start), 0.0), cdf(start, HIGH), atol=2e-5)


def test_the_flow_of_a_gaussian_is_its_whitening():
    problem = make_problem("gaussian", dimension=3)
    start = HIGH * start_noise(jax.random.key(0), 5, (3,), jnp.float64)
    model = jax.tree.map(np.asarray, problem.model)
    z = (np.asarray(start) - model.mean) @ model.axes
    z *= np.sqrt(model.variances / (model.variances + HIGH**2))
    np.testing.assert_allclose(problem.flow(start), z @ model.axes.T + model.mean, rtol=1e-10)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("mixture-3d", {}, "mixture-8d, gaussian"),
        ("gaussian", {"components": 3}, "no components"),
        ("mixture-2d", {"components": 0}, "number of components is at least 1"),
        ("mixture-2d", {"dimension": 0}, "dimension is at least 1"),
    ],
)
def test_problems_that_there_are_not(name, options, message):
    with pytest.raises(ValueError, match=message):
        make_problem(name, **options)


# The ruler


@pytest.fixture(scope="module")
def measured(small):
    problem = make_problem("mixture-8d", dimension=3, components=3)
    return train._ruler(train.ByName(problem), 0)  # the table's test uses it again


def test_exact_samples_are_at_the_floor(measured):
    x = np.asarray(measured.problem.samples(jax.random.key(77), 1024))
    found = measured.measure(Fake(x, stochastic=True))
    assert 0.4 < found["sliced"] / measured.floor["sliced"] < 2.0
    assert abs(found["mmd2"]) < 4 * measured.floor["mmd2"]
    assert found["modes"] < 6 * measured.floor["modes"]
    assert "to_flow" not in found


def test_a_shift_is_measured_in_full(measured):
    """Along a random line in d dimensions a shift v is sqrt(|v|^2/d) long, root mean square."""
    shift = np.array([6.0, -8.0, 0.0])
    found = measured.measure(Fake(measured.end + shift))
    assert found["sliced"] == pytest.approx(10 / np.sqrt(3), rel=0.1)
    assert found["to_flow"] == pytest.approx(10.0, rel=1e-5)


def test_moments_of_a_gaussian_are_measured_along_its_axes():
    """Points at +-sqrt(d) deviations along the axes have its moments; moved and stretched, they
    do not.
    """
    problem = make_problem("gaussian", dimension=4)
    model = jax.tree.map(np.asarray, problem.model)
    deviations, ones = np.sqrt(model.variances), np.ones(1)
    ends = 2.0 * np.concatenate([np.diag(deviations), -np.diag(deviations)])
    exact = ends @ model.axes.T + model.mean
    assert max(ruler.errors(exact, problem, ones).values()) < 1e-12
    wide = ends * [1.0, 1.0, 1.3, 1.0] @ model.axes.T + model.mean
    shift = np.array([0.3, 0.0, -0.4, 0.0])
    found = ruler.errors(wide + shift, problem, ones)
    assert found["std"] == pytest.approx(0.3 / 2)
    assert found["mean"] == pytest.approx(0.5 / np.sqrt(model.variances.sum()))


def test_the_exact_flow_is_exact(measured):
    found = measured.measure(Fake(measured.end))
    assert found["to_flow"] == 0.0
    assert found["sliced"] < 2 * measured.floor["sliced"]
    assert measured.euler[1]["sliced"] > 5 * measured.floor["sliced"]


def test_a_lost_mode_is_an_error_of_one(measured):
    x = np.asarray(measured.problem.samples(jax.random.key(7), 4096))
    first = np.linalg.norm(x - measured.problem.modes[0], axis=1)
    others = np.linalg.norm(x[:, None] - measured.problem.modes[None, 1:], axis=2).min(axis=1)
    found = measured.measure(Fake(x[first > others][:1024]))
    assert found["modes"] >= 1.0


def test_samples_that_are_not_finite_are_no_samples(measured):
    x = measured.end.copy()
    x[3, 1] = np.nan
    with pytest.raises(FloatingPointError, match="1 of 1024 samples in 1 evaluations"):
        measured.measure(Fake(x))


# Cost


def test_multiplications_are_counted():
    a, b = jnp.ones((8, 16)), jnp.ones((16, 4))
    assert cost.multiplications(lambda a, b: a @ b, a, b) == 8 * 16 * 4
    loop = lambda a: jax.lax.scan(lambda c, _: (c @ b @ b.T, None), a, None, length=5)[0]  # noqa: E731
    assert cost.multiplications(jax.jit(loop), a) == 5 * 2 * 8 * 16 * 4
    either = lambda a: jax.lax.cond(a[0, 0] > 0, lambda a: a @ b @ b.T, lambda a: a, a)  # noqa: E731
    assert cost.multiplications(either, a) == 2 * 8 * 16 * 4
    layout = ("NHWC", "HWIO", "NHWC")

    def convolve(x, w):
        return jax.lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=layout)

    x, w = jnp.ones((2, 8, 8, 3)), jnp.ones((3, 3, 3, 5))
    once = 2 * 64 * 5 * 27
    assert cost.multiplications(convolve, x, w) == once
    both = jax.grad(lambda x, w: convolve(x, w).sum(), argnums=(0, 1))
    assert cost.multiplications(both, x, w) == 3 * once


# Rows and tables


def test_few_steps_takes_what_a_method_has():
    def sampler(steps):
        if steps == 2:
            raise ValueError("not in 2 steps")
        return Fake(None, nfe=4 if steps == 4 else 2 * steps)

    found, older = train.few_steps(sampler)
    assert list(found) == [2, 4] and older == []
    found, older = train.few_steps(sampler, [lambda steps: Fake(None, nfe=steps)])
    assert list(found) == [1, 2, 4] and older == [1]  # only that which the last one has not
    with pytest.raises(ValueError, match=r"no sampler of \(1, 2, 4\) evaluations"):
        train.few_steps(lambda steps: Fake(None, nfe=7))


def arguments(folder, *more):
    given = "--problem mixture-8d --dimension 3 --components 3 --steps 30 --start-steps 30"
    return [*given.split(), "--out", str(folder / "rows"), "--json", str(folder / "t.json"), *more]


def fresh(problem):
    return train.score_method(problem, 1).init(jax.random.key(0))["model"]


def failing(goal):
    raise FloatingPointError("student/loss is nan after 7 steps")


@pytest.mark.slow
def test_from_the_command_line_to_the_table(tmp_path, capsys, monkeypatch, small):
    monkeypatch.setitem(RECIPES, "broken", Recipe(failing))
    monkeypatch.setattr(train, "pretrained", lambda problem, seed, steps: (fresh(problem), 0.0))
    methods = ["--method", "broken,easy_consistency"]
    assert gym.main(arguments(tmp_path, *methods)) == 1  # one failed
    broken, row = json.loads((tmp_path / "t.json").read_text())["rows"]
    assert broken["error"] == "FloatingPointError: student/loss is nan after 7 steps"
    assert row["error"] is None and row["samples"] == 30 * 128 and row["stages"] == 1
    assert row["seconds"] > row["compile_seconds"] > 0 and row["pair_seconds"] < 1
    assert row["cost"] == pytest.approx(4 / 3, rel=0.05)  # a target is a third of an update
    assert set(row["nfe"]) == {"1", "2", "4"}
    one, two = row["nfe"]["1"], row["nfe"]["2"]
    assert one["sliced/floor"] == pytest.approx(one["sliced"] / row["floor"]["sliced"])
    assert one["euler/sliced"] == pytest.approx(row["euler"]["1"]["sliced"] / one["sliced"])
    assert "to_flow" in one and "to_flow" not in two  # which draws noise
    assert row["near_floor"] is (row["nfe"][str(row["best"])]["sliced/floor"] <= 3)
    page = (tmp_path / "t.md").read_text()
    assert "| `broken` |" in page and "failed: FloatingPointError" in page
    assert "| `easy_consistency` |" in page and "1 finished" in page
    assert (tmp_path / "t.png").read_bytes()[:4] == b"\x89PNG"
    shown = capsys.readouterr().out
    assert "NFE 4: sliced" in shown and "broken: failed" in shown

    calls = []

    def again(method, problem, **options):
        calls.append(method)
        raise ValueError("again")

    monkeypatch.setattr(train, "run", again)
    assert gym.main(arguments(tmp_path, *methods)) == 1
    assert calls == ["broken"]  # the failed row is tried again, the other kept
    assert json.loads((tmp_path / "t.json").read_text())["rows"][1] == row
    gym.main(arguments(tmp_path, *methods, "--fresh"))
    gym.main(arguments(tmp_path, *methods, "--seed", "1"))
    assert calls == ["broken"] + 2 * ["broken", "easy_consistency"]


def made_up(method, problem="gaussian", best=2.0, modes=0.1):
    """A row as the gym's, without training."""
    found = {"sliced": 0.1, "mmd2": 1e-4, "modes": modes, "to_flow": 0.2}
    found |= {f"{k}/floor": best for k in found} | {f"euler/{k}": 6.0 for k in list(found)}
    return {
        "method": method, "problem": problem, "dimension": 3, "seed": 0, "steps": 30, "updates": 30,
        "seconds": 3.0, "compile_seconds": 1.0, "pair_seconds": 0.0, "start_seconds": 1.0,
        "parameters": 10, "cost": 1.0, "floor": {"sliced": 0.05, "mmd2": 1e-5},
        "floor_spread": 0.01, "euler": {n: {"sliced": 0.5} for n in (1, 2, 4)}, "nfe": {1: found},
        "best": 1, "earlier": [], "nearer_than_euler": True, "near_floor": best <= 3, "error": None,
        "weakness": "", "machine": "here", "code": "0", "made": "now",
    }  # fmt: skip


@pytest.mark.slow
def test_stopping_keeps_what_was_made(tmp_path, monkeypatch, capsys):
    def run(method, problem, **options):
        if method == "easy_consistency":
            raise KeyboardInterrupt
        return made_up(method)

    monkeypatch.setattr(train, "run", run)
    names = "consistency_distillation,easy_consistency"
    assert gym.main(arguments(tmp_path, "--method", names)) == 130
    rows = json.loads((tmp_path / "t.json").read_text())["rows"]
    assert [r["method"] for r in rows] == ["consistency_distillation"]
    assert "1 of 2 rows" in capsys.readouterr().err


def test_a_damaged_row_is_made_again(tmp_path):
    settings = {"method": "m", "problem": "p", "steps": 3}
    store.keep(tmp_path, settings, made_up("m"))
    assert store.kept(tmp_path, settings)["nfe"][1]["sliced"] == 0.1
    assert store.kept(tmp_path, settings | {"steps": 4}) is None
    store.place(tmp_path, settings).write_text("{")
    assert store.kept(tmp_path, settings) is None


def test_the_page_and_the_figure_say_who_misses_an_aim():
    rows = [made_up("far", best=9.0), made_up("near", best=1.1), made_up("near", "mixture-2d")]
    page = report.markdown(rows, {"command": "c", "jax": "0", "device": "cpu"})
    far, near, _ = (line for line in page.split("\n") if line.startswith("| `"))
    assert "**9.00**" in far and far.endswith("misses floor |") and near.endswith("all |")
    assert "3 finished, 2 reach all aims and 3 took at most a minute" in page
    assert "- `far`: reason not known." in page and "- `near`" not in page
    assert report.missed(made_up("lost", modes=0.3)) == ["modes"]
    labels = [label.get_text() for label in report.figure(rows).axes[0].get_yticklabels()]
    assert labels == ["Euler's method", "near", "far"]
    with pytest.raises(ValueError, match="no finished row"):
        report.figure([made_up("near") | {"error": "E"}])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("--method easy_consistancy", "did you mean 'easy_consistency'?"),
        ("--method all --problem gauss", "no problem 'gauss'"),
        ("--method all --components 3 --problem gaussian", "no components"),
        ("--method all --steps 0", "--steps is at least 1"),
        ("--method all --seed -1", "not negative"),
        ("--method all --json t.txt", "ends in .json"),
    ],
)
def test_errors_come_before_any_work(given, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        gym.main(given.split())
    assert stopped.value.code == 2 and message in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.json"))


def test_help_says_what_the_numbers_mean(capsys):
    with pytest.raises(SystemExit):
        gym.main(["--help"])
    text = capsys.readouterr().out
    assert "cannot be told from exact" in text and all(name in text for name in RECIPES)


# Digits


def test_the_table_of_digits(tmp_path):
    scores = {"Frechet distance": 2.0, "MMD^2": 0.01, "precision": 0.9, "recall": 0.8}
    scores["agreement"] = 0.95
    known = {"teacher": scores, "real": scores, "euler": {n: scores for n in (1, 2, 4)}}
    row = {
        "method": "m", "error": None, "nfe": {1: scores, 4: scores | {"Frechet distance": 1.5}},
        "best": 4, "earlier": [4], "seconds": 60.0, "cost": 1.33, "steps": 9, "batch": 8,
        "count": 20, "seed": 0, "machine": "here",
    }  # fmt: skip
    lost = {"method": "lost", "error": "ValueError: a|b", "machine": "here"}
    options = SimpleNamespace(json=tmp_path / "digits.json")
    digits.write([row, lost], known, options, ["--method", "all"])
    page = (tmp_path / "digits.md").read_text()
    assert "| `m` | 2.00 | - | 1.50 * | 0.0100 | 0.90 | 0.80 | 0.95 | 60 | 1.33 |" in page
    assert "| `lost` | failed: ValueError: a\\|b |" in page
    assert json.loads((tmp_path / "digits.json").read_text())["references"]["real"] == scores
    assert (tmp_path / "digits.png").exists()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("--method easy_consistancy", "did you mean 'easy_consistency'?"),
        ("--method all --count 3", "--count is at least 20"),
        ("--method all --teacher nowhere", "nowhere is not a run"),
    ],
)
def test_errors_of_digits_come_before_any_work(given, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        digits.main(given.split())
    assert stopped.value.code == 2 and message in capsys.readouterr().err
