"""Parameters that are kept on a surface: after every update they are put back onto it.

EDM2 trains with filters of unit magnitude (2312.02696, eq. 66):

    optimiser = projected(optax.adam(schedule), jaxdiff.networks.magnitude.unit_filters)
"""

from collections.abc import Callable
from typing import Any

import jax
import optax

from jaxdiff.typing import Params


def projected(
    optimiser: optax.GradientTransformation, project: Callable[[Params], Params]
) -> optax.GradientTransformation:
    """Return an optimiser whose updates end where ``project`` puts the parameters.

    project: a function of parameters that returns a tree of the same shapes and dtypes.

    Parameters are right to rounding, since an update is the difference to those before. Raises
    ValueError in ``update`` if it is not given the parameters.
    """

    def update(updates: Any, state: Any, params: Params | None = None) -> tuple[Any, Any]:
        if params is None:
            raise ValueError("a projected optimiser needs the parameters that it updates")
        updates, state = optimiser.update(updates, state, params)
        ends = project(optax.apply_updates(params, updates))
        return jax.tree.map(lambda end, start: end - start, ends, params), state

    return optax.GradientTransformation(optimiser.init, update)
