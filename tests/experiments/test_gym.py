"""The gym: problems are what they say, reference metrics measure known distances, the table is
kept.
"""

import json
import math
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.digits import __main__ as digits
from experiments.gym import __main__ as gym
from experiments.gym import cost, figures, known, reference_metrics, report, store, train
from jaxdiff.app.problems import HIGH, PROBLEMS, SIGMA_DATA, make_problem
from jaxdiff.metrics import mmd2, rbf, sliced_wasserstein
from jaxdiff.networks import MLP
from jaxdiff.noise import start_noise
from jaxdiff.recipes import RECIPES
from jaxdiff.recipes.goal import Recipe


class Fake:
    """A sampler that gives what it is made for."""

    def __init__(self, x, stochastic=False, nfe=1):
        self.x, self.table = x, SimpleNamespace(stochastic=stochastic, nfe=nfe)

    def __call__(self, key, count, shape):
        return self.x[:count]


@pytest.fixture(scope="module")
def small():
    """A gym of small sets and a small network."""
    narrow = lambda log_variance=False: MLP(8, 1, embedding=8, log_variance=log_variance)  # noqa: E731
    with pytest.MonkeyPatch.context() as patch:
        few = {"COUNT": 512, "DRAWS": 2, "REAL_SETS": 4, "FEWER": 256, "PRECISION": 0.05}
        for name, value in few.items():
            patch.setattr(reference_metrics, name, value)
        patch.setattr(known, "MANY", 20_000)
        patch.setattr(train, "module", narrow)
        yield
        for kept in (train._reference, train._teacher_params):
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


# Reference metrics


@pytest.fixture(scope="module")
def measured(small):
    problem = make_problem("mixture-8d", dimension=3, components=3)
    return train._reference(train.ByName(problem), 0)  # the table's test uses it again


def test_exact_samples_are_at_the_floor(measured):
    x = np.asarray(measured.problem.samples(jax.random.key(77), 1024))
    found = measured.measure(Fake(x, stochastic=True))
    assert 0.4 < found["sliced"] / measured.real_data["sliced"] < 2.0
    for name in ("mmd2", "near"):
        assert abs(found[name]) < 4 * measured.real_data[name]
    for name in ("modes", "widths"):
        assert found[name] < 3 * measured.real_data[name]
    assert not missed(found, measured)
    assert "to_flow" not in found


def missed(found, measured):
    """The aims that a sampler in one evaluation with these numbers misses."""
    row = {"nfe": {1: train.ratios(found, measured, 1, True)}, "best": 1, "earlier": []}
    row |= {
        "near_real_data": found["sliced"] < 3 * measured.real_data["sliced"],
        "follows_flow": False,
    }
    return report.missed(row | {"nearer_than_euler": True})


@pytest.mark.parametrize("width", [0.5, 0.0, 1.5])
def test_modes_of_another_width_miss_the_aims(measured, width):
    """The shares of modes do not show it; the widths are off by what they are off."""
    x, means = np.asarray(measured.problem.samples(jax.random.key(78), 1024)), measured.modes.means
    own = means[np.linalg.norm(x[:, None] - means[None], axis=2).argmin(axis=1)]
    found = measured.measure(Fake(own + width * (x - own), stochastic=True))
    assert found["widths"] == pytest.approx(abs(width - 1), abs=0.1)
    assert "widths" in missed(found, measured) and "modes" not in missed(found, measured)
    assert ("near" in missed(found, measured)) == (width == 0.0)  # of so few samples


def test_one_direction_without_width_is_seen():
    problem = make_problem("mixture-2d", components=2)
    truth = known.modes_of(problem, jax.random.key(0))
    x = np.asarray(problem.samples(jax.random.key(1), 4000))
    own = truth.means[np.linalg.norm(x[:, None] - truth.means[None], axis=2).argmin(axis=1)]
    flat = own + (x - own) * [1.0, 0.0]
    assert truth.errors(flat)["widths"] == pytest.approx(np.sqrt(0.5), abs=0.05)
    assert truth.errors(own[:10])["widths"] == 1.0


@pytest.mark.slow
@pytest.mark.parametrize("width", [1.0, 0.5, 0.0])
def test_halved_widths_miss_aims_that_exact_samples_reach(width):
    """On the 8-D mixture, at full size: the distance along lines alone would let half pass."""
    problem = make_problem("mixture-8d")
    truth = known.modes_of(problem, jax.random.key(0))
    x, y = (np.asarray(problem.samples(jax.random.key(s), 4096), np.float64) for s in (1, 2))
    own = truth.means[np.linalg.norm(x[:, None] - truth.means[None], axis=2).argmin(axis=1)]
    made = own + width * (x - own)
    kernel = rbf(float(np.sqrt(np.mean(np.sum(truth.roots**2, axis=(1, 2))))))
    near = mmd2(made[:2048], y[:2048], kernel) / reference_metrics.mmd_real_data(y, kernel, 2048)
    passes = truth.errors(made)["widths"] <= report.WIDTHS, near <= train.MOST**2
    assert passes == ((True, True) if width == 1.0 else (False, False))
    along = sliced_wasserstein(made, y) / sliced_wasserstein(x, y)
    assert (along <= train.MOST) == (width > 0.0)


def test_two_seeds_have_one_unit(monkeypatch):
    monkeypatch.setattr(reference_metrics, "COUNT", 64)
    monkeypatch.setattr(reference_metrics, "PRECISION", 0.012)
    problem = make_problem("mixture-2d", components=2)
    units = [reference_metrics.unit(problem, jax.random.key(seed))[0] for seed in range(4)]
    assert max(units) < 1.05 * min(units)


def test_the_floor_of_an_mmd_is_its_root_mean_square():
    problem, kernel = make_problem("mixture-2d"), rbf(0.3)
    x = np.asarray(problem.samples(jax.random.key(0), 400 * 32))
    pairs = [mmd2(a, b, kernel) for a, b in zip(*np.split(x.reshape(400, 32, 2), 2), strict=True)]
    assert reference_metrics.mmd_real_data(x, kernel, 1000) * 1000 / 32 == pytest.approx(
        np.sqrt(np.mean(np.square(pairs))), rel=0.15
    )


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
    deviations = np.sqrt(model.variances)
    ends = 2.0 * np.concatenate([np.diag(deviations), -np.diag(deviations)])
    exact = ends @ model.axes.T + model.mean
    assert max(known.errors(exact, problem, None).values()) < 1e-12
    wide = ends * [1.0, 1.0, 1.3, 1.0] @ model.axes.T + model.mean
    shift = np.array([0.3, 0.0, -0.4, 0.0])
    found = known.errors(wide + shift, problem, None)
    assert found["std"] == pytest.approx(0.3 / 2)
    assert found["mean"] == pytest.approx(0.5 / np.sqrt(model.variances.sum()))


def test_the_exact_flow_is_exact(measured):
    found = measured.measure(Fake(measured.end))
    assert found["to_flow"] == 0.0 and not missed(found, measured)
    assert found["sliced"] < 2 * measured.real_data["sliced"]
    assert measured.euler[1]["sliced"] > 5 * measured.real_data["sliced"]


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
    def sampler(num_steps):
        if num_steps == 2:
            raise ValueError("not in 2 steps")
        return Fake(None, nfe=4 if num_steps == 4 else 2 * num_steps)

    found, older = train.few_steps(sampler)
    assert list(found) == [2, 4] and older == []
    found, older = train.few_steps(sampler, [lambda num_steps: Fake(None, nfe=num_steps)])
    assert list(found) == [1, 2, 4] and older == [1]  # only that which the last one has not
    with pytest.raises(ValueError, match=r"no sampler of \(1, 2, 4\) evaluations"):
        train.few_steps(lambda num_steps: Fake(None, nfe=7))


def arguments(folder, *more):
    given = "--problem mixture-8d --dimension 3 --components 3 --updates 30 --start-updates 30"
    return [*given.split(), "--out", str(folder / "rows"), "--json", str(folder / "t.json"), *more]


def fresh(problem):
    return train.score_method(problem, 1).init(jax.random.key(0))["student"]


def failing(goal):
    raise FloatingPointError("student/loss is nan after 7 steps")


@pytest.mark.slow
def test_from_the_command_line_to_the_table(tmp_path, capsys, monkeypatch, small):
    monkeypatch.setitem(RECIPES, "broken", Recipe(failing))
    monkeypatch.setattr(train, "pretrained", lambda problem, seed, num_steps: (fresh(problem), 0.0))
    methods = ["--method", "broken,easy_consistency"]
    assert gym.main(arguments(tmp_path, *methods)) == 1  # one failed
    broken, row = json.loads((tmp_path / "t.json").read_text())["rows"]
    assert broken["error"] == "FloatingPointError: student/loss is nan after 7 steps"
    assert row["error"] is None and row["samples"] == 30 * 128 and row["stages"] == 1
    assert row["seconds"] > row["compile_seconds"] > 0 and row["pair_seconds"] < 1
    assert row["cost"] == pytest.approx(4 / 3, rel=0.05)  # a target is a third of an update
    assert set(row["nfe"]) == {"1", "2", "4"}
    one, two = row["nfe"]["1"], row["nfe"]["2"]
    assert one["sliced/real_data"] == pytest.approx(one["sliced"] / row["real_data"]["sliced"])
    assert one["euler/sliced"] == pytest.approx(row["euler"]["1"]["sliced"] / one["sliced"])
    assert "to_flow" in one and "to_flow" not in two  # which draws noise
    assert row["near_real_data"] is (row["nfe"][str(row["best"])]["sliced/real_data"] <= 3)
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
    found = {"sliced": 0.1, "mmd2": 1e-4, "near": 1e-4, "modes": modes, "widths": 0.1}
    found["to_flow"] = 0.2
    found |= {f"{k}/real_data": best for k in found} | {f"euler/{k}": 6.0 for k in list(found)}
    return {
        "method": method,
        "problem": problem,
        "dimension": 3,
        "seed": 0,
        "budget": 30,
        "updates": 30,
        "seconds": 3.0,
        "compile_seconds": 1.0,
        "pair_seconds": 0.0,
        "start_seconds": 1.0,
        "parameters": 10,
        "cost": 1.0,
        "real_data": {"sliced": 0.05, "mmd2": 1e-5},
        "real_data_std": 0.01,
        "euler": {n: {"sliced": 0.5} for n in (1, 2, 4)},
        "nfe": {1: found},
        "best": 1,
        "earlier": [],
        "nearer_than_euler": True,
        "near_real_data": best <= 3,
        "error": None,
        "weakness": "",
        "machine": "here",
        "code": "0",
        "made": "now",
        "reference_metrics": reference_metrics.VERSION,
    }


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


def test_rows_of_other_code_are_made_anew_when_asked(tmp_path, monkeypatch, capsys):
    settings, made = {"method": "m", "problem": "p"}, []

    def make():
        made.append(1)
        return {"nfe": {}}

    for code, current in (("a", False), ("a", True), ("b", False), ("b", True), ("b", True)):
        monkeypatch.setattr(store, "code", lambda code=code: code)
        store.obtain(tmp_path, settings, make, "m", current=current)
    assert len(made) == 2 and "by other code (--current makes it anew)" in capsys.readouterr().out


def test_a_mixture_is_called_by_its_dimension():
    assert make_problem("mixture-8d", dimension=5, components=7).name == "mixture-5d"
    assert make_problem("mixture-8d").name == "mixture-8d"


def test_page_and_figure_are_made_of_a_table_that_there_is(tmp_path):
    path = tmp_path / "t.json"
    rows = [made_up("m"), made_up("n", "mixture-2d")]
    path.write_text(
        json.dumps({"machine": {"command": "c", "jax": "0", "device": "d"}, "rows": rows})
    )
    assert gym.main(["--page", str(path)]) == 0
    assert "| `m` |" in (tmp_path / "t.md").read_text() and (tmp_path / "t.png").exists()


def test_a_damaged_row_is_made_again(tmp_path):
    settings = {"method": "m", "problem": "p", "budget": 3}
    store.keep(tmp_path, settings, made_up("m"))
    assert store.kept(tmp_path, settings)["nfe"][1]["sliced"] == 0.1
    assert store.kept(tmp_path, settings | {"budget": 4}) is None
    store.place(tmp_path, settings).write_text("{")
    assert store.kept(tmp_path, settings) is None


def test_the_page_and_the_figure_say_who_misses_an_aim():
    rows = [made_up("far", best=9.0), made_up("near", best=1.1), made_up("near", "mixture-2d")]
    metadata = {"command": "c", "jax": "0", "device": "cpu"}
    page = report.markdown(rows, metadata)
    far, near, _ = (line for line in page.split("\n") if line.startswith("| `"))
    assert page.count("| **other** | ") == 2  # they are of no family
    assert "**9.00**" in far and far.endswith("misses ratio |") and near.endswith("all |")
    assert "3 finished, 2 reach all aims, 0 all that they can have, and 3 took at most" in page
    assert "- `far`: reason not known." in page and "- `near`" not in page
    assert report.missed(made_up("lost", modes=0.3)) == ["modes"]
    no_one = made_up("later") | {"nearer_than_euler": None}
    old = made_up("old")
    del old["nfe"][1]["widths"], old["nfe"][1]["near"], old["reference_metrics"]
    page = report.markdown([no_one, old, old | {"seed": 1, "cost": 2.0}], metadata)
    later, before = (line for line in page.split("\n") if line.startswith("| `"))
    assert later.endswith("all others; Euler: it has no NFE 1 |")
    assert before.endswith("all others; widths and near: not among the metrics of this row |")
    assert "| 1.00 / 2.00 |" in before and "seed 0 and 1" in page
    assert "0 reach all aims, 1 all that they can have" in page
    assert "2 rows were measured by earlier reference metrics" in page
    labels = [label.get_text() for label in figures.figure(rows).axes[0].get_yticklabels()]
    assert labels == ["Euler's method", "near", "far"]
    mixed = [made_up(name) for name in ("sim", "add", "no_more", "tract", "sid")]
    lines = report.markdown(mixed, metadata).split("\n")
    found = [line.split(" |")[0][2:] for line in lines if line.startswith(("| `", "| **"))]
    assert found == ["**trajectory**", "`tract`", "**score**", "`sim`", "`sid`", "**adversarial**",
                     "`add`", "**other**", "`no_more`"]  # fmt: skip
    with pytest.raises(ValueError, match="no finished row"):
        figures.figure([made_up("near") | {"error": "E"}])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("--method easy_consistancy", "did you mean 'easy_consistency'?"),
        ("--method all --problem gauss", "no problem 'gauss'"),
        ("--method all --components 3 --problem gaussian", "no components"),
        ("--method all --updates 0", "--updates is at least 1"),
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
    assert "1 is indistinguishable from exact" in text and all(name in text for name in RECIPES)


# Digits


def test_the_table_of_digits(tmp_path):
    scores = {"Frechet distance": 2.0, "MMD^2": 0.01, "precision": 0.9, "recall": 0.8}
    scores["agreement"] = 0.95
    known = {"teacher": scores, "real": scores, "euler": {n: scores for n in (1, 2, 4)}}
    row = {
        "method": "m", "error": None, "nfe": {1: scores, 4: scores | {"Frechet distance": 1.5}},
        "best": 4, "earlier": [4], "seconds": 60.0, "cost": 1.33, "updates": 9, "batch": 8,
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
