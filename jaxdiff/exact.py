r"""Models whose denoiser, score, density and posterior have closed forms.

In the frame y = x0 + s eps with noise level s, and for every model here,

    D(y, s) = E[x0 | y],     score = grad log p_s(y) = (D - y)/s^2      (Tweedie's formula)
    dD/dy   = Cov[x0 | y]/s^2,     div D = its trace.

Gaussian N(m, S) with S = V diag(l) V^T, in the coordinates z = V^T (y - m):

    D = m + V (l/(l + s^2) z),     dy/ds = (y - D)/s from s to r:  z -> sqrt((l + r^2)/(l + s^2)) z.

Mixture of N(m_k, S_k) with weights w_k, with D_k and score_k those of its components:

    r_k = softmax_k(log w_k + log N(y; m_k, S_k + s^2)),
    D = sum r_k D_k,     score = sum r_k score_k,
    dD/dy = sum r_k S_k (S_k + s^2)^-1 + sum r_k (D_k - D)(D_k - D)^T / s^2.

Finite data set: the mixture with S_k = 0 and equal weights.

States are batches (B, d), levels scalars or one per state (B,). Results have the dtype of the
states. Models are pytrees of arrays; numbers are checked when a model is made of concrete arrays,
and taken on trust when traced. Sources: Karras et al. 2206.00364, appendix B.3 (finite data
sets); Efron 2011, doi 10.1198/jasa.2011.tm11181 (Tweedie's formula); Bishop 2006, section 2.3
(conditioning).
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jax.typing import ArrayLike

from jaxdiff.process import check, pytree_dataclass
from jaxdiff.typing import Array, Cond, Key

T = TypeVar("T")

_LOG_2PI = math.log(2 * math.pi)
_einsum = functools.partial(jnp.einsum, precision="highest")  # not TF32
_NEAREST = 1e-20  # stands for level^2 = 0 in a data set's softmax, which is then one-hot


def _floats(name: str, values: ArrayLike) -> Array:
    """Return a floating array of finite numbers."""
    array = jnp.asarray(values)
    if not jnp.issubdtype(array.dtype, jnp.floating):
        array = array.astype(jnp.result_type(float))
    check(f"{name} must be finite", lambda a: np.isfinite(a).all(), array)
    return array


def _principal(covariance: Array, shape: tuple[int, ...]) -> tuple[Array, Array | None]:
    """Return the variances (..., d) along the principal axes and the axes (..., d, d) as columns.

    The axes of a diagonal covariance (..., d) are None. ``shape`` is that of the means.
    """
    if covariance.shape == shape:
        variances, axes = covariance, None
    elif covariance.shape == shape + shape[-1:]:
        check("a covariance must be symmetric", _symmetric, covariance)
        variances, axes = jnp.linalg.eigh(covariance)
    else:
        raise ValueError(
            f"for means of shape {shape} covariances must have shape {shape} (diagonal) or "
            f"{shape + shape[-1:]} (full); got {covariance.shape}"
        )
    message = "variances must be positive (add a small multiple of the identity if singular)"
    check(message, lambda v: (v > 0).all(), variances)
    return variances, axes


def _symmetric(a: np.ndarray) -> bool:
    return np.abs(a - np.swapaxes(a, -1, -2)).max() <= 1e-5 * np.abs(a).max()


def _levels(y: Array, level: ArrayLike, dimension: int) -> Array:
    """Return the level of every state, (B,)."""
    if y.ndim != 2 or y.shape[1] != dimension:
        raise ValueError(f"states must have shape (batch, {dimension}); got {y.shape}")
    return jnp.broadcast_to(jnp.asarray(level, y.dtype), y.shape[:1])


def _cast(model: T, dtype: Any) -> T:
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), model)


def _no_classes(cond: Cond) -> None:
    if cond is not None:
        raise ValueError(f"this model has no classes, so cond must be None; got {cond}")


def _over(numerator: Array, denominator: Array) -> Array:
    """Return the quotient, and 0, its limit here, where the denominator is 0."""
    positive = denominator > 0
    return jnp.where(positive, numerator / jnp.where(positive, denominator, 1), 0)


@pytree_dataclass
class Gaussian:
    """The Gaussian N(mean, covariance).

    mean: (d,). variances: (d,), along the principal axes. axes: (d, d), an axis a column, or None.
    """

    mean: Array
    variances: Array = dataclasses.field(init=False)
    axes: Array | None = dataclasses.field(init=False)

    def __init__(self, mean: ArrayLike, covariance: ArrayLike) -> None:
        """Take the mean (d,) and the covariance, (d,) diagonal or (d, d) full.

        A full one is decomposed here, once. Raises ValueError for other shapes, numbers that are
        not finite and variances that are not positive.
        """
        mean = _floats("mean", mean)
        if mean.ndim != 1:
            raise ValueError(f"mean must have shape (d,); got {mean.shape}")
        variances, axes = _principal(_floats("covariance", covariance), mean.shape)
        object.__setattr__(self, "mean", mean)
        object.__setattr__(self, "variances", variances)
        object.__setattr__(self, "axes", axes)

    def _coordinates(self, y: Array, level: ArrayLike) -> tuple["Gaussian", Array, Array, Array]:
        """Return the model in y's dtype, z (B, d), its variances l (1, d) and l + s^2 (B, d)."""
        s = _levels(y, level, self.mean.shape[0])
        model = _cast(self, y.dtype)
        z = y - model.mean[None]
        z = z if model.axes is None else _einsum("bd,de->be", z, model.axes)
        return model, z, model.variances[None], model.variances[None] + s[:, None] ** 2

    def _back(self, z: Array) -> Array:
        return z if self.axes is None else _einsum("be,de->bd", z, self.axes)

    def denoise(self, y: Array, level: ArrayLike, cond: Cond = None) -> Array:
        """Return E[x0 | y], (B, d)."""
        _no_classes(cond)
        model, z, variances, spread = self._coordinates(y, level)
        return model.mean[None] + model._back(variances / spread * z)

    @property
    def denoiser(self) -> Partial:
        """The denoiser D(y, level, cond=None), a pytree."""
        return Partial(Gaussian.denoise, self)

    def score(self, y: Array, level: ArrayLike) -> Array:
        """Return the gradient of log p_s at y, (B, d)."""
        model, z, _, spread = self._coordinates(y, level)
        return -model._back(z / spread)

    def log_density(self, y: Array, level: ArrayLike) -> Array:
        """Return log p_s(y) in nats, (B,)."""
        _, z, _, spread = self._coordinates(y, level)
        return -0.5 * jnp.sum(z**2 / spread + jnp.log(spread) + _LOG_2PI, axis=1)

    def flow(self, y: Array, level_from: ArrayLike, level_to: ArrayLike) -> Array:
        """Return where the probability-flow ODE takes y (B, d) from one level to another."""
        model, z, _, spread = self._coordinates(y, level_from)
        spread_to = model._coordinates(y, level_to)[3]
        return model.mean[None] + model._back(jnp.sqrt(spread_to / spread) * z)

    def jacobian(self, y: Array, level: ArrayLike) -> Array:
        """Return dD/dy, (B, d, d)."""
        model, _, variances, spread = self._coordinates(y, level)
        axes = jnp.eye(y.shape[1], dtype=y.dtype) if model.axes is None else model.axes
        return _einsum("ie,be,je->bij", axes, variances / spread, axes)

    def divergence(self, y: Array, level: ArrayLike) -> Array:
        """Return the trace of dD/dy, (B,)."""
        _, _, variances, spread = self._coordinates(y, level)
        return jnp.sum(variances / spread, axis=1)

    def moments(self, level: ArrayLike = 0.0) -> tuple[Array, Array]:
        """Return mean (d,) and covariance (d, d) of y at a level (scalar)."""
        axes = jnp.eye(*self.mean.shape, dtype=self.mean.dtype) if self.axes is None else self.axes
        spread = self.variances + jnp.asarray(level, self.mean.dtype) ** 2
        return self.mean, _einsum("ie,e,je->ij", axes, spread, axes)

    def sample(self, key: Key, count: int) -> Array:
        """Return samples x0, (count, d)."""
        noise = jax.random.normal(key, (count, *self.mean.shape), self.mean.dtype)
        return self.mean[None] + self._back(jnp.sqrt(self.variances)[None] * noise)


@pytree_dataclass
class GaussianMixture:
    """The mixture sum_k w_k N(means[k], covariances[k]), or one per class over the same components.

    weights: (K,) or (classes, K). means: (K, d). variances: (K, d), along the principal axes.
    axes: (K, d, d), an axis a column, or None. Without a class, the mean of the classes' weights
    counts.
    """

    weights: Array
    means: Array
    variances: Array
    axes: Array | None = dataclasses.field(init=False)

    def __init__(self, weights: ArrayLike, means: ArrayLike, variances: ArrayLike) -> None:
        """Take weights (K,) or (classes, K), means (K, d) and the covariances.

        variances: (K,) isotropic, (K, d) diagonal or (K, d, d) full; the last are decomposed here,
        once. Raises ValueError for other shapes, numbers that are not finite, variances that are
        not positive, and weights that are negative or do not sum to 1.
        """
        weights, means = _floats("weights", weights), _floats("means", means)
        if means.ndim != 2:
            raise ValueError(f"means must have shape (K, d); got {means.shape}")
        if weights.ndim not in (1, 2) or weights.shape[-1] != means.shape[0]:
            raise ValueError(
                f"weights must have shape ({means.shape[0]},) or (classes, {means.shape[0]}), one "
                f"per row of means; got {weights.shape}"
            )
        check("weights must not be negative", lambda w: (w >= 0).all(), weights)
        check("weights must sum to 1", lambda w: (abs(w.sum(-1) - 1) < 1e-5).all(), weights)
        variances = _floats("variances", variances)
        if variances.shape == means.shape[:1]:
            variances = jnp.broadcast_to(variances[:, None], means.shape)
        variances, axes = _principal(variances, means.shape)
        object.__setattr__(self, "weights", weights)
        object.__setattr__(self, "means", means)
        object.__setattr__(self, "variances", variances)
        object.__setattr__(self, "axes", axes)

    def _log_weights(self, cond: Cond, count: int) -> Array:
        """Return log weights (1, K), or (count, K) for classes; NaN for a class there is not."""
        if self.weights.ndim == 1:
            _no_classes(cond)
        if cond is None:
            rows = self.weights.reshape(-1, self.weights.shape[-1]).mean(0, keepdims=True)
        else:
            classes = self.weights.shape[0]
            labels = jnp.asarray(cond)
            if not jnp.issubdtype(labels.dtype, jnp.integer) or labels.ndim > 1:
                raise TypeError(f"cond must be class numbers, () or (batch,); got {labels}")
            message = f"classes are numbered 0 to {classes - 1}"
            check(message, lambda c: (c >= 0).all() and (c < classes).all(), labels)
            labels = jnp.broadcast_to(labels, (count,))
            rows = self.weights.at[labels].get(mode="fill", fill_value=jnp.nan)
        empty = rows == 0
        return jnp.where(empty, -jnp.inf, jnp.log(jnp.where(empty, 1, rows)))

    def _components(self, y: Array, level: ArrayLike, cond: Cond) -> tuple[Any, ...]:
        """Return the model in y's dtype, z, l + s^2 (B, K, d), log(w_k N_k(y)) (B, K)."""
        s = _levels(y, level, self.means.shape[1])
        model = _cast(self, y.dtype)
        z = y[:, None] - model.means[None]
        z = z if model.axes is None else _einsum("bkd,kde->bke", z, model.axes)
        spread = model.variances[None] + s[:, None, None] ** 2
        log_normal = -0.5 * jnp.sum(z**2 / spread + jnp.log(spread) + _LOG_2PI, axis=2)
        return model, z, spread, model._log_weights(cond, y.shape[0]) + log_normal

    def _back(self, z: Array) -> Array:
        return z if self.axes is None else _einsum("bke,kde->bkd", z, self.axes)

    def _covariances(self) -> Array:
        """Return the components' covariances, (K, d, d)."""
        axes = self._all_axes()
        return _einsum("kie,ke,kje->kij", axes, self.variances, axes)

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
        return share, shrink, each, _einsum("bk,bkd->bd", share, each)

    def denoise(self, y: Array, level: ArrayLike, cond: Cond = None) -> Array:
        """Return E[x0 | y], (B, d); cond: class numbers, () or (B,), or None."""
        return self._denoised(y, level, cond)[3]

    @property
    def denoiser(self) -> Partial:
        """The denoiser D(y, level, cond=None), a pytree."""
        return Partial(GaussianMixture.denoise, self)

    def score(self, y: Array, level: ArrayLike, cond: Cond = None) -> Array:
        """Return the gradient of log p_s at y, (B, d)."""
        model, z, spread, log_joint = self._components(y, level, cond)
        share = jax.nn.softmax(log_joint, axis=1)
        return -_einsum("bk,bkd->bd", share, model._back(z / spread))

    def log_density(self, y: Array, level: ArrayLike, cond: Cond = None) -> Array:
        """Return log p_s(y) in nats, (B,)."""
        return jax.nn.logsumexp(self._components(y, level, cond)[3], axis=1)

    def responsibilities(self, y: Array, level: ArrayLike, cond: Cond = None) -> Array:
        """Return the probability that y comes from each component, (B, K)."""
        return jax.nn.softmax(self._components(y, level, cond)[3], axis=1)

    def jacobian(self, y: Array, level: ArrayLike, cond: Cond = None) -> Array:
        """Return dD/dy, the posterior covariance over level^2, (B, d, d)."""
        share, shrink, each, mean = self._denoised(y, level, cond)
        axes = _cast(self, y.dtype)._all_axes()
        apart = _over(each - mean[:, None], _levels(y, level, y.shape[1])[:, None, None])
        within = _einsum("bk,kie,bke,kje->bij", share, axes, shrink, axes)
        return within + _einsum("bk,bki,bkj->bij", share, apart, apart)

    def divergence(self, y: Array, level: ArrayLike, cond: Cond = None) -> Array:
        """Return the trace of dD/dy, (B,)."""
        share, shrink, each, mean = self._denoised(y, level, cond)
        apart = _over(each - mean[:, None], _levels(y, level, y.shape[1])[:, None, None])
        return jnp.sum(share * jnp.sum(shrink + apart**2, axis=2), axis=1)

    def moments(self, level: ArrayLike = 0.0, cond: Cond = None) -> tuple[Array, Array]:
        """Return mean (d,) and covariance (d, d) of y at a scalar level, of a class or all."""
        weights = jnp.exp(self._log_weights(cond, 1))[0]
        mean = _einsum("k,kd->d", weights, self.means)
        apart = self.means - mean[None]
        covariance = _einsum("k,kij->ij", weights, self._covariances())
        covariance += _einsum("k,ki,kj->ij", weights, apart, apart)
        noise = jnp.asarray(level, mean.dtype) ** 2
        return mean, covariance + noise * jnp.eye(mean.shape[0], dtype=mean.dtype)

    def sample(self, key: Key, count: int, cond: Cond = None) -> Array:
        """Return samples x0, (count, d), of the classes cond, () or (count,)."""
        key_component, key_noise = jax.random.split(key)
        logits = jnp.broadcast_to(self._log_weights(cond, count), (count, self.means.shape[0]))
        k = jax.random.categorical(key_component, logits)
        noise = jax.random.normal(key_noise, (count, self.means.shape[1]), self.means.dtype)
        noise = jnp.sqrt(self.variances[k]) * noise
        if self.axes is not None:
            noise = _einsum("bde,be->bd", self.axes[k], noise)
        return self.means[k] + noise

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
        seen = _einsum("mi,kij,nj->kmn", matrix, covariances, matrix) + noise[None]
        lower = jnp.linalg.cholesky(seen)
        crossed = _einsum("mi,kij->kmj", matrix, covariances)
        gain = jnp.swapaxes(jax.scipy.linalg.cho_solve((lower, True), crossed), 1, 2)
        surprise = observation[None] - _einsum("kd,md->km", self.means, matrix)
        white = jax.scipy.linalg.solve_triangular(lower, surprise[..., None], lower=True)[..., 0]
        scale = jnp.sum(jnp.log(jnp.diagonal(lower, axis1=1, axis2=2)), axis=1)
        evidence = -0.5 * jnp.sum(white**2, axis=1) - scale
        rest = jnp.eye(d, dtype=dtype)[None] - _einsum("kim,mj->kij", gain, matrix)
        spread = _einsum("kij,kjl,kml->kim", rest, covariances, rest)
        spread += _einsum("kim,mn,kjn->kij", gain, noise, gain)
        return GaussianMixture(
            jax.nn.softmax(self._log_weights(cond, 1)[0] + evidence),
            self.means + _einsum("kdm,km->kd", gain, surprise),
            0.5 * (spread + jnp.swapaxes(spread, 1, 2)),
        )


@pytree_dataclass
class Empirical:
    """A finite data set, each of its points equally likely; p_s is a Gaussian kernel density.

    data: (n, d). centre: (d,), its mean, subtracted before distances are taken. chunk: points
    handled at once; sums over the points are streamed, so memory does not grow with n B.

    Distances are expanded, |y - x|^2 = |y|^2 - 2 y x + |x|^2: in float32 they are wrong by about
    1e-7 |y||x|, which moves the weights of nearly equidistant points at levels below a few
    thousandths of |x|. As s -> 0 the denoiser becomes the nearest point.
    """

    data: Array
    centre: Array = dataclasses.field(init=False)
    chunk: int = dataclasses.field(default=1024, metadata={"static": True})

    def __init__(self, data: ArrayLike, chunk: int = 1024) -> None:
        """Take the points (n, d), n >= 1, as floating numbers of any precision.

        Raises ValueError for another shape, numbers that are not finite or a chunk below 1.
        """
        data = _floats("data", data)
        if data.ndim != 2 or data.shape[0] < 1:
            raise ValueError(f"data must have shape (n, d) with n >= 1; got {data.shape}")
        if chunk < 1:
            raise ValueError(f"chunk must be at least 1; got {chunk}")
        object.__setattr__(self, "data", data)
        object.__setattr__(self, "centre", data.mean(0))
        object.__setattr__(self, "chunk", min(chunk, data.shape[0]))

    def _sum(self, add: Callable[[T, Array, Array], T], start: T, dtype: Any) -> T:
        """Return start + all points, by add(sum, centred points (chunk, d), new (chunk,))."""
        count = self.data.shape[0]

        @jax.checkpoint
        def body(total: T, i: Array) -> tuple[T, None]:
            first = jnp.minimum(i * self.chunk, count - self.chunk)
            points = jax.lax.dynamic_slice_in_dim(self.data, first, self.chunk).astype(dtype)
            new = first + jnp.arange(self.chunk) >= i * self.chunk  # the last chunk overlaps
            return add(total, points - self.centre.astype(dtype)[None], new), None

        return jax.lax.scan(body, start, jnp.arange(-(-count // self.chunk)))[0]

    def _logits(self, z: Array, points: Array, new: Array, s: Array) -> Array:
        """Return (|z|^2 - |z - x|^2)/(2 s^2), -inf for repeated points x; (B, chunk)."""
        inner = _einsum("bd,nd->bn", z, points)
        inner = inner - 0.5 * jnp.sum(points**2, axis=1)[None]
        return jnp.where(new[None], inner / jnp.maximum(s**2, _NEAREST)[:, None], -jnp.inf)

    def _weigh(self, y: Array, level: ArrayLike) -> tuple[Array, ...]:
        """Return z, s, log sum_i exp(logit_i) (B,), centred mean (B, d), 1/sum of squared weights.

        One pass with a running maximum (online softmax).
        """
        s = _levels(y, level, self.data.shape[1])
        z = y - self.centre.astype(y.dtype)[None]

        def add(sums: tuple[Array, ...], points: Array, new: Array) -> tuple[Array, ...]:
            top, total, squares, mean = sums
            logits = self._logits(z, points, new, s)
            higher = jax.lax.stop_gradient(jnp.maximum(top, logits.max(axis=1)))
            e, shrink = jnp.exp(logits - higher[:, None]), jnp.exp(top - higher)
            mean = mean * shrink[:, None] + _einsum("bn,nd->bd", e, points)
            return higher, total * shrink + e.sum(1), squares * shrink**2 + (e**2).sum(1), mean

        zero = jnp.zeros_like(s)
        start = (jnp.full_like(s, -jnp.inf), zero, zero, jnp.zeros_like(z))
        top, total, squares, mean = self._sum(add, start, y.dtype)
        return z, s, top + jnp.log(total), mean / total[:, None], total**2 / squares

    def denoise(self, y: Array, level: ArrayLike, cond: Cond = None) -> Array:
        """Return E[x0 | y], (B, d), a weighted mean of the data."""
        _no_classes(cond)
        return self._weigh(y, level)[3] + self.centre.astype(y.dtype)[None]

    @property
    def denoiser(self) -> Partial:
        """The denoiser D(y, level, cond=None), a pytree."""
        return Partial(Empirical.denoise, self)

    def score(self, y: Array, level: ArrayLike) -> Array:
        """Return the gradient of log p_s at y, (B, d); levels must be positive."""
        s = _levels(y, level, self.data.shape[1])
        return (self.denoise(y, s) - y) / s[:, None] ** 2

    def log_density(self, y: Array, level: ArrayLike) -> Array:
        """Return log p_s(y) in nats, (B,); levels must be positive."""
        count, d = self.data.shape
        z, s, log_sum, _, _ = self._weigh(y, level)
        log_sum = log_sum - 0.5 * jnp.sum(z**2, axis=1) / s**2
        return log_sum - math.log(count) - d * (jnp.log(s) + 0.5 * _LOG_2PI)

    def neighbours(self, y: Array, level: ArrayLike) -> Array:
        """Return the effective number of data points in the mean D, 1/sum_i w_i^2, (B,)."""
        return self._weigh(y, level)[4]

    def jacobian(self, y: Array, level: ArrayLike) -> Array:
        """Return dD/dy = sum_i w_i (x_i - D)(x_i - D)^T / level^2, (B, d, d); small d only."""
        d = y.shape[1]
        start = jnp.zeros((y.shape[0], d, d), y.dtype)
        return self._second(y, level, lambda w, a: _einsum("bn,bni,bnj->bij", w, a, a), start)

    def divergence(self, y: Array, level: ArrayLike) -> Array:
        """Return the trace of dD/dy, (B,)."""
        start = jnp.zeros(y.shape[:1], y.dtype)
        return self._second(y, level, lambda w, a: jnp.sum(w * jnp.sum(a**2, 2), 1), start)

    def _second(
        self, y: Array, level: ArrayLike, term: Callable[[Array, Array], Array], start: Array
    ) -> Array:
        """Return the sum over the points of term(w_i, x_i - D), over level^2: a second pass."""
        z, s, log_sum, mean, _ = self._weigh(y, level)

        def add(total: Array, points: Array, new: Array) -> Array:
            weights = jnp.exp(self._logits(z, points, new, s) - log_sum[:, None])
            return total + term(weights, points[None] - mean[:, None])

        total = self._sum(add, start, y.dtype)
        return _over(total, (s**2).reshape((-1,) + (1,) * (total.ndim - 1)))

    def moments(self, level: ArrayLike = 0.0) -> tuple[Array, Array]:
        """Return mean (d,) and covariance (d, d) of y at a level (scalar)."""
        count, d = self.data.shape

        def add(total: Array, points: Array, new: Array) -> Array:
            return total + _einsum("n,ni,nj->ij", new.astype(points.dtype), points, points)

        start = jnp.zeros((d, d), self.data.dtype)
        total = self._sum(add, start, start.dtype)
        noise = jnp.asarray(level, start.dtype) ** 2
        return self.centre, total / count + noise * jnp.eye(d, dtype=start.dtype)

    def sample(self, key: Key, count: int) -> Array:
        """Return points x0 of the data, drawn with replacement, (count, d)."""
        return self.data[jax.random.randint(key, (count,), 0, self.data.shape[0])]
