"""The code of experiments/cluster/README.md, run as it stands there."""

import pathlib
import re

import jax
import numpy as np
import optax
import pytest

import jaxdiff as jd
from jaxdiff.method import Method, Player

PAGE = (pathlib.Path(__file__).parents[2] / "experiments" / "cluster" / "README.md").read_text()
PLACING, REPLAY = re.findall(r"```python\n(.*?)```", PAGE, re.S)
MODEL = jd.exact.Gaussian


def method(broken=False):
    """A number is learned; the sampler is that of a model known in closed form."""

    def loss(params, context, batch, key):
        slope = jax.numpy.where((context.step == 3) & broken, jax.numpy.nan, 1.0)
        return jax.numpy.mean((params["a"] * slope - batch["x"]) ** 2), {}

    def sampler(state):
        D = MODEL(np.zeros(2), np.ones(2)).denoiser
        return jd.Sampler(D, jd.table(jd.solvers.heun, jd.grids.karras(4)))

    player = Player(loss, optax.adam(0.1))
    return Method(lambda key: {"net": {"a": jax.numpy.zeros(())}}, {"net": player}, sampler)


def test_the_page(tmp_path):
    data = lambda step: {"x": np.ones(8)}  # noqa: E731
    known = {"method": method(), "data": data}
    exec(PLACING, known)
    assert known["x"].shape == (10, 2) and np.isfinite(known["x"]).all()
    with pytest.raises(FloatingPointError):
        jd.fit(method(broken=True), data, num_updates=5, checkpoint=tmp_path, progress=False)
    with pytest.raises(FloatingPointError, match="invalid value"):
        exec(REPLAY, {"method": method(broken=True), "folder": tmp_path, "jax": jax, "jd": jd})
