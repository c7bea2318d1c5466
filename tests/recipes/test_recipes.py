"""Every recipe trains under jit from its teacher, in all its stages, and its student samples."""

import dataclasses
import functools
import json
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import distill
from jaxdiff.app.config import Distill
from jaxdiff.app.methods import check_method
from jaxdiff.app.models import Model
from jaxdiff.app.student_file import decode, sampler_metadata
from jaxdiff.distill.parts.stage import Before
from jaxdiff.exact import Gaussian
from jaxdiff.networks import MLP, from_linen, init
from jaxdiff.prediction import uniform_weight
from jaxdiff.recipes import FAMILIES, RECIPES, Goal
from jaxdiff.recipes.choices import choices, chosen
from jaxdiff.sampling.sampler import Sampler
from jaxdiff.sampling.table import table_of_dict
from jaxdiff.training import init_state
from jaxdiff.training.ema import constant
from jaxdiff.training.fit_stages import fit_stages
from jaxdiff.typing import Outputs

TEACHER = Gaussian(np.array([0.2, -0.4]), np.array([0.09, 0.5]))
STEPS = 24


@pytest.fixture(scope="module", autouse=True)
def single_precision():
    """As users train."""
    with jax.enable_x64(False):
        yield


def network(params, x, label, cond=None, *, key=None, full=False):
    """A few numbers of the labels scale and shift the state."""
    stated = label if label.ndim == 2 else label[:, None]
    features = jnp.concatenate([jnp.ones_like(stated[:, :1]), jnp.tanh(stated)], axis=1)
    out = (features @ params["scale"]) * x + features @ params["shift"]
    if not full:
        return out
    return Outputs(out, stated[:, 0] * params["log_variance"], (jnp.tanh(out),))


def make(labels, log_variance):
    numbers = np.random.default_rng(labels).normal(size=(2, labels + 1, 2)) * 0.1
    params = {"scale": jnp.asarray(numbers[0]), "shift": jnp.asarray(numbers[1])}
    return network, {k: v.astype(jnp.float32) for k, v in params.items()} | {
        "log_variance": jnp.zeros((), jnp.float32)
    }


def make_linen(labels, log_variance):
    """A network of blocks, for the method that puts layers between them."""
    module = MLP(width=8, depth=1, embedding=8, log_variance=log_variance)
    return from_linen(module), init(module, jax.random.key(labels), (2,), labels=labels)


def goal(name):
    network = make_linen if RECIPES[name].between_blocks else make
    return Goal(
        TEACHER.denoiser, network, (2,), STEPS, rate=1e-3, sigma_data=0.55,
        ema={"average": constant(0.9)},
    )  # fmt: skip


def data(step):
    normal = np.random.default_rng(step).normal(size=(32, 2))
    return {"image": (normal * [0.3, 0.7] + [0.2, -0.4]).astype(np.float32)}


def train(name):
    stages = RECIPES[name].stages(goal(name))
    return fit_stages(stages, data, num_updates=STEPS, key=0, ema="average", progress=False)


def check(name):
    method, state = train(name)
    student = jax.tree.leaves(state.params["student"])
    assert all(np.isfinite(leaf).all() for leaf in student)
    start = jax.tree.leaves(method.init(state.key)["student"])
    moved = [not np.array_equal(a, b) for a, b in zip(start, student, strict=True)]
    assert any(moved), "nothing was trained"
    numbers = []
    for steps in (1, 2, 4):
        try:
            sampler = method.sampler(state, num_steps=steps, ema="average")
        except ValueError as error:
            assert str(steps) in str(error)
            continue
        assert sampler.table.nfe == steps
        x = sampler(jax.random.key(1), 3, (2,))
        assert x.shape == (3, 2) and np.isfinite(x).all()
        numbers.append(steps)
        if len(numbers) == 2:  # one and several; each is a program
            break
    assert min(numbers, default=None) == RECIPES[name].fewest


QUICK = ("easy_consistency",)
SLOW = [name for name in RECIPES if name not in QUICK]


@pytest.mark.parametrize("name", QUICK)
def test_a_recipe(name):
    check(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW)
def test_every_recipe(name):
    check(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_every_student_can_be_saved(name):
    """What its file says is the sampler that it was, for a network of this library."""
    stages = RECIPES[name].stages(goal(name)._replace(network=make_linen))
    method = stages[0].method(None)
    state = init_state(method, jax.random.key(1))
    if len(stages) > 1:
        before = Before(functools.partial(method.sampler, state), state.params["student"])
        method = stages[-1].method(before)
        state = init_state(method, jax.random.key(1))
    draw = np.random.default_rng(0)
    params = jax.tree.map(
        lambda x: x + 0.1 * draw.normal(size=x.shape).astype(np.float32),
        state.ema["student"]["average"],
    )  # a fresh network is zero, whatever its inputs
    state = state._replace(ema=state.ema | {"student": {"average": params}})
    said = json.loads(json.dumps(sampler_metadata(functools.partial(method.sampler, state))))
    steps, entry = next(iter(said.items()))
    D = decode(entry["denoiser"], MLP(width=8, depth=1, embedding=8), params)
    same = Sampler(D, table_of_dict(entry["table"]), entry["latent"])
    own = method.sampler(state, num_steps=int(steps), ema="average")
    found = [np.asarray(made(jax.random.key(2), 3, (2,))) for made in (own, same)]
    np.testing.assert_allclose(*found, rtol=1e-5, atol=1e-6)
    assert np.ptp(found[0]) > 0


@pytest.mark.parametrize("name", RECIPES)
def test_every_choice_reaches_the_method(name):
    known = choices(RECIPES[name])
    first, *_ = RECIPES[name].stages(goal(name), **{k: c.default for k, c in known.items()})
    assert first.method(None).players
    assert all(str(choice) for choice in known.values())


def test_choices_are_read_by_their_kind():
    words = {"later": "-0.6,1.6", "unequal": "0.25", "normalise": "true", "warmup_updates": 7.0}
    read = chosen("mean_flow", RECIPES["mean_flow"], words)
    assert read == {"later": (-0.6, 1.6), "unequal": 0.25, "normalise": True, "warmup_updates": 7}
    read = chosen("tract", RECIPES["tract"], {"weight": "uniform_weight", "phases": "4,2"})
    assert read == {"weight": uniform_weight, "phases": (4, 2)}
    known = choices(RECIPES["mean_flow"])
    assert known["power"].default == 0.75 and "power 0 is plain least squares" in str(
        known["power"]
    )
    assert choices(RECIPES["mean_flow_of_data"])["power"].default == 0.0
    wrong = {"power": "much", "normalise": 2, "warmup_updates": 0.5, "unequals": 1}
    for name, value in wrong.items():
        with pytest.raises(ValueError, match=name):
            chosen("mean_flow", RECIPES["mean_flow"], {name: value})
    with pytest.raises(ValueError, match="uniform_weight, snr_weight"):
        chosen("tract", RECIPES["tract"], {"weight": "heavy"})


def test_the_families_are_the_folders_of_distill():
    folders = {p.parent.name for p in pathlib.Path(distill.__path__[0]).glob("*/__init__.py")}
    smaller = "compression"  # of networks smaller than the teacher's, which no recipe makes
    assert {*FAMILIES} == folders - {"parts", smaller}
    for family, recipes in FAMILIES.items():
        for name, recipe in recipes.items():
            assert recipe.of[0].__module__.split(".")[2] == family, name
    assert len(RECIPES) == sum(map(len, FAMILIES.values()))


@pytest.mark.parametrize("name", [name for name, recipe in RECIPES.items() if recipe.divides])
def test_a_batch_that_does_not_divide_is_refused_before_it_is_trained_on(name):
    divides = RECIPES[name].divides
    size = choices(RECIPES[name])[divides].default
    teacher = Model(TEACHER.denoiser, {}, (2,), 0, False, {})
    whole = Distill("t", "r", name, batch=2 * size)
    check_method(whole, teacher)
    for given in (
        {"gradient_accumulation": 4},
        {"batch": size + 1},
        {"choices": {divides: 3 * size}},
    ):
        with pytest.raises(ValueError, match=f"--batch .* --choices {divides}"):
            check_method(dataclasses.replace(whole, **given), teacher)


TOY = """
import contextlib, io
from jaxdiff import recipes
from jaxdiff.distill.consistency.consistency import consistency_tables
from jaxdiff.distill.parts.frame import regression
from jaxdiff.recipes.goal import Recipe, one

def toy(goal, level: float = 2.0):
    "level: of the noise that is taken away."
    student = goal.student()
    def loss(step):
        s = 0 * step.x0[:, 0] + level
        return ((step.student(step.x0 + level, s) - step.teacher(step.x0 + level, s)) ** 2).sum(1)
    tables = consistency_tables(student, (0.8,))
    return one(regression(student, loss, tables, optimiser=None, teacher=goal.teacher))

recipes.RECIPES["toy"] = Recipe(toy, share=0.5)
from experiments.digits import __main__ as digits
from experiments.gym import __main__ as gym
from experiments.gym import train
from jaxdiff.app import main as cli
from recipes import test_recipes

def said(run, *arguments):
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.suppress(SystemExit):
        run(*arguments)
    return " ".join(out.getvalue().split())

assert "level 2.0: of the noise that is taken away." in said(
    cli.main, ["distill", "--method", "toy", "--help"]
)
distil, _ = cli.COMMANDS["distill"]
chosen = distil("distill", ["--teacher", "t", "--run", "r", "--method", "toy"])
assert chosen.method == "toy"
for page in (gym, digits):
    assert "toy" in said(page.parse, ["--help"])
assert gym.parse(["--method", "toy", "--json", FILE, "--out", FOLDER])[1] == ["toy"]
assert train.updates_of("toy", 100) == 50
assert "toy" in test_recipes.SLOW
test_recipes.check("toy")
"""


@pytest.mark.slow
def test_a_method_put_into_the_list_is_everywhere(tmp_path):
    """On the command line, in the experiments and in these tests."""
    places = {"FILE": str(tmp_path / "t.json"), "FOLDER": str(tmp_path / "rows")}
    code = f"import sys\nsys.path[:] = {sys.path!r}\n" + TOY
    for name, place in places.items():
        code = code.replace(name, repr(place))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
