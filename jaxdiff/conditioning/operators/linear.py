r"""Linear operators A: what a measurement sees of a sample, u = A x0 + noise.

An operator is a function with a shape in and a shape out. Its transpose is made of the function by
``jax.linear_transpose``, so that it cannot disagree with it. Where the operator has a singular
value decomposition in closed form,

    A = U S V^T,    A^+ = V S^+ U^T,

it carries that as a :class:`Basis`: two functions and the singular values, one for every coordinate
of a sample in the basis V, 0 for what is not seen. (DDRM, Kawar et al., arXiv 2201.11793, section
3, has the decompositions of common operators.)
"""

import dataclasses
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Float

from jaxdiff.arrays import einsum, fixed, pytree_dataclass
from jaxdiff.typing import Array

CUTOFF = 1e-5  # singular values up to this share of the largest are not divided by
LARGEST_DENSE = 4096  # numbers of a sample, for a decomposition that is computed


@pytree_dataclass
class Basis:
    """A singular value decomposition A = U S V^T of an operator, as functions.

    singular: (n,), one value per coordinate of a sample of n numbers, 0 where nothing is seen.
    right: V, (batch, n) -> (batch, *shape), orthogonal.
    left: U, (batch, n) -> (batch, *measured); its columns of positive values are orthonormal, those
        of others do not count.
    """

    singular: Array
    right: Partial
    left: Partial

    def coordinates(self, x: Array) -> Float[Array, "batch n"]:
        """Return V^T x of samples (batch, *shape)."""
        return transposed(self.right, x, self.singular.shape)

    def sample(self, coordinates: Array) -> Array:
        """Return V c, samples (batch, *shape) of coordinates (batch, n)."""
        return self.right(coordinates)

    def observed(self, u: Array) -> Float[Array, "batch n"]:
        """Return U^T u of measurements (batch, *measured), 0 where the singular value is."""
        found = transposed(self.left, u, self.singular.shape)
        return jnp.where(self.singular[None] > 0, found, 0)

    def measurement(self, coordinates: Array) -> Array:
        """Return U c, measurements (batch, *measured) of coordinates (batch, n)."""
        return self.left(jnp.where(self.singular[None] > 0, coordinates, 0))

    def values(self, like: Array) -> Float[Array, "1 n"]:
        """Return the singular values in the dtype of an array, to stand beside coordinates."""
        return jnp.asarray(self.singular, like.dtype)[None]


@pytree_dataclass
class Linear:
    """A linear operator: a pytree, made by the functions of :mod:`jaxdiff.conditioning.operators`.

    forward: A of samples (batch, *shape), linear.
    basis: its decomposition in closed form, or None (:func:`decomposed` computes one).
    support: (*measured) booleans, where a measurement can be other than 0; None for everywhere.
    shape, measured: of one sample, and of one measurement.
    """

    forward: Partial
    basis: Basis | None
    support: Array | None
    shape: tuple[int, ...] = dataclasses.field(metadata={"static": True})
    measured: tuple[int, ...] = dataclasses.field(metadata={"static": True})

    def apply(self, x: Array) -> Array:
        """Return A x, (..., *measured), of samples (..., *shape). ValueError for another shape."""
        return by_rows(self.forward, x, self.shape, self.measured, "a sample")

    def transpose(self, u: Array) -> Array:
        """Return A^T u, (..., *shape), of measurements (..., *measured)."""
        back = lambda u: transposed(self.forward, u, self.shape)  # noqa: E731
        return by_rows(back, u, self.measured, self.shape, "a measurement")

    def pseudo_inverse(self, u: Array, cutoff: float = CUTOFF) -> Array:
        """Return A^+ u, (..., *shape): the sample of least norm among those that fit u best.

        Args:
            u: measurements (..., *measured).
            cutoff: singular values up to this share of the largest count as 0.

        Raises:
            ValueError: for an operator without a decomposition.
        """
        svd = self.svd
        singular = svd.singular

        def inverse(u: Array) -> Array:
            kept = (singular > cutoff * jnp.max(singular))[None]
            values = jnp.where(kept, svd.values(u), 1)
            return svd.sample(jnp.where(kept, svd.observed(u) / values, 0))

        return by_rows(inverse, u, self.measured, self.shape, "a measurement")

    @property
    def svd(self) -> Basis:
        """The decomposition. ValueError for an operator that has none."""
        if self.basis is None:
            raise ValueError(
                "this operator has no singular value decomposition in closed form: "
                "operators.decomposed(operator) computes one, for samples of at most "
                f"{LARGEST_DENSE} numbers"
            )
        return self.basis


def linear(
    function: Callable[[Array], Array], shape: tuple[int, ...], basis: Basis | None = None,
    support: Array | None = None,
) -> Linear:  # fmt: skip
    """Make an operator of any linear function of samples (batch, *shape).

    Args:
        function: A, linear, row by row; as a ``jax.tree_util.Partial`` its arrays are leaves of the
            operator. Its output has the dtype of its argument.
        shape: of one sample.
        basis: its decomposition, if it has one.
        support: (*measured) booleans, where a measurement can be other than 0.

    Raises:
        ValueError: for a function that changes the number of rows, or is not linear in the sense
            that JAX can transpose it.

    >>> import jax.numpy as jnp
    >>> A = linear(lambda x: x[:, :1] - x[:, 1:], (2,))
    >>> A.apply(jnp.array([[3.0, 1.0]])).tolist(), A.transpose(jnp.array([[1.0]])).tolist()
    ([[2.0]], [[1.0, -1.0]])
    """
    forward = function if isinstance(function, Partial) else Partial(function)
    one = jax.ShapeDtypeStruct((1, *sizes(shape)), jnp.float32)
    seen = jax.eval_shape(forward, one)
    if seen.shape[:1] != (1,):
        raise ValueError(f"an operator keeps its rows: of {one.shape} it made {seen.shape}")
    try:
        jax.eval_shape(lambda u: jax.linear_transpose(forward, one)(u), seen)
    except Exception as error:
        raise ValueError(
            "this function is not linear: operators.nonlinear takes any function"
        ) from error
    return Linear(forward, basis, support, sizes(shape), seen.shape[1:])


def decomposed(operator: Linear) -> Linear:
    """Return the operator with its decomposition, computed of its matrix where it has none.

    Raises ValueError for samples of more than 4096 numbers.
    """
    if operator.basis is not None:
        return operator
    left, singular, right = jnp.linalg.svd(matrix_of(operator), full_matrices=True)
    return dataclasses.replace(
        operator, basis=dense_basis(left, singular, right, operator.shape, operator.measured)
    )


def matrix_of(operator: Linear) -> Float[Array, "m n"]:
    """Return the operator's matrix, of flat samples and measurements."""
    n = math.prod(operator.shape)
    if n > LARGEST_DENSE:
        raise ValueError(f"a sample of {n} numbers has too large a matrix: at most {LARGEST_DENSE}")
    eye = jnp.eye(n, dtype=jnp.result_type(float)).reshape(n, *operator.shape)
    return operator.apply(eye).reshape(n, -1).T


def dense_basis(
    left: Array, singular: Array, right: Array, shape: tuple[int, ...], measured: tuple[int, ...]
) -> Basis:
    """Return the basis of U (m, m), singular values (min(m, n),) and V^T (n, n). Values that are
    rounding count as 0.
    """
    n, found = right.shape[0], singular.shape[0]
    rounding = max(left.shape[0], n) * jnp.finfo(singular.dtype).eps * jnp.max(singular)
    values = jnp.zeros(n, singular.dtype).at[:found].set(
        jnp.where(singular > rounding, singular, 0)
    )  # fmt: skip
    columns = jnp.zeros((left.shape[0], n), left.dtype).at[:, :found].set(left[:, :found])
    return Basis(values, product(right.T, shape), product(columns, measured))


def product(matrix: Array, shape: tuple[int, ...]) -> Partial:
    """Return the function of a matrix times every row of numbers, (batch, *shape)."""
    return Partial(fixed(_product, shape=shape), matrix)


def _product(matrix: Array, rows: Array, *, shape: tuple[int, ...]) -> Array:
    flat = rows.reshape(rows.shape[0], matrix.shape[1])
    return einsum("ij,bj->bi", matrix.astype(rows.dtype), flat).reshape(rows.shape[0], *shape)


def transposed(function: Callable[[Array], Array], u: Array, shape: tuple[int, ...]) -> Array:
    """Return the transpose of a linear function of (batch, *shape), applied to u."""
    argument = jax.ShapeDtypeStruct((u.shape[0], *shape), u.dtype)
    (back,) = jax.linear_transpose(function, argument)(u)
    return back


def by_rows(
    function: Callable[[Array], Array], x: Array, shape: tuple[int, ...], out: tuple[int, ...],
    name: str,
) -> Array:  # fmt: skip
    """Return a function of (batch, *shape) of an array with any axes before ``shape``."""
    x = jnp.asarray(x)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(f"operators take floating arrays, not {x.dtype}: x.astype(float)")
    batch = x.shape[: max(0, x.ndim - len(shape))]
    if x.shape != (*batch, *shape):
        raise ValueError(f"{name} of this operator has shape {shape}, batch first; got {x.shape}")
    return function(x.reshape(math.prod(batch), *shape)).reshape(*batch, *out)


def sizes(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return a shape of at least one positive size. ValueError for another."""
    if not shape or any(int(n) != n or n < 1 for n in shape):
        raise ValueError(f"a sample's shape has one or more positive sizes, not {shape}")
    return tuple(int(n) for n in shape)
