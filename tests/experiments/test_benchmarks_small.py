"""The benchmarks' own arithmetic, what they count and compare, and their command lines."""

import importlib
import json
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd
from experiments.benchmarks import (
    common,
    derivatives,
    diffrax_table,
    first_sample,
    reading,
    sampling,
)
from jaxdiff import solvers
from jaxdiff.networks import MLP

NAMES = (
    "sampling", "derivatives", "diffrax_table", "first_sample", "gaussian_start", "reading",
    "tuning_memory"
)  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def as_users_run():
    with jax.enable_x64(False):
        yield


@pytest.mark.parametrize("name", NAMES)
def test_command_lines(name, capsys):
    module = importlib.import_module(f"experiments.benchmarks.{name}")
    options = module.options_of([])
    if name != "gaussian_start":
        assert options.json is None and options.markdown is None
    with pytest.raises(SystemExit) as left:
        module.options_of(["--help"])
    assert left.value.code == 0
    stated = capsys.readouterr().out
    assert f"python -m experiments.benchmarks.{name}" in stated
    numbers = [a for a in vars(options) if a not in ("json", "markdown", "folder")]
    assert numbers and all(f"--{a.replace('_', '-')}" in stated for a in numbers)
    with pytest.raises(SystemExit) as left:
        module.options_of(["--no-such-option"])
    assert left.value.code == 2


def test_calls_take_turns():
    said = []
    calls = {"a": lambda: said.append("a"), "b": lambda: said.append("b")}
    times = common.alternate(calls, 3)
    assert "".join(said) == "ab" + "ab" + "ba" + "ab"
    assert {name: len(seconds) for name, seconds in times.items()} == {"a": 3, "b": 3}


def test_ratios_and_verdicts():
    """Of ratios 1.00, 1.01, ..., 1.20 the median is the 11th; 10 -+ 1.96 sqrt(21)/2 are 5 to 15."""
    first = [100.0 + k for k in range(21)]
    found = common.ratio(first[::-1], [100.0] * 21)
    np.testing.assert_allclose(found, (1.10, 1.05, 1.15))
    assert common.verdict(found, 1.15) == "reached"
    assert common.verdict(found, 1.10) == "open"
    assert common.verdict(found, 1.04) == "missed"
    one = common.ratio([2.0], [1.0])
    assert one == (2.0, 2.0, 2.0)


def test_intervals_hold_the_median_as_often_as_they_say(rng):
    inside = 0
    for _ in range(400):
        found = common.ratio(rng.exponential(size=31).tolist(), [1.0] * 31)
        inside += found.low <= np.log(2) <= found.high
    assert 0.93 < inside / 400 <= 1.0


def test_compilations_are_counted():
    with common.uncached():
        with common.compilations() as programs:
            f = jax.jit(lambda x: x + 2.0)
            ones, twos = np.ones(3, np.float32), np.ones(4, np.float32)
            for x in (ones, ones, twos):
                f(x)
        f(np.ones(5, np.float32))
    assert [p.name for p in programs] == ["jit(<lambda>)"] * 2
    assert all(p.seconds > 0 and not p.cached for p in programs)


def test_a_small_sweep_compiles_once_per_kind():
    """Padded: one program for every pair of rows and noises. One by one: one for every shape."""
    methods = [(solvers.euler, {}), (solvers.ddim, {"eta": 1.0})]
    group = sampling.tables(methods, (3, 5))
    D = sampling.small_denoiser()
    alone = sampling.sweep(D, (2,), group, 2)
    padded = sampling.sweep(D, (2,), jd.pad(group), 2)
    shapes = {(t.states.shape, t.denoised.shape, t.noises.shape) for t in group}
    assert alone["samplers"] == padded["samplers"] == 4
    assert alone["programs"] == len(shapes) == 4
    assert padded["programs"] == len(sampling.kinds(group)) == 2
    assert alone["all_programs"] >= 4 > padded["all_programs"] >= 2


def test_the_sweep_is_of_160_samplers_and_few_kinds():
    group = sampling.tables()
    assert len(group) == 160
    assert len({(t.name, repr(t.label), t.nodes.shape) for t in group}) == 160
    assert len({str(label) for label in Counter(repr(t.label) for t in group)}) == 20
    assert len(sampling.kinds(group)) <= sampling.PROGRAMS


def test_the_sweep_says_whether_its_aim_is_reached():
    row = {"network": "n", "samplers": 160, "all_programs": 9, "seconds": 1.0, "xla_s": 0.5}
    found = {"combinations": 160, "tables_s": 1.0, "pad_s": 0.1, "kinds": {}}

    def said(programs):
        rows = [row | {"way": "one by one", "programs": 160}]
        rows += [row | {"way": "padded", "programs": programs}]
        return "\n".join(sampling.sweep_lines(found | {"rows": rows}))

    assert "reached, with 8" in said(8) and "missed, with 9" in said(9)


def both(name):
    """A solve of a mixture in float64, by a table and by diffrax."""
    with jax.enable_x64(True):
        method = diffrax_table.METHODS[name]
        levels = jd.grids.karras(5, 0.05, 10.0, zero=False)
        table = jd.table(method.solver, levels, **method.options)
        start = 10.0 * jnp.asarray(np.random.default_rng(0).normal(size=(3, 2)))
        D = diffrax_table.mixture().denoiser
        ours = jd.sample(D, table, start)
        theirs = jax.jit(lambda *given: diffrax_table.solve(method, *given))(
            jax.tree_util.Partial(D), jnp.asarray(levels), start
        )
        return np.asarray(ours), np.asarray(theirs)


def test_diffrax_gives_the_numbers_of_a_table():
    np.testing.assert_allclose(*both("Adams-Bashforth 2"), rtol=1e-11, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["Euler", "Heun", "Ralston", "midpoint (flow time)"])
def test_diffrax_gives_the_numbers_of_every_table(name):
    np.testing.assert_allclose(*both(name), rtol=1e-11, atol=1e-12)


@pytest.mark.slow
def test_adaptive_solves_are_measured():
    D = jd.exact.Gaussian(np.zeros(2), np.ones(2)).denoiser
    D = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), D)
    start = jnp.ones((4, 2), jnp.float32) * 80.0
    scale = np.sqrt((1 + diffrax_table.LOW**2) / (1 + diffrax_table.HIGH**2))
    truth = np.full((4, 2), 80.0 * scale)
    for own in (True, False):
        found = diffrax_table.controlled(D, start, truth, 1e-5, own, 1, "wall")
        assert found["error"] <= found["largest_error"] < 1e-3
        assert 10 < found["mean_nfe"] <= found["most_nfe"] < 1000


@pytest.fixture(scope="module")
def tiny():
    """A perceptron of a few numbers."""
    return derivatives.problem(MLP(width=8, depth=1, embedding=8), (2,), 4, 0)


LABEL_ONLY = {"sCD": 1}  # a further call, of which only the head of the label is kept


@pytest.mark.parametrize("name", derivatives.LOSSES)
def test_losses_evaluate_networks_as_often_as_said(tiny, name):
    loss = derivatives.LOSSES[name]
    expected = loss.gradient + loss.fixed + LABEL_ONLY.get(name, 0)
    assert derivatives.evaluations(loss, tiny) == expected
    base = derivatives.Loss(lambda goal: derivatives.plain(goal, loss.gradient, loss.fixed))
    assert derivatives.evaluations(base, tiny) == loss.gradient + loss.fixed


@pytest.mark.slow
def test_passes_are_those_of_the_arithmetic():
    """Forward 1, backward 2, a value with its derivative 2, a further evaluation 1."""
    problem = derivatives.problem(MLP(width=256, depth=2), (16,), 64, 0)
    names = ("mean flow", "easy consistency")
    found = derivatives.compiled(problem, {n: derivatives.LOSSES[n] for n in names}, False)
    passes = {name: trained.passes for name, trained in found.items()}
    expected = {"plain 1 + 0": 3, "plain 1 + 1": 4, "mean flow": 4, "easy consistency": 4}
    assert passes == pytest.approx(expected, rel=0.05)


def test_verdicts_on_waiting():
    imported = {"seconds": 1.4, "each": [1.4], "numpy_s": 0.1, "jax_s": 1.2, "jaxdiff_s": 0.1}
    imported |= {"processor_s": 1.3}
    row = dict.fromkeys(first_sample.PARTS, 0.5) | {"xla_s": 0.1, "processor_s": 4.0}
    row |= {"programs": 5, "from_disk": 3}
    rows = [row | {"cache": "cold", "seconds": 9.0}]
    rows += [row | {"cache": "warm", "seconds": s} for s in (4.0, 4.5, 6.0)]
    text = "\n".join(first_sample.lines_of(imported, rows, 7))
    assert "1.5 s on one core: reached, with 1.40 s" in text
    assert "7 samples on disk within 5 s with a warm cache: reached, with 4.50 s" in text
    late = first_sample.lines_of(imported | {"seconds": 1.6}, rows[:2] + rows[3:] * 2, 7)
    assert "missed, with 1.60 s" in "\n".join(late) and "missed, with 6.00 s" in "\n".join(late)


@pytest.mark.slow
def test_a_first_sample_is_timed(monkeypatch):
    # a quick machine compiles all of it in less time than makes a program worth keeping
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    options = first_sample.options_of(["--repeats", "1", "--updates", "2", "--count", "3"])
    cold, warm = first_sample.first_samples(options)
    assert (cold["cache"], warm["cache"]) == ("cold", "warm")
    for row in (cold, warm):
        parts = sum(row[name] for name in first_sample.PARTS)
        assert 0.8 * row["seconds"] < parts <= row["seconds"] + 0.01
        assert all(row[name] >= 0 for name in first_sample.PARTS)
    assert cold["from_disk"] < warm["from_disk"] == warm["programs"]
    assert warm["xla_s"] < cold["xla_s"]


def test_pages_and_numbers(tmp_path, capsys):
    machine = common.metadata(batch=3)
    assert {"device", "kind", "cores", "python", "jax", "date", "batch"} <= set(machine)
    options = common.parser("").parse_args(
        ["--json", str(tmp_path / "new" / "a.json"), "--markdown", str(tmp_path / "a.md")]
    )
    lines = common.table(["x", "y"], [[1, "two"]])
    text = "Title.\n\n    python -m it\n\nWhat it is.\n"
    common.publish(options, "It", text, machine, lines, rows=[{"t": float("nan"), "n": (1, 2)}])
    made = (tmp_path / "a.md").read_text()
    assert made + "\n" == capsys.readouterr().out
    assert made.startswith("# It\n\nWhat it is.\n") and common.where(machine) in made
    assert "python -m" not in made and made.endswith("| x | y |\n| --- | --- |\n| 1 | two |\n")
    found = json.loads((tmp_path / "new" / "a.json").read_text())
    assert found == {"machine": machine, "rows": [{"t": None, "n": [1, 2]}]}


def test_verdicts_on_memory():
    row = {"case": "whole", "bytes": 1e9, "peak_bytes": 1.1e9, "devices": 1, "seconds": 2.0}
    row |= {"largest_device_bytes": 1e9, "parameters": 5e8, "file_bytes": 1e9}
    text = "\n".join(reading.lines_of([row, row | {"case": "float32", "peak_bytes": 2e9}]))
    assert "whole: peak of at most 1.2 times the parameters: reached, with 1.10" in text
    assert "float32: peak of at most 1.2 times the parameters: missed, with 2.00" in text


@pytest.mark.slow
def test_a_file_is_read_onto_devices(tmp_path):
    count = reading.write(tmp_path, 16)
    row = reading.child("--read", str(tmp_path), "--case", "sharded", devices=4)
    assert row["bytes"] == 2 * count and row["devices"] == 4
    assert row["bytes"] / 4 <= row["largest_device_bytes"] < 0.3 * row["bytes"]
    assert row["peak_bytes"] > 0 and row["before_bytes"] > 0
