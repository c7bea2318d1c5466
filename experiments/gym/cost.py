"""The cost of an update, in a unit that no machine changes: multiplications in matrix products and
convolutions, counted in the traced program with all loops multiplied out.

Elementwise work is left out, which for networks of some width is little.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax

from jaxdiff.method import Method
from jaxdiff.training.step import init_state, update


def of_update(method: Method, batch: Mapping[str, Any]) -> float:
    """Multiplications of one update of a method, a player with a period counted by its share."""
    state = jax.eval_shape(lambda key: init_state(method, key), jax.random.key(0))
    return sum(
        multiplications(lambda s, b, name=name: update(method, s, b, (name,)), state, batch)
        / player.every
        for name, player in method.players.items()
    )


def multiplications(function: Callable[..., Any], *args: Any) -> float:
    """Multiplications in one call of a function of arrays, or of their shapes."""
    return _count(jax.make_jaxpr(function)(*args).jaxpr)


def _count(jaxpr: Any) -> float:
    total = 0.0
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "dot_general":
            (contracted, _), _ = eqn.params["dimension_numbers"]
            left, out = eqn.invars[0].aval, eqn.outvars[0].aval
            total += out.size * math.prod(left.shape[axis] for axis in contracted)
        elif eqn.primitive.name == "conv_general_dilated":
            features = eqn.params["dimension_numbers"].rhs_spec[0]
            kernel, out = eqn.invars[1].aval, eqn.outvars[0].aval
            total += out.size * kernel.size / kernel.shape[features]
        else:
            inner = [_count(sub) for sub in _inside(eqn.params)]
            # of the branches of a condition the dearest; a while loop counts once
            found = max(inner, default=0.0) if eqn.primitive.name == "cond" else sum(inner)
            total += found * eqn.params.get("length", 1) if inner else 0.0
    return total


def _inside(params: dict[str, Any]) -> Iterator[Any]:
    """Yield the programs among an instruction's parameters."""
    for value in params.values():
        for each in value if isinstance(value, tuple | list) else (value,):
            program = getattr(each, "jaxpr", each)
            if hasattr(program, "eqns"):
                yield program
