"""Denoisers of networks at the largest and the smallest levels that float32 holds."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.denoisers import denoiser
from jaxdiff.process import VP, Discrete, RectifiedFlow, scaled_linear_betas, zero_terminal_snr

ZERO_SNR = Discrete(zero_terminal_snr(np.cumprod(1 - scaled_linear_betas(1000))))
Z = np.linspace(-2, 2, 5, dtype=np.float32)[None]


def network(params, x, label, cond=None):
    return 0.3 * x + 0.1


@pytest.mark.parametrize(
    "process, prediction, pure",
    [(RectifiedFlow(), "flow", lambda x, F: x - F), (ZERO_SNR, "v", lambda x, F: -F)],
    ids=["flow", "zero terminal SNR"],
)
@pytest.mark.parametrize("level", [1e5, 1e7, 1e9])
def test_pure_noise_of_a_process_whose_alpha_ends_in_0(process, prediction, pure, level):
    """D at alpha = 0 in the process's own frame, where x is the noise: x - F of a flow, -F of v."""
    D = denoiser(network, {}, prediction=prediction, process=process)
    y = jnp.asarray(Z * np.float32(level))
    wanted = pure(Z, 0.3 * Z + 0.1)
    np.testing.assert_allclose(D(y, np.float32(level)), wanted, atol=3e-5 + 3 / level)


@pytest.mark.parametrize("process", [VP(), RectifiedFlow(), ZERO_SNR], ids=["VP", "flow", "zero"])
@pytest.mark.parametrize("level", [1e-7, 1e-4, 0.3, 0.999999, 1.000001, 30.0])
def test_single_precision_agrees_with_double(process, level):
    """D - y of a network of noise has the digits of the level at both ends."""
    D = denoiser(network, {}, prediction="eps", process=process)
    change = []
    for dtype in (np.float32, np.float64):
        y = Z.astype(dtype)
        change.append(np.asarray(D(jnp.asarray(y), dtype(level))) - y)
    rounding = 3e-7 * 2 * max(1, level)
    np.testing.assert_allclose(change[0], change[1], rtol=2e-4, atol=rounding)
