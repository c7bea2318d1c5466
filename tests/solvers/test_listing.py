"""The list of solvers: what it says is so, and what goes through solvers is made of it."""

import inspect
import re
import subprocess
import sys
import types

import pytest
from helpers.every_solver import TRACED, name

from jaxdiff import solvers
from jaxdiff.sampling.trace import table
from jaxdiff.solvers import SOLVERS
from jaxdiff.solvers.listing import ANY_ORDER

LEVELS = [8.0 / 1.5**i for i in range(13)]


def test_the_list_the_exports_and_the_table_of_papers_agree():
    rows = re.findall(r"^    \S.*? {2,}(\w+) +(\w+)\.py +\d{4}\.\d{5}$", solvers.__doc__, re.M)
    assert rows == list(dict.fromkeys(rows))
    files = {k.name: k.solver.__module__.rpartition(".")[2] for k in SOLVERS}
    assert dict(rows) == files and len(files) == len(SOLVERS)
    exported = {n for n, f in vars(solvers).items() if isinstance(f, types.FunctionType)}
    assert exported - {"each_order", "sde_scale", "unit_moment"} == set(files)


@pytest.mark.parametrize("known", SOLVERS, ids=lambda known: known.name)
def test_a_listed_solver_takes_what_the_list_says(known):
    options = inspect.signature(known.solver).parameters
    assert ("noise" in options) == known.stochastic
    assert ("order" in options) == (known.orders is not None)
    assert options["order"].default in known.orders if known.orders else True
    for given in (*known.checked, *known.baselines, *known.sweep, known.demo or {}):
        assert set(given) <= set(options)


@pytest.mark.parametrize("known", [k for k in TRACED if k.checked], ids=lambda known: known.name)
def test_a_listed_solver_costs_what_the_list_says(known):
    made = [table(known.solver, LEVELS[:n], **known.checked[0]) for n in (9, 13)]
    assert made[1].nfe - made[0].nfe == 4 * known.evaluations
    assert made[0].stochastic == known.stochastic


@pytest.mark.parametrize("known", [k for k in TRACED if k.orders], ids=lambda known: known.name)
def test_a_listed_solver_has_the_orders_that_the_list_says(known):
    options = {k: v for k, v in known.checked[0].items() if k in ("process", "ratios")}
    wrong = [0] if known.orders == ANY_ORDER else [0, known.orders.stop]
    for order in range(1, min(known.orders.stop, 6)):
        table(known.solver, LEVELS, order=order, **options)
    for order in wrong:
        with pytest.raises(ValueError, match=f"{known.name} has orders 1.*, not {order}"):
            table(known.solver, LEVELS, order=order, **options)


TOY = """
import contextlib, io
from jaxdiff import solvers
from jaxdiff.solvers.listing import KnownOrder, SolverEntry

def toy(D, y, levels):
    for s, r in zip(levels, levels[1:]):
        y = y + (r - s) * ((y - D(y, s)) / s)
        yield y

solvers.SOLVERS.append(
    SolverEntry(toy, 1, demo={}, baselines=({},), sweep=({},), measured=(KnownOrder({}, 1),))
)
from jaxdiff.app import main as cli
from jaxdiff.app import sweep
from jaxdiff.app import config
from jaxdiff.app import samplers as choosing
from jaxdiff.tuning.baselines import baselines
from jaxdiff.recipes.tuning.task import ONE_EACH
from experiments.benchmarks import sampling
from experiments.samplers import rows
from helpers import every_solver

with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.suppress(SystemExit):
    cli.main(["sample", "--help-all"])
assert "toy" in out.getvalue()
assert choosing.SOLVERS["toy"] is toy
assert toy in [known.solver for known in baselines(4)] and (toy, {}) in ONE_EACH
assert "toy" in [made.name for made in sampling.tables(num_steps=(4,))]
assert "toy" in [found for found, *_ in sweep.sweep_tables((3,))]
assert toy in [row.solver for row in rows.ROWS]
assert (toy, {}) in every_solver.ALL
"""


def test_a_solver_put_into_the_list_is_everywhere():
    """On the command line, among the baselines, in the sweeps, the tables and these tests."""
    paths = [str(p) for p in sys.path]
    code = f"import sys\nsys.path[:] = {paths!r}\n" + TOY
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_solvers_are_known_by_their_own_names():
    assert all(getattr(solvers, known.name) is known.solver for known in SOLVERS)
    assert [name(known.solver) for known in SOLVERS] == [known.name for known in SOLVERS]
