"""A denoiser with its table: samples by their numbers."""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from jaxdiff.brief import short
from jaxdiff.denoisers import as_partial
from jaxdiff.noise import sample_numbers, start_noise
from jaxdiff.sampling.sample import sample
from jaxdiff.sampling.table import Table
from jaxdiff.typing import Array, Cond, Correct, Denoiser, Key


class Steps(Protocol):
    """A sampler that may take a table's place in a :class:`Sampler`: steps that depend on each
    sample (:mod:`jaxdiff.tuning.learned.steps`). A pytree.
    """

    @property
    def levels(self) -> Any:
        """Noise levels of the start and of the states."""
        ...

    @property
    def nfe(self) -> int:
        """Number of network evaluations."""
        ...

    @property
    def stochastic(self) -> bool:
        """Return whether they need noise."""
        ...

    @property
    def name(self) -> str:
        """Return the method's name."""
        ...

    @property
    def metadata(self) -> dict[str, Any]:
        """Return where they come from."""
        ...

    def sample(self, denoiser: Denoiser, start: Array, cond: Cond = None) -> Array:
        """Return the samples of starts (batch, *shape) at the first level."""
        ...

    def to_dict(self) -> dict[str, Any]:
        """As plain values."""
        ...

    def save(self, path: Any) -> None:
        """Write them as JSON."""
        ...


def sample_any(D: Denoiser, num_steps: "Table | Steps", start: Array, cond: Cond = None) -> Array:
    """Return the samples of starts by a deterministic table, or by what takes a table's place."""
    if isinstance(num_steps, Table):
        return sample(D, num_steps, start, cond)
    return num_steps.sample(D, start, cond)


class Sampler(NamedTuple):
    """A denoiser with the table that samples it: what every trained student, tuned solver and
    teacher comes as.

    latent: how many standard normal numbers, drawn anew for every sample and evaluation, the
    denoiser is given as ``extra``: of a generator whose steps are random in themselves (arXiv
    2112.07804).
    """

    __repr__ = short

    denoiser: Denoiser
    table: Table | Steps
    latent: int = 0

    def __call__(
        self,
        key: Key,
        index: Array | Sequence[int] | int,
        shape: Sequence[int],
        cond: Cond = None,
        *,
        correct: Correct | None = None,
        **options: Any,
    ) -> Array:
        """Samples (len(index), *shape), numbered ``index`` (or 0, 1, ... if it is a count), in
        float32.

        ``correct`` (with keys of its own, from ``key``) and ``options`` go to
        :func:`jaxdiff.sampling.sample.sample`.
        """
        numbers = sample_numbers(index)
        levels, D = jnp.asarray(self.table.levels, jnp.float32), self.denoiser
        start = levels[0] * start_noise(key, numbers, shape)
        if self.latent:
            size = (len(levels), self.latent)
            cond = (start_noise(jax.random.fold_in(key, 1), numbers, size), cond)
            D = Partial(_with_latent, as_partial(D), levels)
        options |= {} if correct is None else {"correct": correct}
        if not isinstance(self.table, Table):
            if options:
                raise ValueError(f"{self.table!r} takes no options of a table: {sorted(options)}")
            return self.table.sample(D, start, cond)
        key_or_none = key if self.table.stochastic or correct is not None else None
        return sample(D, self.table, start, cond, key=key_or_none, index=numbers, **options)


def _with_latent(D: Partial, levels: Array, y: Array, s: Array, cond: Cond = None) -> Array:
    """Return the denoiser with the latent of the evaluation at level s."""
    latents, label = cond
    return D(y, s, label, extra=latents[:, jnp.argmin(jnp.abs(levels - s))])
