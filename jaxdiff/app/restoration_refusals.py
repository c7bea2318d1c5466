"""Which methods of ``jaxdiff restore`` take a measurement, and why others do not."""

import jax.numpy as jnp
import numpy as np

from jaxdiff.app.restoration_methods import Method
from jaxdiff.conditioning.operators import Linear, Measurement, Operator, average
from jaxdiff.conditioning.operators.linear import CUTOFF


def refusal(
    method: Method, measurement: Measurement, unseen: str | None = None,
    pictures: Operator | None = None, student: bool = False,
) -> str | None:  # fmt: skip
    """Return why a method does not take a measurement; None if it does. unseen: why the model's own
    network is not shown it, if it is not. pictures: of a model of latents, what is measured of
    their pictures. student: whether the model is one, which answers at its own noise levels alone.
    """
    if method.shown:
        return unseen
    if student and not method.smaller:
        return "a student answers at its own noise levels alone: its teacher is a denoiser"
    if method.latents and pictures is None:
        return "it is for models of latents"
    operator = pictures if method.latents and pictures is not None else measurement.operator
    if method.smaller and not _is_smaller(operator.measured, operator.shape):
        return "it enlarges small images: tasks super, bicubic and decimate"
    if method.linear and not isinstance(operator, Linear):
        return "it is for linear measurements, and this one is not"
    if method.mask and operator.support is None:
        return "it is for measurements of pixels, tasks inpaint and pixels"
    if method.blocks and block_size(operator) == 1:
        return "it is for the means of blocks of pixels, task super"
    if method.noise == "some" and not float(measurement.noise):
        return "it divides by the noise: give a --noise above 0"
    if method.noise == "none" and float(measurement.noise):
        return "it is for measurements without noise: --noise 0"
    return None


def doubt(method: Method, measurement: Measurement, data_std: float) -> str | None:
    """Return why restorations by a method will be noise; None if there is no such reason.

    It is one where the method fits the measurement exactly and the noise of A^+ u, the root mean
    square over pixels, is larger than the data.
    """
    operator = measurement.operator
    if not method.inverts or not isinstance(operator, Linear) or operator.basis is None:
        return None
    singular = np.asarray(operator.basis.singular, np.float64)
    kept = singular[singular > CUTOFF * singular.max()]
    inverse = float(np.sqrt(np.sum(kept**-2.0) / len(singular)))
    noise = inverse * float(np.max(np.asarray(measurement.noise)))
    if noise <= data_std:
        return None
    return (
        f"it fits the measurement exactly, and inverted its noise is {noise / data_std:.3g} times "
        "as large as the data: pigdm, mmps and ddrm weigh it"
    )


def _is_smaller(measured: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    same = len(measured) == len(shape) and measured[-1] == shape[-1]
    return same and all(m < n for m, n in zip(measured[:-1], shape[:-1], strict=True))


def block_size(operator: Operator) -> int:
    """Return of how many pixels, along each axis, the operator takes the means; 1 for others."""
    shape, measured = operator.shape, operator.measured
    if not isinstance(operator, Linear) or len(shape) != 3 or len(measured) != 3:
        return 1
    factor = shape[0] // measured[0]
    if factor < 2 or any(n % factor for n in shape[:2]):
        return 1
    known = average(shape, factor)
    probe = jnp.asarray(np.random.default_rng(0).normal(size=(1, *shape)), jnp.float32)
    same = known.measured == measured and np.allclose(
        known.apply(probe), operator.apply(probe), atol=1e-5
    )
    return factor if same else 1
