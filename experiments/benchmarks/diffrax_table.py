"""The same solves by diffrax and by sampler tables: equal numbers, and what each costs.

    python -m experiments.benchmarks.diffrax_table [--json FILE] [--markdown FILE]

Fixed steps. The probability flow dy/ds = (y - D)/s by the same method on the same grid, once as a
table run by ``jd.sample`` and once by diffrax (``StepTo``). diffrax goes through -s, not s: where
time decreases it integrates in negated time, and a solver that looks at its time, as multistep ones
do, is then given -t. The midpoint method is that of flow time tau = s/(1 + s), for the state
y/(1 + s). Adams-Bashforth, which diffrax lacks, is written for it here, with its formula for two
unequal steps; the table's comes from interpolation. "Difference" is the largest of the samples over
the largest sample, in float32 (on a GPU, whose matrix products are shorter, it is more); "trace"
includes lowering; "run" is the median of several, in turns, and its ratio that of diffrax to the
table, with an interval of 95 %. A table of the shape of an earlier one compiles nothing: Ralston's
runs in the program of Heun's.

Adaptive steps. ``jd.adaptive`` (diffrax with error control) on exact denoisers, with a step size of
each sample's own and with one for the whole batch. "Evaluations" are those of a sample, rejected
steps included: the mean, and the most, which the batch waits for. "Error" is the root mean square
distance from a solve of tolerance 1e-8 in float64, and the largest of a sample.

Takes about a minute on two CPU cores.
"""

import argparse
import statistics
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NamedTuple

import diffrax
import jax
import jax.numpy as jnp
import numpy as np

import jaxdiff as jd
from experiments.benchmarks import common
from experiments.benchmarks.sampling import SHAPE, demo_denoiser
from experiments.numbers import count, positive
from jaxdiff import exact, solvers

HIGH, LOW = 80.0, 0.02
WORDS = ("table", "diffrax")


class AdamsBashforth(diffrax.AbstractSolver):
    """Adams-Bashforth of order 2 with unequal steps, which starts with a step of Euler's method.

    y_2 = y_1 + h ((1 + w) f_1 - w f_0),  w = h/(2 h_before).

    Its state is f_0 and the step before, which is infinite at first.
    """

    term_structure: ClassVar[Any] = diffrax.AbstractTerm
    interpolation_cls: ClassVar[Callable[..., Any]] = diffrax.LocalLinearInterpolation

    def order(self, terms: Any) -> int:
        """Of convergence."""
        return 2

    def init(self, terms: Any, t0: Any, t1: Any, y0: Any, args: Any) -> Any:
        """No evaluation yet."""
        return jnp.zeros_like(y0), jnp.asarray(jnp.inf, y0.dtype)

    def step(
        self, terms: Any, t0: Any, t1: Any, y0: Any, args: Any, solver_state: Any, made_jump: Any
    ) -> Any:
        """Make one step, of one evaluation."""
        before, last = solver_state
        h, f = t1 - t0, terms.vf(t0, y0, args)
        w = h / (2 * last)
        y1 = y0 + h * ((1 + w) * f - w * before)
        return y1, None, {"y0": y0, "y1": y1}, (f, h), diffrax.RESULTS.successful

    def func(self, terms: Any, t0: Any, y0: Any, args: Any) -> Any:
        """Return the vector field."""
        return terms.vf(t0, y0, args)


class Method(NamedTuple):
    """A method as a table's solver and as diffrax's, and whether in flow time."""

    solver: Any
    options: dict[str, Any]
    other: Any
    flow: bool = False


METHODS = {
    "Euler": Method(solvers.euler, {}, diffrax.Euler()),
    "Heun": Method(solvers.heun, {}, diffrax.Heun()),
    "Ralston": Method(solvers.heun, {"ratio": 2 / 3}, diffrax.Ralston()),
    "midpoint (flow time)": Method(solvers.flow_midpoint, {}, diffrax.Midpoint(), True),
    "Adams-Bashforth 2": Method(solvers.lms, {"order": 2}, AdamsBashforth()),
}


def falling(u: Any, y: Any, D: Any) -> Any:
    """dy/du for u = -s."""
    return (D(y, -u) - y) / -u


def flowing(u: Any, x: Any, D: Any) -> Any:
    """dx/du for u = -tau: minus the flow (x - D)/tau."""
    return (D(x / (1 + u), -u / (1 + u)) - x) / -u


def solve(method: Method, D: Any, levels: Any, start: Any) -> Any:
    """Return the solve by diffrax on the levels of a table."""
    times = levels / (1 + levels) if method.flow else levels
    scale = 1 + levels if method.flow else jnp.ones_like(levels)
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(flowing if method.flow else falling), method.other,
        -times[0], -times[-1], None, start / scale[0], D,
        stepsize_controller=diffrax.StepTo(ts=-times), max_steps=len(levels),
    )  # fmt: skip
    ends: Any = solution.ys
    return scale[-1] * ends[-1]


def fixed(
    name: str, D: Any, start: Any, num_steps: int, repeats: int, clock: str
) -> dict[str, Any]:
    """Run one method both ways: numbers compared, seconds of tracing, compiling and running."""
    method = METHODS[name]
    levels = jd.grids.karras(num_steps, LOW, HIGH, zero=False)
    table = jax.tree.map(
        lambda a: jnp.asarray(a, jnp.float32),
        jd.table(method.solver, levels, **method.options),
    )
    ours = common.build(jd.sample, D, table, start)
    knots = jnp.asarray(levels, jnp.float32)
    theirs = common.build(lambda *given: solve(method, *given), D, knots, start)
    calls = {
        "table": lambda: ours.run(D, table, start),
        "diffrax": lambda: theirs.run(D, knots, start),
    }
    a, b = (np.asarray(calls[word]()) for word in WORDS)
    times = common.alternate(calls, repeats, clock)
    return {
        "method": name,
        "nfe": table.nfe,
        "difference": float(np.abs(a - b).max() / np.abs(a).max()),
        **{f"{w}_trace_s": x.trace_s for w, x in zip(WORDS, (ours, theirs), strict=True)},
        **{f"{w}_compile_s": x.compile_s for w, x in zip(WORDS, (ours, theirs), strict=True)},
        **{f"{w}_run_s": statistics.median(times[w]) for w in WORDS},
        "ratio": common.ratio(times["diffrax"], times["table"])._asdict(),
    }


def mixture() -> Any:
    """Eight points of different widths on a circle."""
    angles = np.arange(8) * np.pi / 4
    means = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    widths = np.geomspace(0.02, 0.3, 8)[:, None] * np.ones((8, 2))
    return exact.GaussianMixture(np.full(8, 1 / 8), means, widths**2)


def digits() -> Any:
    """Return the 1797 digits of scikit-learn as a finite data set, in [-1, 1]."""
    from sklearn.datasets import load_digits

    return exact.Empirical(load_digits().data / 8.0 - 1.0)  # type: ignore[attr-defined]


PROBLEMS: dict[str, tuple[Callable[[], Any], int]] = {
    "mixture, 2 dimensions": (mixture, 2),
    "digits, 64 dimensions": (digits, 64),
}


def controlled(
    D: Any, start: Any, truth: Any, tolerance: float, per_sample: bool, repeats: int, clock: str
) -> dict[str, Any]:
    """Run one adaptive solve: evaluations, seconds, errors."""
    built = common.build(
        lambda D, y: jd.adaptive(
            D, y, HIGH, LOW, rtol=tolerance, atol=tolerance, per_sample=per_sample
        ),
        D,
        start,
    )
    found = built.run(D, start)
    times = common.alternate({"solve": lambda: built.run(D, start)}, repeats, clock)["solve"]
    squares = np.mean((np.asarray(found.states, np.float64) - truth) ** 2, axis=1)
    return {
        "steps_of": "each sample" if per_sample else "the batch",
        "tolerance": tolerance,
        "mean_nfe": float(np.mean(found.nfe)),
        "most_nfe": int(np.max(found.nfe)),
        "error": float(np.sqrt(squares.mean())),
        "largest_error": float(np.sqrt(squares.max())),
        "trace_s": built.trace_s,
        "compile_s": built.compile_s,
        "run_s": statistics.median(times),
    }


def adaptive(batch: int, tolerances: Sequence[float], repeats: int, clock: str) -> list[Any]:
    """Rows of the adaptive solves."""
    rows = []
    for name, (make, d) in PROBLEMS.items():
        noise = np.random.default_rng(0).normal(size=(batch, d))
        with jax.enable_x64(True):
            D = make().denoiser
            start = jnp.asarray(HIGH * noise.astype(np.float32), jnp.float64)
            exact_end = jd.adaptive(D, start, HIGH, LOW, rtol=1e-8, atol=1e-8, per_sample=False)
            truth = np.asarray(exact_end.states)
        D = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), D)
        begin = jnp.asarray(HIGH * noise, jnp.float32)
        for tolerance in tolerances:
            for own in (True, False):
                row = controlled(D, begin, truth, tolerance, own, repeats, clock)
                rows.append({"problem": name, "batch": batch, **row})
    return rows


def fixed_lines(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Return the page's part on fixed steps."""
    worst = max(r["difference"] for r in rows)
    lines = ["## Fixed steps", "", f"The largest difference is {worst:.1e}.", ""]
    header = ["network", "method", "NFE", "difference", "trace (s)", "compile (s)", "run (ms)"]
    cells = []
    for r in rows:
        pair = lambda k, scale, digits, r=r: " / ".join(  # noqa: E731
            f"{scale * r[f'{w}_{k}']:.{digits}f}" for w in WORDS
        )
        found = common.Ratio(**r["ratio"])
        cells.append(
            [r["network"], r["method"], r["nfe"], f"{r['difference']:.1e}"]
            + [pair("trace_s", 1, 2), pair("compile_s", 1, 2), pair("run_s", 1e3, 2)]
            + [f"{found.median:.2f} [{found.low:.2f}, {found.high:.2f}]"]
        )
    return [*lines, "Times: table / diffrax.", "", *common.table([*header, "ratio"], cells), ""]


def adaptive_lines(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Return the page's part on adaptive steps."""
    lines = ["## Adaptive steps", "", f"Tsit5, batches of {rows[0]['batch']}.", ""]
    header = ["problem", "tolerance", "steps of", "mean evaluations", "most", "error"]
    cells = [
        [r["problem"], f"{r['tolerance']:.0e}", r["steps_of"], f"{r['mean_nfe']:.0f}"]
        + [r["most_nfe"], f"{r['error']:.1e}", f"{r['largest_error']:.1e}"]
        + [f"{r['trace_s']:.2f}", f"{r['compile_s']:.2f}", f"{1e3 * r['run_s']:.0f}"]
        for r in rows
    ]
    more = ["largest error", "trace (s)", "compile (s)", "run (ms)"]
    return [*lines, *common.table([*header, *more], cells), ""]


def options_of(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the command line."""
    parser = common.parser(__doc__)
    common.add_clock(parser)
    parser.add_argument("--steps", type=count, default=10, help="of the fixed grids (10)")
    parser.add_argument("--batch", type=count, default=64, help="images of fixed steps (64)")
    parser.add_argument("--points", type=count, default=256, help="samples of adaptive steps (256)")
    parser.add_argument("--repeats", type=count, default=11, help="runs that are timed (11)")
    parser.add_argument(
        "--tolerance", type=positive, nargs="+", default=[1e-3, 1e-5], help="relative and absolute "
        "tolerances (1e-3 1e-5)",
    )  # fmt: skip
    return parser.parse_args(arguments)


def main() -> None:
    """Measure, print and write."""
    options = options_of()
    rows = []
    small = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), mixture().denoiser)
    cases = (("mixture", small, (2,)), ("demo's U-Net", demo_denoiser(), SHAPE))
    with common.uncached():
        for network, D, shape in cases:
            start = HIGH * jd.start_noise(jax.random.key(0), options.batch, shape)
            for name in METHODS:
                row = fixed(name, D, start, options.steps, options.repeats, options.clock)
                rows.append({"network": network, **row})
        repeats = max(3, options.repeats // 3)
        solves = adaptive(options.points, options.tolerance, repeats, options.clock)
    lines = [*fixed_lines(rows), *adaptive_lines(solves)]
    machine = common.metadata(batch=options.batch, repeats=options.repeats, clock=options.clock)
    title = "diffrax and tables"
    common.publish(options, title, __doc__, machine, lines, fixed=rows, adaptive=solves)


if __name__ == "__main__":
    main()
