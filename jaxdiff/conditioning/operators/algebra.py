r"""Operators made of operators: products, multiples, and several measurements as one.

    (A B) x = A (B x),    (c A) x = c (A x),    (A; B) x = A x and B x, flat, one after the other

A multiple keeps the decomposition; of the others :func:`decomposed` computes one.
"""

import dataclasses
import math
from collections.abc import Sequence

import jax.numpy as jnp
from jax.tree_util import Partial
from jax.typing import ArrayLike

from jaxdiff.arrays import check
from jaxdiff.conditioning.operators.linear import Basis, Linear
from jaxdiff.conditioning.operators.nonlinear import Nonlinear
from jaxdiff.typing import Array

Operator = Linear | Nonlinear


def compose(outer: Operator, inner: Operator) -> Operator:
    """Return the operator ``outer(inner(x))``; linear if both are.

    Raises ValueError unless the measurement of the inner one is a sample of the outer one.
    """
    if inner.measured != outer.shape:
        raise ValueError(
            f"what the inner operator measures has shape {inner.measured}, and the outer one takes "
            f"samples of shape {outer.shape}"
        )
    both = Partial(_composed, outer.forward, inner.forward)
    if isinstance(outer, Linear) and isinstance(inner, Linear):
        return Linear(both, None, outer.support, inner.shape, outer.measured)
    return Nonlinear(both, inner.shape, outer.measured)


def scale(operator: Linear, factor: ArrayLike) -> Linear:
    """Return the operator times a number. Raises ValueError for 0 or one that is not finite."""
    check("an operator is scaled by a finite number, not 0", _finite, factor)
    factor = jnp.asarray(factor, jnp.result_type(float))
    basis = operator.basis
    if basis is not None:
        left = Partial(_scaled, jnp.sign(factor), basis.left)
        size = jnp.abs(factor).astype(basis.singular.dtype)
        basis = Basis(size * basis.singular, basis.right, left)
    return dataclasses.replace(
        operator, forward=Partial(_scaled, factor, operator.forward), basis=basis
    )


def stack(operators: Sequence[Operator]) -> Operator:
    """Return several measurements of one sample as one, flat: (the sum of their numbers,).

    Linear if all are. Raises ValueError for none, or for samples of several shapes.
    """
    shapes = {operator.shape for operator in operators}
    if len(shapes) != 1:
        raise ValueError(f"measurements of one sample are stacked, not of shapes {sorted(shapes)}")
    (shape,) = shapes
    count = sum(math.prod(operator.measured) for operator in operators)
    all_of = Partial(_stacked, tuple(operator.forward for operator in operators))
    if not all(isinstance(operator, Linear) for operator in operators):
        return Nonlinear(all_of, shape, (count,))
    whole = [
        jnp.ones(operator.measured, jnp.bool_) if operator.support is None else operator.support
        for operator in operators
    ]
    none = all(operator.support is None for operator in operators)
    support = None if none else jnp.concatenate([part.reshape(-1) for part in whole])
    return Linear(all_of, None, support, shape, (count,))


def _finite(c: float) -> bool:
    return jnp.ndim(c) == 0 and math.isfinite(c) and c != 0


def _composed(outer: Partial, inner: Partial, x: Array) -> Array:
    return outer(inner(x))


def _scaled(factor: Array, function: Partial, x: Array) -> Array:
    return factor.astype(x.dtype) * function(x)


def _stacked(functions: tuple[Partial, ...], x: Array) -> Array:
    return jnp.concatenate([f(x).reshape(x.shape[0], -1) for f in functions], axis=1)
