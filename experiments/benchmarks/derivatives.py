"""The cost of losses with derivatives of the network, against plain regression.

    python -m experiments.benchmarks.derivatives [--json FILE] [--markdown FILE]

Mean flow, continuous consistency models (sCM) and self-distilled flow maps regress a network onto
targets with its own derivative along a direction, one ``jax.jvp``. Measured are the seconds of
their training step (value and gradient of the loss, Adam) with the recipes of jaxdiff.recipes, on
the demo's U-Net for 8x8 images and on a perceptron for points. Each is compared with plain
regression of as many network evaluations: so many of the student with gradient, so many of the
student or its teacher without, no derivative. Aim: at most 1.5 times plain regression.

Arithmetic and overhead are distinguished by passes: the floating-point operations of the step by
XLA's cost analysis, in units of one forward evaluation of the network. Plain regression takes 3
(forward, and backward for input and parameters), a value with its derivative 2, so that 4/3 is what
one derivative costs at least. A loss whose gradient goes through the derivative (Lagrangian and
Eulerian flow maps, marked) takes 6 for it, and misses the aim by arithmetic alone. "Arithmetic" is
the ratio of passes, "overhead" what time adds to it. Derivatives run with matrix products in full
precision, which a GPU does slower than its default ones: that is part of their overhead there. On
Linux, intermediate results of more than 32 MB may be fresh memory in every step, which makes it up
to a third slower (MALLOC_MMAP_THRESHOLD_=1073741824 MALLOC_TRIM_THRESHOLD_=1073741824 in the
environment prevents it); the batches here stay below.

A step is one call of a compiled program that gives its state away, as ``jaxdiff.fit`` makes it,
but without moving averages and, unless --guard is given, without its check for finite numbers: both
cost every loss the same, the check much compilation on a CPU. Takes two to three minutes on two CPU
cores.
"""

import argparse
import concurrent.futures
import statistics
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxdiff as jd
from experiments.benchmarks import common
from experiments.numbers import count
from jaxdiff.app import config
from jaxdiff.app.network import build_network
from jaxdiff.distance import squared
from jaxdiff.distill.parts.frame import Step, regression
from jaxdiff.distill.parts.levels import log_normal_levels
from jaxdiff.distill.parts.primitives import perturb
from jaxdiff.distill.parts.student import Student
from jaxdiff.distill.parts.tables import jump_table
from jaxdiff.distill.score_matching import score_matching
from jaxdiff.method import Method
from jaxdiff.networks import MLP, from_linen, graft, init
from jaxdiff.process import RectifiedFlow
from jaxdiff.recipes import RECIPES, Goal
from jaxdiff.training.step import State, guarded_update, init_state, update

MOST = 1.5  # the aim


class Loss(NamedTuple):
    """A loss to be measured.

    make: its method, of a goal. gradient, fixed: evaluations of the network with and without
    gradient. derivatives: how many of these come with a derivative. through: whether the gradient
    goes through one.
    """

    make: Callable[[Goal], Method]
    gradient: int = 1
    fixed: int = 0
    derivatives: int = 0
    through: bool = False


def recipe(name: str) -> Callable[[Goal], Method]:
    """Return the first stage of a recipe."""
    return lambda goal: RECIPES[name].stages(goal)[0].method(None)


def teacher_loss(prediction: str, process: Any) -> Callable[[Goal], Method]:
    """Score matching or flow matching."""

    def make(goal: Goal) -> Method:
        network, params = goal.network(1, False)
        return score_matching(Student(network, params, prediction, process, classes=goal.classes))

    return make


def plain(goal: Goal, gradient: int, fixed: int) -> Method:
    """Regression with so many evaluations with gradient, onto targets that take so many without."""
    network, params = goal.network(1, False)
    student = Student(network, params, classes=goal.classes)

    def student_loss(step: Step) -> Any:
        def point(key: Any) -> tuple[Any, Any]:
            key_level, key_noise = jax.random.split(key)
            level = log_normal_levels(key_level, step.x0, -1.2, 1.2)
            eps = jax.random.normal(key_noise, step.x0.shape, step.x0.dtype)
            return perturb(step.x0, level, eps), level

        points = [point(key) for key in jax.random.split(step.key, gradient + fixed)]
        target = step.x0 + sum(step.target(*p) - step.x0 for p in points[gradient:])
        target = jax.lax.stop_gradient(target)
        return sum(squared(step.student(*p), target) for p in points[:gradient])

    def tables(num_steps: int) -> jd.Table:
        return jump_table([student.high, 0.0])

    return regression(student, student_loss, tables, optimiser=optax.adam(1e-3))


LOSSES: dict[str, Loss] = {
    "score matching": Loss(teacher_loss("edm", jd.process.EDM())),
    "flow matching": Loss(teacher_loss("flow", RectifiedFlow())),
    "easy consistency": Loss(recipe("easy_consistency"), 1, 1),
    "mean flow": Loss(recipe("mean_flow_of_data"), 1, 0, 1),
    "mean flow, teacher": Loss(recipe("mean_flow"), 1, 1, 1),
    "improved mean flow": Loss(recipe("improved_mean_flow"), 1, 1, 1),
    "continuous training": Loss(recipe("continuous_training"), 1, 0, 1),
    "continuous distillation": Loss(recipe("continuous_distillation"), 1, 1, 1),
    "sCT": Loss(recipe("sct"), 1, 0, 1),
    "sCD": Loss(recipe("scd"), 1, 1, 1),
    "flow map, Lagrangian": Loss(recipe("flow_map_lagrangian"), 1, 1, 1, through=True),
    "flow map, Eulerian": Loss(recipe("flow_map_eulerian"), 1, 2, 2, through=True),
    "flow map, semigroup": Loss(recipe("flow_map_semigroup"), 1, 2),
}


class Problem(NamedTuple):
    """The training that is measured: a goal, a batch, and the counter of network evaluations in a
    trace.
    """

    goal: Goal
    batch: dict[str, Any]
    calls: list[int]


def problem(module: Any, shape: tuple[int, ...], count: int, classes: int) -> Problem:
    """Return a network with random parameters, which is its own teacher, and random data."""
    params, calls = init(module, jax.random.key(0), shape), []

    def counted(network: Any) -> Any:
        def call(*given: Any, **more: Any) -> Any:
            calls.append(1)
            return network(*given, **more)

        return call

    def network(labels: int, log_variance: bool) -> tuple[Any, Any]:
        if labels == 1 and not log_variance:
            return counted(from_linen(module)), params
        larger = module.clone(log_variance=log_variance)
        fresh = init(larger, jax.random.key(1), shape, labels=labels)
        return counted(from_linen(larger)), graft(params, fresh)

    teacher = jd.denoiser(counted(from_linen(module)), params)
    random = np.random.default_rng(0)
    batch: dict[str, Any] = {"image": random.normal(0, 0.5, (count, *shape)).astype(np.float32)}
    if classes:
        batch["label"] = np.arange(count, dtype=np.int32) % classes
    goal = Goal(teacher, network, shape, 1000, classes=classes or None)
    return Problem(goal, jax.tree.map(jnp.asarray, batch), calls)


def unet(count: int) -> Problem:
    """Return the demo's network and images."""
    return problem(build_network(config.UNet(), 10)[0], (8, 8, 1), count, 10)


def perceptron(count: int) -> Problem:
    """Return a residual perceptron of 2 blocks of 256, and points in 16 dimensions."""
    return problem(MLP(width=256, depth=2), (16,), count, 0)


class Trained(NamedTuple):
    """A compiled training step with what it starts from, and its passes."""

    run: Any
    state: State
    frozen: Any
    passes: float
    compile_s: float


def lowered(method: Method, batch: Any, guard: bool) -> tuple[Any, State]:
    """Return the training step of a method, traced, and the state that it starts from. Adam for
    all.
    """
    players = {k: p._replace(optimiser=optax.adam(1e-4)) for k, p in method.players.items()}
    method = method._replace(players=players)
    state = init_state(method, jax.random.key(0))

    def step(state: State, batch: Any, frozen: Any) -> tuple[State, Any]:
        own, active = method._replace(frozen=frozen), tuple(players)
        if guard:
            return guarded_update(own, state, batch, active, False, None, 1, False)
        return update(own, state, batch, active)

    return jax.jit(step, donate_argnums=0).lower(state, batch, method.frozen), state


def evaluations(loss: Loss, problem: Problem) -> int:
    """Return how often a loss calls networks, by tracing it."""
    method = loss.make(problem.goal)
    state, before = init_state(method, jax.random.key(0)), len(problem.calls)
    active = tuple(method.players)
    jax.eval_shape(lambda s, b: update(method, s, b, active), state, problem.batch)
    return len(problem.calls) - before


def operations(program: Any) -> float:
    """Floating-point operations of a compiled program."""
    found: Any = program.cost_analysis()
    return float((found[0] if isinstance(found, list) else found)["flops"])


def compiled(problem: Problem, losses: dict[str, Loss], guard: bool) -> dict[str, Trained]:
    """Return the steps of all losses, and of the plain regressions they are compared with."""
    goal, batch = problem.goal, problem.batch
    counts = sorted({(loss.gradient, loss.fixed) for loss in losses.values()})
    methods = {plain_name(*n): plain(goal, *n) for n in counts}
    methods |= {name: loss.make(goal) for name, loss in losses.items()}
    network, params = goal.network(1, False)
    label = jnp.zeros(len(batch["image"]))
    one = jax.jit(network).lower(params, batch["image"], label, batch.get("label")).compile()
    forward = operations(one)
    found, started = {}, {}
    with concurrent.futures.ThreadPoolExecutor(2) as pool:  # XLA leaves Python free
        for name, method in methods.items():
            low, state = lowered(method, batch, guard)
            started[name] = state, pool.submit(_compile, low)
        for name, (state, built) in started.items():
            seconds, run = built.result()
            passes = operations(run) / forward
            found[name] = Trained(run, state, methods[name].frozen, passes, seconds)
    return found


def _compile(low: Any) -> tuple[float, Any]:
    began = common.CLOCKS["wall"]()
    run = low.compile()
    return common.CLOCKS["wall"]() - began, run


def plain_name(gradient: int, fixed: int) -> str:
    """Return what the plain regression with so many evaluations is called."""
    return f"plain {gradient} + {fixed}"


def stepping(trained: Trained, batch: Any) -> Callable[[], Any]:
    """Return a call that makes the next step."""
    state = trained.state

    def call() -> Any:
        nonlocal state
        state, metrics = trained.run(state, batch, trained.frozen)
        return state, metrics

    return call


def measure(
    name: str, problem: Problem, losses: dict[str, Loss], options: argparse.Namespace
) -> list[dict[str, Any]]:
    """Rows of one network, the plain regressions first."""
    steps = compiled(problem, losses, options.guard)
    calls = {key: stepping(step, problem.batch) for key, step in steps.items()}
    times = common.alternate(calls, options.repeats, options.clock)
    rows = []
    for key, step in steps.items():
        row = {"network": name, "loss": key, "seconds": statistics.median(times[key])}
        row |= {"passes": step.passes, "compile_s": step.compile_s}
        if key in losses:
            loss = losses[key]
            base = plain_name(loss.gradient, loss.fixed)
            row |= {"gradient": loss.gradient, "fixed": loss.fixed}
            row |= {"derivatives": loss.derivatives, "through": loss.through}
            row |= {"arithmetic": step.passes / steps[base].passes}
            row |= {"ratio": common.ratio(times[key], times[base])._asdict()}
        rows.append(row)
    return rows


def lines_of(rows: Sequence[dict[str, Any]], batch: int) -> list[str]:
    """Return the page's part on one network."""
    kind = rows[0]["network"]
    lines, cells = [f"## {kind}, batches of {batch}", ""], []
    verdicts: dict[str, list[str]] = {"reached": [], "open": [], "missed": []}
    for r in rows:
        shared = [f"{1e3 * r['seconds']:.2f}", f"{r['passes']:.2f}"]
        if "ratio" not in r:
            cells.append([r["loss"], *[""] * 2, *shared, *[""] * 4])
            continue
        found, word = common.Ratio(**r["ratio"]), ""
        if r["derivatives"]:
            word = common.verdict(found, MOST)
            verdicts[word].append(r["loss"])
        count = f"{r['derivatives'] or ''}{' (through)' if r['through'] else ''}"
        cells.append(
            [r["loss"], f"{r['gradient']} + {r['fixed']}", count, *shared]
            + [f"{found.median:.2f} [{found.low:.2f}, {found.high:.2f}]", f"{r['arithmetic']:.2f}"]
            + [f"{found.median / r['arithmetic']:.2f}", word]
        )
    listed = [f"{word}: {', '.join(names) or 'none'}" for word, names in verdicts.items()]
    lines += [f"Aim, at most {MOST} times plain regression: {'; '.join(listed)}.", ""]
    header = ["loss", "evaluations", "derivatives", "step (ms)", "passes", "times plain"]
    return [*lines, *common.table([*header, "arithmetic", "overhead", "aim"], cells), ""]


NETWORKS: dict[str, Callable[[int], Problem]] = {"U-Net 8x8": unet, "perceptron": perceptron}


def options_of(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the command line."""
    parser = common.parser(__doc__)
    common.add_clock(parser)
    parser.add_argument(
        "--network", nargs="+", choices=tuple(NETWORKS), default=list(NETWORKS),
        help="measure with these alone",
    )  # fmt: skip
    parser.add_argument(
        "--loss", nargs="+", choices=tuple(LOSSES), default=list(LOSSES), metavar="NAME",
        help="these losses alone; all: " + "; ".join(LOSSES),
    )  # fmt: skip
    parser.add_argument("--batch", type=count, default=32, help="of the U-Net (32)")
    parser.add_argument("--points", type=count, default=256, help="batch of the perceptron (256)")
    parser.add_argument("--repeats", type=count, default=12, help="steps that are timed (12)")
    parser.add_argument("--guard", action="store_true", help="with the check for finite numbers")
    return parser.parse_args(arguments)


def main() -> None:
    """Measure, print and write."""
    options = options_of()
    losses, rows, lines = {name: LOSSES[name] for name in options.loss}, [], []
    for name in options.network:
        count = options.batch if name == "U-Net 8x8" else options.points
        with common.uncached():
            found = measure(name, NETWORKS[name](count), losses, options)
        rows += found
        lines += lines_of(found, count)
    machine = common.metadata(
        batch=options.batch, points=options.points, repeats=options.repeats, clock=options.clock,
        guard=options.guard,
    )  # fmt: skip
    title = "What losses with derivatives cost"
    common.publish(options, title, __doc__, machine, lines, rows=rows)


if __name__ == "__main__":
    main()
