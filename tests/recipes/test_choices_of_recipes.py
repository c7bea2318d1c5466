"""Every choice of every recipe has an effect, which is seen in the programs of its stages without
compiling them; and what has none, from Python too, is refused by name.
"""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from recipes.test_recipes import TEACHER, goal

from jaxdiff import distill
from jaxdiff.distill.parts.stage import Before
from jaxdiff.distill.parts.student import Student
from jaxdiff.method import Context
from jaxdiff.prediction import uniform_weight
from jaxdiff.recipes import RECIPES
from jaxdiff.recipes.choices import choices
from jaxdiff.solvers.steps import heun_step
from jaxdiff.training import init_state

ROWS, CLASSES = 64, 3
# of choices whose effect is not in the loss, or that have none without another
ELSEWHERE = {
    ("dmd", "pairs"), ("reflow", "pairs"), ("reflow", "num_steps"), ("sfd", "shares"),
}  # fmt: skip
BESIDE = {
    ("sfd", "analytic"): {"num_steps": (4, 2)},
    ("sfd_v", "analytic"): {"num_steps": (2, 4), "extra": (5, 5)},
    ("mean_flow_of_data", "c"): {"power": 0.5},
    ("improved_mean_flow", "c"): {"power": 0.5},
    ("flow_map_lagrangian", "c"): {"power": 0.5},
    ("flow_map_eulerian", "c"): {"power": 0.5},
    ("flow_map_semigroup", "c"): {"power": 0.5},
}
OTHERWISE = {
    "analytic": [True], "keep": [(2, 4, 8, 16)], "divergence": ["kl"], "intermediate": [(0.7, 0.3)],
    "phases": [(4, 1)], "windows": [(2, 1)], "segments": [(2, 1)], "later": [(-1.0, 1.0)],
    "earlier": [(-1.0, 1.0)], "extra": [3, (11, 5, 3)], "guidance_range": [(1.0, 4.0)],
    "starts": [2], "warmup": [0.9],
}  # fmt: skip


@pytest.fixture(autouse=True)
def single_precision():
    with jax.enable_x64(False):
        yield


def teacher(y, s, cond=None):
    """Of any class."""
    return TEACHER.denoiser(y, s)


def reward():
    return lambda x, cond: -jnp.sum(jnp.square(x), axis=1)


def seen(name, **given):
    """What the stages of a recipe are: programs of losses with their constants, periods, tables."""
    found, before = [], None
    classes = None if RECIPES[name].between_blocks else CLASSES
    aim = goal(name)._replace(teacher=teacher, reward=reward, classes=classes)
    for stage in RECIPES[name].stages(aim, **given):
        method = stage.method(before)
        state = init_state(method, jax.random.key(0))
        found.append((stage.name, stage.share))
        for player in method.players:
            found.append(program(method, state, player, classes))
        tables = [table_of(method, state, k) for k in (1, 2, 3, 4, 8)]
        found.append([leaf.tolist() for leaf in jax.tree.leaves(tables)])
        before = Before(functools.partial(method.sampler, state), state.params["student"])
    return repr(found)


def program(method, state, player, classes):
    rows = jnp.ones((ROWS, 2), jnp.float32)
    path = jnp.ones((ROWS, 5 if classes else 17, 2), jnp.float32)
    batch = {"image": rows, "start": rows, "path": path}
    if classes:
        batch["label"] = jnp.zeros(ROWS, jnp.int32)
    context = Context(jnp.asarray(3), state.params, state.ema, method.frozen)
    one = method.players[player]

    def loss(params):
        return one.loss(params, context, batch, jax.random.key(1))[0]

    made = jax.make_jaxpr(jax.value_and_grad(loss))(state.params[player])
    constants = [c for c in made.consts if not jnp.issubdtype(c.dtype, jax.dtypes.prng_key)]
    turns = one.turn and [one.turn(n) for n in range(24)]
    ema = {k: float(decay(jnp.asarray(3))) for k, decay in one.ema.items()}
    text = re.sub("0x[0-9a-f]+", "", str(made))
    return text, [np.asarray(c).tolist() for c in constants], one.every, turns, ema


def table_of(method, state, num_steps):
    try:
        return method.sampler(state, num_steps=num_steps).table
    except ValueError:
        return None


def others(name, choice):
    """Values other than the default, of which one is to be accepted."""
    default = choice.default
    if name in OTHERWISE:
        return OTHERWISE[name]
    if isinstance(choice.kind, dict):
        return [f for f in choice.kind.values() if f is not default]
    if isinstance(default, bool):
        return [not default]
    if isinstance(default, int):
        return [default + 1, 2 * default, default - 1]
    if isinstance(default, float):
        return [0.7 * default + 0.05]
    if isinstance(default, tuple):
        return [tuple(2 * x for x in default)]
    return [0.5, 2]


plain = functools.cache(seen)


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_every_choice_has_an_effect(name):
    for choice, known in choices(RECIPES[name]).items():
        if (name, choice) in ELSEWHERE:
            continue
        beside = BESIDE.get((name, choice), {})
        said, changed = [], False
        for value in others(choice, known):
            try:
                changed |= seen(name, **beside, **{choice: value}) != plain(name, **beside)
            except ValueError as error:
                said.append(str(error))
            if changed:
                break
        assert changed, (choice, said)


def net(params, x, label, cond=None, *, key=None):
    return x


NET = Student(net, {})
CRITIC = distill.Critic(lambda params, x, cond: x, {})
WITHOUT_EFFECT = {
    "solver_step= is the teacher's": lambda: distill.easy_consistency(NET, solver_step=heun_step),
    "is the teacher's, and there is no": lambda: distill.multistep_consistency(
        None, NET, solver_step=heun_step
    ),
    "c=0.5 is of the adaptive weight": lambda: distill.mean_flow(NET, power=0.0, c=0.5),
    "c=0.6 is of": lambda: distill.improved_mean_flow(NET, power=0.0, c=0.6),
    "c=0.7 is of": lambda: distill.align_your_flow(teacher, NET, power=0.0, c=0.7),
    "c=0.8 is of": lambda: distill.self_distilled_flow_map(NET, c=0.8),
    "weight= are of the teacher's term": lambda: distill.add(
        teacher, NET, CRITIC, distillation=0.0, weight=uniform_weight
    ),
    "b= is the slope of what": lambda: distill.easy_consistency(NET, k=0.0, b=2.0),
    "bound= is of the adversarial": lambda: distill.sida(
        teacher, NET, distill.FakeScore(head=CRITIC), adversarial=0.0, bound=5.0
    ),
    "size=0.2 is of the penalty": lambda: RECIPES["ladd"].stages(
        goal("ladd"), penalty=0.0, size=0.2
    ),
}


@pytest.mark.parametrize("message", WITHOUT_EFFECT)
def test_what_has_no_effect_is_refused(message):
    with pytest.raises(ValueError, match=message):
        WITHOUT_EFFECT[message]()


@pytest.mark.parametrize(
    "name, choice",
    [("easy_consistency", "solver_step"), ("multistep_consistency_training", "solver_step"),
     ("continuous_training", "held")],
)  # fmt: skip
def test_what_no_recipe_could_have_is_no_choice(name, choice):
    assert choice not in choices(RECIPES[name])
