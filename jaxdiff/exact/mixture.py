"""A mixture of Gaussians."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jax.typing import ArrayLike
from jaxtyping import Float

from jaxdiff.arrays import check, einsum, pytree_dataclass
from jaxdiff.exact.parts import LOG_2PI, cast, floats, levels, no_classes, over, principal
from jaxdiff.typing import Array, Cond, Key, PerSample, Points, Values


@pytree_dataclass
class GaussianMixture:
    """The mixture sum_k w_k N(means[k], covariances[k]), or one per class over the same components.

    weights: (K,) or (classes, K). means: (K, d). variances: (K, d), along the principal axes.
    axes: (K, d, d), an axis a column, or None. Without a class (cond None, or the index one beyond
    the last class, as for networks) the mean of the classes' weights counts. Any other index gives
    NaN under ``jax.jit``, and is refused where its value is known.
    """

    weights: Array
    means: Array
    variances: Array
    axes: Array | None = dataclasses.field(init=False)

    def __init__(self, weights: Values, means: Values, variances: Values) -> None:
        """Take weights (K,) or (classes, K), means (K, d) and the covariances.

        variances: (K,) isotropic, (K, d) diagonal or (K, d, d) full; the last are decomposed here,
        once. Raises ValueError for other shapes, numbers that are not finite, variances that are
        not positive, and weights that are negative or do not sum to 1.
        """
        weights, means = floats("weights", weights), floats("means", means)
        if means.ndim != 2:
            raise ValueError(f"means must have shape (K, d); got {means.shape}")
        if weights.ndim not in (1, 2) or weights.shape[-1] != means.shape[0]:
            raise ValueError(
                f"weights must have shape ({means.shape[0]},) or (classes, {means.shape[0]}), one "
                f"per row of means; got {weights.shape}"
            )
        check("weights must not be negative", lambda w: (w >= 0).all(), weights)
        check("weights must sum to 1", lambda w: (abs(w.sum(-1) - 1) < 1e-5).all(), weights)
        variances = floats("variances", variances)
        if variances.shape == means.shape[:1]:
            variances = jnp.broadcast_to(variances[:, None], means.shape)
        variances, axes = principal(variances, means.shape)
        object.__setattr__(self, "weights", weights)
        object.__setattr__(self, "means", means)
        object.__setattr__(self, "variances", variances)
        object.__setattr__(self, "axes", axes)

    @classmethod
    def of_axes(
        cls, weights: Values, means: Values, variances: Values, axes: Values
    ) -> "GaussianMixture":
        """Make the mixture of covariances that are decomposed already, in float64 on the host say.

        Args:
            weights: (K,) or (classes, K).
            means: (K, d).
            variances: (K, d), along the axes.
            axes: (K, d, d), orthonormal columns.

        Raises:
            ValueError: as for the mixture itself, and for axes of another shape.
        """
        model, axes = cls(weights, means, variances), floats("axes", axes)
        if axes.shape != (*model.means.shape, model.means.shape[1]):
            raise ValueError(
                f"means of shape {model.means.shape} have axes of shape "
                f"{(*model.means.shape, model.means.shape[1])}; got {axes.shape}"
            )
        object.__setattr__(model, "axes", axes)
        return model

    def _log_weights(self, cond: Cond, count: int) -> Array:
        """Return log weights (1, K), or (count, K) for classes: NaN for a class there is not, all
        classes' mean for the index one beyond the last, which stands for no class.
        """
        if self.weights.ndim == 1:
            no_classes(cond)
        marginal = self.weights.reshape(-1, self.weights.shape[-1]).mean(0, keepdims=True)
        if cond is None:
            rows = marginal
        else:
            classes = self.weights.shape[0]
            labels = jnp.asarray(cond)
            if not jnp.issubdtype(labels.dtype, jnp.integer) or labels.ndim > 1:
                raise TypeError(f"cond must be class numbers, () or (batch,); got {labels}")
            message = f"classes are numbered 0 to {classes - 1}, and {classes} is none"
            check(message, lambda c: (c >= 0).all() and (c <= classes).all(), cond)
            if labels.shape not in ((), (count,)):
                raise ValueError(f"cond has {labels.shape[0]} classes for {count} states")
            labels = jnp.broadcast_to(labels, (count,))
            known = (labels >= 0) & (labels <= classes)  # JAX counts -1 from the end, and clips
            rows = jnp.concatenate([self.weights, marginal])[jnp.where(known, labels, 0)]
            rows = jnp.where(known[:, None], rows, jnp.nan)
        empty = rows == 0
        return jnp.where(empty, -jnp.inf, jnp.log(jnp.where(empty, 1, rows)))

    def _components(self, y: Array, level: ArrayLike, cond: Cond) -> tuple[Any, ...]:
        """Return the model in y's dtype, z, l + s^2 (B, K, d), log(w_k N_k(y)) (B, K)."""
        s = levels(y, level, self.means.shape[1])
        model = cast(self, y.dtype)
        z = y[:, None] - model.means[None]
        z = z if model.axes is None else einsum("bkd,kde->bke", z, model.axes)
        spread = model.variances[None] + s[:, None, None] ** 2
        log_normal = -0.5 * jnp.sum(z**2 / spread + jnp.log(spread) + LOG_2PI, axis=2)
        return model, z, spread, model._log_weights(cond, y.shape[0]) + log_normal

    def _back(self, z: Array) -> Array:
        return z if self.axes is None else einsum("bke,kde->bkd", z, self.axes)

    def _covariances(self) -> Array:
        """Return the components' covariances, (K, d, d)."""
        axes = self._all_axes()
        return einsum("kie,ke,kje->kij", axes, self.variances, axes)

    def _all_axes(self) -> Array:
        count, d = self.means.shape
        eye = jnp.broadcast_to(jnp.eye(d, dtype=self.means.dtype), (count, d, d))
        return eye if self.axes is None else self.axes

    def _denoised(self, y: Array, level: ArrayLike, cond: Cond) -> tuple[Array, ...]:
        """Return r_k (B, K), shrinkage l/(l + s^2) (B, K, d), D_k (B, K, d) and D (B, d)."""
        model, z, spread, log_joint = self._components(y, level, cond)
        share = jax.nn.softmax(log_joint, axis=1)
        shrink = model.variances[None] / spread
        each = model.means[None] + model._back(shrink * z)
        return share, shrink, each, einsum("bk,bkd->bd", share, each)

    def denoise(self, y: Array, level: ArrayLike, cond: Cond = None) -> Points:
        """Return E[x0 | y], (B, d); cond: class numbers, () or (B,), or None."""
        return self._denoised(y, level, cond)[3]

    @property
    def denoiser(self) -> Partial:
        """Return the denoiser D(y, level, cond=None), a pytree."""
        return Partial(GaussianMixture.denoise, self)

    def score(self, y: Array, level: ArrayLike, cond: Cond = None) -> Points:
        """Return the gradient of log p_s at y, (B, d)."""
        model, z, spread, log_joint = self._components(y, level, cond)
        share = jax.nn.softmax(log_joint, axis=1)
        return -einsum("bk,bkd->bd", share, model._back(z / spread))

    def log_density(self, y: Array, level: ArrayLike, cond: Cond = None) -> PerSample:
        """Return log p_s(y) in nats, (B,)."""
        return jax.nn.logsumexp(self._components(y, level, cond)[3], axis=1)

    def responsibilities(
        self, y: Array, level: ArrayLike, cond: Cond = None
    ) -> Float[Array, "batch components"]:
        """Return the probability that y comes from each component, (B, K)."""
        return jax.nn.softmax(self._components(y, level, cond)[3], axis=1)

    def jacobian(self, y: Array, level: ArrayLike, cond: Cond = None) -> Float[Array, "batch d d"]:
        """Return dD/dy, the posterior covariance over level^2, (B, d, d)."""
        share, shrink, each, mean = self._denoised(y, level, cond)
        axes = cast(self, y.dtype)._all_axes()
        apart = over(each - mean[:, None], levels(y, level, y.shape[1])[:, None, None])
        within = einsum("bk,kie,bke,kje->bij", share, axes, shrink, axes)
        return within + einsum("bk,bki,bkj->bij", share, apart, apart)

    def divergence(self, y: Array, level: ArrayLike, cond: Cond = None) -> PerSample:
        """Return the trace of dD/dy, (B,)."""
        share, shrink, each, mean = self._denoised(y, level, cond)
        apart = over(each - mean[:, None], levels(y, level, y.shape[1])[:, None, None])
        return jnp.sum(share * jnp.sum(shrink + apart**2, axis=2), axis=1)

    def moments(
        self, level: ArrayLike = 0.0, cond: Cond = None
    ) -> tuple[Float[Array, " d"], Float[Array, "d d"]]:
        """Return mean (d,) and covariance (d, d) of y at a scalar level, of a class or all."""
        weights = jnp.exp(self._log_weights(cond, 1))[0]
        mean = einsum("k,kd->d", weights, self.means)
        apart = self.means - mean[None]
        covariance = einsum("k,kij->ij", weights, self._covariances())
        covariance += einsum("k,ki,kj->ij", weights, apart, apart)
        noise = jnp.asarray(level, mean.dtype) ** 2
        return mean, covariance + noise * jnp.eye(mean.shape[0], dtype=mean.dtype)

    def sample(self, key: Key, count: int, cond: Cond = None) -> Float[Array, "count d"]:
        """Return samples x0, (count, d), of the classes cond, () or (count,)."""
        key_component, key_noise = jax.random.split(key)
        logits = jnp.broadcast_to(self._log_weights(cond, count), (count, self.means.shape[0]))
        k = jax.random.categorical(key_component, logits)
        unknown = jnp.isnan(logits).any(axis=1, keepdims=True)  # of a class that there is not
        noise = jax.random.normal(key_noise, (count, self.means.shape[1]), self.means.dtype)
        noise = jnp.sqrt(self.variances[k]) * noise
        if self.axes is not None:
            noise = einsum("bde,be->bd", self.axes[k], noise)
        return jnp.where(unknown, jnp.nan, self.means[k] + noise)

    def posterior(
        self, matrix: Array, observation: Array, noise_variance: ArrayLike, cond: Cond = None
    ) -> "GaussianMixture":
        """Return the mixture of x0 given observation = matrix x0 + N(0, noise_variance) noise.

        matrix: (m, d). observation: (m,). noise_variance: () or (m,), positive. cond: one class, or
        None. Component by component with S = A S_k A^T + N and gain G = S_k A^T S^-1:
        m_k + G (o - A m_k), (I - G A) S_k (I - G A)^T + G N G^T, weights w_k N(o; A m_k, S).

        Raises ValueError for other shapes or a noise_variance that is not positive.
        """
        dtype, d = self.means.dtype, self.means.shape[1]
        matrix, observation = jnp.asarray(matrix, dtype), jnp.asarray(observation, dtype)
        if matrix.ndim != 2 or matrix.shape[1] != d or observation.shape != matrix.shape[:1]:
            raise ValueError(
                f"matrix must have shape (m, {d}) and observation (m,); "
                f"got {matrix.shape} and {observation.shape}"
            )
        check("noise_variance must be positive", lambda v: (v > 0).all(), noise_variance)
        noise = jnp.diag(jnp.broadcast_to(jnp.asarray(noise_variance, dtype), observation.shape))
        covariances = self._covariances()
        seen = einsum("mi,kij,nj->kmn", matrix, covariances, matrix) + noise[None]
        lower = jnp.linalg.cholesky(seen)
        crossed = einsum("mi,kij->kmj", matrix, covariances)
        gain = jnp.swapaxes(jax.scipy.linalg.cho_solve((lower, True), crossed), 1, 2)
        surprise = observation[None] - einsum("kd,md->km", self.means, matrix)
        white = jax.scipy.linalg.solve_triangular(lower, surprise[..., None], lower=True)[..., 0]
        scale = jnp.sum(jnp.log(jnp.diagonal(lower, axis1=1, axis2=2)), axis=1)
        evidence = -0.5 * jnp.sum(white**2, axis=1) - scale
        rest = jnp.eye(d, dtype=dtype)[None] - einsum("kim,mj->kij", gain, matrix)
        spread = einsum("kij,kjl,kml->kim", rest, covariances, rest)
        spread += einsum("kim,mn,kjn->kij", gain, noise, gain)
        return GaussianMixture(
            jax.nn.softmax(self._log_weights(cond, 1)[0] + evidence),
            self.means + einsum("kdm,km->kd", gain, surprise),
            0.5 * (spread + jnp.swapaxes(spread, 1, 2)),
        )
