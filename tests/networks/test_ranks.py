"""U-Nets of signals and volumes."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.networks.conv import Conv
from jaxdiff.networks.unet import UNet, doubled


@pytest.mark.parametrize("axes", [1, 3])
def test_convolutions_of_any_rank_are_those_of_flax(axes):
    x = jax.random.normal(jax.random.key(0), (2, *(6, 4, 4)[:axes], 3), jnp.float32)
    own = Conv(5, size=(3,) * axes, stride=2)
    params = own.init(jax.random.key(1), x)
    there = nn.Conv(5, (3,) * axes, strides=2)
    np.testing.assert_allclose(own.apply(params, x), there.apply(params, x), atol=1e-5)


def test_numbers_aredoubled_along_every_axis():
    x = jnp.arange(8.0).reshape(1, 2, 2, 2, 1)
    expected = np.asarray(x)
    for axis in (1, 2, 3):
        expected = np.repeat(expected, 2, axis=axis)
    np.testing.assert_array_equal(doubled(x), expected)
    np.testing.assert_array_equal(doubled(x[:, 0, 0])[0, :, 0], [0, 0, 1, 1])


@pytest.mark.slow
def test_a_signal_is_an_image_that_is_constant_along_its_width():
    """Of a U-Net without padding effects: with kernels that are zero off the middle column, the
    image's columns each are the signal.
    """
    small = {"channels": 4, "multipliers": (1, 2), "attention": (4,), "embedding": 8, "heads": 2}
    module = UNet(**small)
    signal = jax.random.normal(jax.random.key(0), (2, 8, 3))
    label = jnp.array([0.1, -0.3])
    params = module.init(jax.random.key(1), signal, label)
    drawn = jax.tree.map(lambda p: jax.random.normal(jax.random.key(2), p.shape) * 0.3, params)

    def widened(path, p):
        if path[-1].key == "kernel" and p.ndim == 3:
            return jnp.zeros((3, 3, *p.shape[1:])).at[:, 1].set(p)
        return p

    wide = jax.tree_util.tree_map_with_path(widened, drawn)
    image = jnp.repeat(signal[:, :, None], 8, axis=2)
    made, there = module.apply(wide, image, label), module.apply(drawn, signal, label)
    # with stride 2 the middle column of SAME's window is the second of two: all columns are alike
    np.testing.assert_allclose(made[:, :, 3], there, rtol=1e-3, atol=1e-4)
    assert module.apply(params, signal, label).shape == signal.shape


def test_axes_that_cannot_be_halved_are_refused():
    module = UNet(multipliers=(1, 2, 2))
    with pytest.raises(ValueError, match="levels need a height and a width divisible by 4; got 6"):
        module.init(jax.random.key(0), jnp.zeros((1, 6, 1)), jnp.zeros(1))
    with pytest.raises(ValueError, match="or with one or three axes"):
        module.init(jax.random.key(0), jnp.zeros((1, 6)), jnp.zeros(1))
