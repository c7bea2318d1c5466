"""SVDiff: shifts of the singular values of weights (Han et al., 2303.11305, section 3.2).

    W = U diag(s) V^T,        W' = W + U diag(relu(s + d) - s) V^T,

d zero at the start: one number for each singular value of a kernel (..., n, out), taken as a matrix
of n rows, the pixels of a convolution among them. A file has a few thousandths of the weights.

Deviation: the authors shift the numbers of norms' scales too, which here stay.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.adapt.patterns import KERNELS, Pattern, chosen_kernels, paths
from jaxdiff.typing import Array, Key, Params


@dataclasses.dataclass(frozen=True)
class SpectralShift:
    """Shifts of singular values.

    Its small tree has, by the path of each kernel, the shifts (min(n, out),). The singular vectors
    are found once, when the adapter is put in (``prepared``).

    Attributes:
        layers: pattern of the paths of kernels (:func:`jaxdiff.adapt.patterns.paths`).
    """

    layers: Pattern = KERNELS

    def prepared(self, base: Params) -> Params:
        """Return {"params": base, "factors": {path: U, s and V^T}}. Raises ValueError for layers
        that there are not.
        """
        chosen = chosen_kernels(base, self.layers)
        return {"params": base, "factors": {name: _factors(w) for name, w in chosen.items()}}

    def init(self, key: Key, base: Params) -> dict[str, Array]:
        """Return shifts of zero; ``base`` is prepared."""
        del key
        return {name: jnp.zeros_like(own["values"]) for name, own in base["factors"].items()}

    def apply(self, base: Params, small: Params) -> Params:
        """Return the changed parameters, in the base's dtypes; ``base`` is prepared."""
        params, factors = base["params"], base["factors"]
        if set(small) != set(factors):
            name = min(set(small) ^ set(factors))
            where = "the adapter" if name in small else "the base"
            raise ValueError(
                f"the adapter does not belong to this base: {name} is of {where} alone"
            )
        named = dict(zip(paths(params), jax.tree.leaves(params), strict=True))
        for name, shift in small.items():
            u, s, vt = (factors[name][k] for k in ("left", "values", "right"))
            if shift.shape != s.shape:
                raise ValueError(
                    f"the adapter does not belong to this base: {name} has {s.shape[0]} singular "
                    f"values, and the adapter {shift.shape}"
                )
            w = named[name]
            more = jax.nn.relu(s + shift.astype(s.dtype)) - s
            delta = jnp.matmul(u * more[None], vt, precision="highest").reshape(w.shape)
            named[name] = (w.astype(delta.dtype) + delta).astype(w.dtype)
        return jax.tree.unflatten(jax.tree.structure(params), list(named.values()))


def _factors(w: Any) -> dict[str, Array]:
    wide = jnp.asarray(w, np.promote_types(np.float32, w.dtype)).reshape(-1, w.shape[-1])
    u, s, vt = jnp.linalg.svd(wide, full_matrices=False)
    return {"left": u, "values": s, "right": vt}
