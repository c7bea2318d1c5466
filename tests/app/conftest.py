"""What the tests of commands share."""

import jax
import pytest


@pytest.fixture(scope="module")
def as_users():
    """Commands run as they do for users: float32, JAX's own promotion of types and ranks."""
    with (
        jax.enable_x64(False),
        jax.numpy_dtype_promotion("standard"),
        jax.numpy_rank_promotion("allow"),
    ):
        yield
