"""Every solver that becomes a table, with the options that conformance tests run it with."""

from jaxdiff.solvers import SOLVERS

TRACED = [known for known in SOLVERS if not known.direct]
DETERMINISTIC = [(k.solver, options) for k in TRACED if not k.stochastic for options in k.checked]
STOCHASTIC = [(k.solver, options) for k in TRACED if k.stochastic for options in k.checked]
ALL = DETERMINISTIC + STOCHASTIC


def name(value):
    """A parameter of a test, as its identifier shows it."""
    if isinstance(value, dict):
        shown = [str(getattr(v, "__name__", v)) for v in value.values()]
        return ",".join(shown).replace("<lambda>", "function")
    return getattr(value, "__name__", None) or str(value)
