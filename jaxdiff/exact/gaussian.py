"""A Gaussian."""

import dataclasses

import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jax.typing import ArrayLike
from jaxtyping import Float

from jaxdiff.arrays import einsum, pytree_dataclass
from jaxdiff.exact.parts import LOG_2PI, cast, floats, levels, no_classes, principal
from jaxdiff.typing import Array, Cond, Key, PerSample, Points, Values


@pytree_dataclass
class Gaussian:
    """The Gaussian N(mean, covariance).

    mean: (d,). variances: (d,), along the principal axes. axes: (d, d), an axis a column, or None.

    >>> model = Gaussian([0.0, 1.0], [1.0, 0.25])
    >>> model.denoiser(jnp.array([[2.0, 1.0]]), 1.0).tolist()  # halfway to the mean at level 1
    [[1.0, 1.0]]
    """

    mean: Array
    variances: Array = dataclasses.field(init=False)
    axes: Array | None = dataclasses.field(init=False)

    def __init__(self, mean: Values, covariance: Values) -> None:
        """Take the mean (d,) and the covariance, (d,) diagonal or (d, d) full.

        A full one is decomposed here, once. Raises ValueError for other shapes, numbers that are
        not finite and variances that are not positive.
        """
        mean = floats("mean", mean)
        if mean.ndim != 1:
            raise ValueError(f"mean must have shape (d,); got {mean.shape}")
        variances, axes = principal(floats("covariance", covariance), mean.shape)
        object.__setattr__(self, "mean", mean)
        object.__setattr__(self, "variances", variances)
        object.__setattr__(self, "axes", axes)

    @classmethod
    def of_axes(cls, mean: Values, variances: Values, axes: Values) -> "Gaussian":
        """Make the Gaussian of a covariance that is decomposed already, in float64 on the host say.

        Args:
            mean: (d,).
            variances: (d,), along the axes.
            axes: (d, d), orthonormal columns.

        Raises:
            ValueError: as for the Gaussian itself, and for axes of another shape.
        """
        model, axes = cls(mean, variances), floats("axes", axes)
        if axes.shape != 2 * model.mean.shape or model.variances.ndim != 1:
            raise ValueError(
                f"axes are {2 * model.mean.shape} with variances {model.mean.shape} for this mean; "
                f"got {axes.shape} and {model.variances.shape}"
            )
        object.__setattr__(model, "axes", axes)
        return model

    def _coordinates(self, y: Array, level: ArrayLike) -> tuple["Gaussian", Array, Array, Array]:
        """Return the model in y's dtype, z (B, d), its variances l (1, d) and l + s^2 (B, d)."""
        s = levels(y, level, self.mean.shape[0])
        model = cast(self, y.dtype)
        z = y - model.mean[None]
        z = z if model.axes is None else einsum("bd,de->be", z, model.axes)
        return model, z, model.variances[None], model.variances[None] + s[:, None] ** 2

    def _back(self, z: Array) -> Array:
        return z if self.axes is None else einsum("be,de->bd", z, self.axes)

    def denoise(self, y: Array, level: ArrayLike, cond: Cond = None) -> Points:
        """Return E[x0 | y], (B, d)."""
        no_classes(cond)
        model, z, variances, spread = self._coordinates(y, level)
        return model.mean[None] + model._back(variances / spread * z)

    @property
    def denoiser(self) -> Partial:
        """Return the denoiser D(y, level, cond=None), a pytree."""
        return Partial(Gaussian.denoise, self)

    def score(self, y: Array, level: ArrayLike) -> Points:
        """Return the gradient of log p_s at y, (B, d)."""
        model, z, _, spread = self._coordinates(y, level)
        return -model._back(z / spread)

    def log_density(self, y: Array, level: ArrayLike) -> PerSample:
        """Return log p_s(y) in nats, (B,)."""
        _, z, _, spread = self._coordinates(y, level)
        return -0.5 * jnp.sum(z**2 / spread + jnp.log(spread) + LOG_2PI, axis=1)

    def flow(self, y: Array, level_from: ArrayLike, level_to: ArrayLike) -> Points:
        """Return where the probability-flow ODE takes y (B, d) from one level to another."""
        model, z, _, spread = self._coordinates(y, level_from)
        spread_to = model._coordinates(y, level_to)[3]
        return model.mean[None] + model._back(jnp.sqrt(spread_to / spread) * z)

    def jacobian(self, y: Array, level: ArrayLike) -> Float[Array, "batch d d"]:
        """Return dD/dy, (B, d, d)."""
        model, _, variances, spread = self._coordinates(y, level)
        axes = jnp.eye(y.shape[1], dtype=y.dtype) if model.axes is None else model.axes
        return einsum("ie,be,je->bij", axes, variances / spread, axes)

    def divergence(self, y: Array, level: ArrayLike) -> PerSample:
        """Return the trace of dD/dy, (B,)."""
        _, _, variances, spread = self._coordinates(y, level)
        return jnp.sum(variances / spread, axis=1)

    def moments(self, level: ArrayLike = 0.0) -> tuple[Float[Array, " d"], Float[Array, "d d"]]:
        """Return mean (d,) and covariance (d, d) of y at a level (scalar)."""
        axes = jnp.eye(*self.mean.shape, dtype=self.mean.dtype) if self.axes is None else self.axes
        spread = self.variances + jnp.asarray(level, self.mean.dtype) ** 2
        return self.mean, einsum("ie,e,je->ij", axes, spread, axes)

    def sample(self, key: Key, count: int) -> Float[Array, "count d"]:
        """Return samples x0, (count, d)."""
        noise = jax.random.normal(key, (count, *self.mean.shape), self.mean.dtype)
        return self.mean[None] + self._back(jnp.sqrt(self.variances)[None] * noise)
