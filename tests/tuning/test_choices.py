"""What every tuner lets one choose: each choice has an effect, others are refused by name."""

import functools
import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import grids, solvers
from jaxdiff.app import main as cli
from jaxdiff.exact import GaussianMixture
from jaxdiff.files import read_json
from jaxdiff.noise import start_noise
from jaxdiff.recipes.choices import choices, chosen
from jaxdiff.recipes.tuning import TUNERS, Descent, Task
from jaxdiff.recipes.tuning.solve import solve
from jaxdiff.sampling.sample import sample
from jaxdiff.sampling.trace import table
from jaxdiff.training.tune import tune
from jaxdiff.tuning.baselines import Baseline
from jaxdiff.typing import Outputs

MIXTURE = GaussianMixture([0.3, 0.7], [[-1.0, 0.0], [1.0, 0.5]], [0.02, 0.05])
NFE, UPDATES = 4, 6
OTHERWISE = {
    "fine": 8, "samples": 3, "teacher_order": 1, "measure": "l1", "discounts": "2.0",
    "lows": "5,20", "order": 1, "corrector": "true", "power": 2.0, "separate": 0, "iterations": 1,
    "offsets": "false", "radius": 0.0, "start_rate": 1e-4, "level_rate": 0.5, "momentum": 0.1,
    "alone": 0.0, "offset_rate": 5.0, "reach": 1e-6, "log": "false",
    "clip": 1e-3, "window": 1, "keep_start": "false", "weight_rate": 2.0, "b1": 0.2, "b2": 0.7,
    "rounds": 1, "direction": 0.3, "time": 0.4, "move": "false", "eta": 0.9,
    "from_start": "false", "relative": "true", "learning_rate": 0.1, "num_updates": 2,
    "patience": 1, "tolerance": 1e6, "step": "amed_dpm2", "bottleneck": "false", "index": 0,
    "predictor_rate": 1.0,
}  # fmt: skip


BESIDE = {"patience": {"learning_rate": 0.5}}  # choices with which another one shows


def featured(y, s, cond=None, *, full=False):
    """The exact denoiser with features, as a network has them."""
    out = MIXTURE.denoiser(y, s, cond)
    maps = (jnp.tanh(y), jnp.tanh(out[:, :1]), out)
    return Outputs(out, jnp.zeros(len(y), y.dtype), maps) if full else out


def pairs(number):
    start = 80.0 * start_noise(jax.random.key(number), 16, (2,), jnp.float64)
    end = sample(MIXTURE.denoiser, table(solvers.unipc, grids.log_snr(60)), start)
    return {"start": np.asarray(start), "image": np.asarray(end)}


def blank(**options):
    none = {"start": np.zeros((16, 2))}
    return Task(MIXTURE.denoiser, NFE, none, none, none["start"], **options)


@functools.cache
def task():
    """With one baseline, so that there is nothing to rank."""
    data = np.asarray(MIXTURE.sample(jax.random.key(7), 64))
    choice = (solvers.ipndm, {"order": 3})
    known = [Baseline(*choice, grids.karras(NFE, 0.05), "Karras")]
    return blank(num_updates=UPDATES, batch=8, solver=choice, baselines=known)._replace(
        pairs=pairs(0), held=pairs(1), data=data
    )


def made(name, **given):
    """The numbers of what a tuner makes of its task."""
    tuner = TUNERS[name]
    own = task()._replace(solver=None) if TUNERS[name].own_solver else task()
    own = own._replace(denoiser=featured) if name == "amed_predictor" else own
    plan = tuner.plan(own, **chosen(name, tuner, given))
    if isinstance(plan, Descent):
        scores = itertools.count(0, -1)  # each table is better than the one before
        plan = [
            tune(
                plan.method, plan.data, lambda table: float(next(scores)), plan.start,
                num_updates=UPDATES, every=UPDATES, key=0, progress=False,
            ).table
        ]  # fmt: skip
    return [np.asarray(leaf) for one in plan for leaf in jax.tree.leaves(one)]


plain = functools.cache(made)


def same(a, b):
    return len(a) == len(b) and all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "choice"), [(n, c) for n, t in TUNERS.items() for c in choices(t)]
)
def test_every_choice_has_an_effect(name, choice):
    known = choices(TUNERS[name])[choice]
    assert known.meaning
    beside = BESIDE.get(choice, {})
    without = made(name, **beside) if beside else plain(name)
    assert not same(made(name, **beside | {choice: OTHERWISE[choice]}), without)


@pytest.mark.parametrize("name", TUNERS)
def test_choices_are_refused_by_name(name):
    tuner = TUNERS[name]
    with pytest.raises(ValueError, match=f"{name} has no choice 'size'; it has: "):
        chosen(name, tuner, {"size": 1})
    for choice in choices(tuner):
        with pytest.raises(ValueError, match=f"{choice} of {name} should be"):
            chosen(name, tuner, {choice: "much"})
    with pytest.raises(ValueError, match="has no choice 'size'"):
        solve(blank(), name, choices={"size": 1})


def test_ranges_are_stated():
    wrong = {
        ("gits", "fine"): (0, "int at least 1, like 60; not 0"),
        ("ld3", "radius"): (-1.0, "float at least 0"),
        ("ggdm", "eta"): (0.0, "float above 0 and at most 1"),
        ("gits", "measure"): ("l3", "l1 or l2 or dev"),
        ("bns", "window"): (0, "int at least 1 or none"),
    }
    for (name, choice), (value, said) in wrong.items():
        with pytest.raises(ValueError, match=re.escape(said)):
            chosen(name, TUNERS[name], {choice: value})
    with pytest.raises(ValueError, match="fine of gits must be above the 4 evaluations"):
        solve(blank(), "gits", choices={"fine": 4})


def test_choices_by_the_command_line(tmp_path, capsys):
    """Listed by help, and refused by name before anything is written."""
    with pytest.raises(SystemExit):
        cli.main(["tune", "--method", "gits", "--help"])
    assert "fine 60: steps of the teacher's grid" in " ".join(capsys.readouterr().out.split())
    assert cli.main([*command_of(tmp_path), "--choices", "size", "3"]) == 2
    assert "gits has no choice 'size'; it has: fine, samples" in capsys.readouterr().err
    assert not (tmp_path / "tuned").exists()


def command_of(tmp_path):
    command = ["tune", "--problem", "gaussian", "--method", "gits", "--nfe", "2", "--pairs", "16"]
    return [*command, "--out", str(tmp_path / "tuned")]


@pytest.mark.slow
def test_choices_are_kept_with_the_tables(tmp_path, capsys):
    out, given = tmp_path / "tuned", {"fine": 20, "measure": "l1"}
    command = command_of(tmp_path)
    assert cli.main([*command, "--choices", "fine", "20", "measure", "l1"]) == 0
    assert read_json(out / "tune.json")["choices"] == given
    assert read_json(out / "nfe-2" / "table.json")["metadata"]["choices"] == given
    capsys.readouterr()
    assert cli.main(command) == 2
    assert "was tuned otherwise (choices: " in capsys.readouterr().err
