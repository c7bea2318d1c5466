"""Train one method, or tune a sampler, on one and on eight simulated devices; print the largest
differences.

Run by test_training.py in its own process: the number of devices is fixed when jax starts.
"""

import json
import sys
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
import optax

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

from jaxdiff import grids, solvers, tuning  # noqa: E402
from jaxdiff.exact import Gaussian  # noqa: E402
from jaxdiff.method import Method, Player  # noqa: E402
from jaxdiff.training import devices, ema, fit  # noqa: E402

STEPS = 4


def network(params, x, s):
    h = jnp.concatenate([x, jnp.log(s)[:, None]], axis=1)
    return jnp.tanh(h @ params["in"]) @ params["out"]


def data(step):
    rng = np.random.default_rng(step)
    x, eps = rng.standard_normal((2, 32, 2))
    return {"x": x, "eps": eps, "s": rng.uniform(0.1, 1.0, 32)}


def denoise(params, context, batch, key):
    """Denoising regression, weighted by a frozen tree; its noise comes with the batch."""
    noisy = batch["x"] + batch["s"][:, None] * batch["eps"]
    error = noisy + network(params, noisy, batch["s"]) - batch["x"]
    return jnp.mean(error**2 * context.frozen["weight"][None, :]), {"size": jnp.mean(error)}


def draw(params, context, batch, key):
    """The same with noise from the key."""
    eps = jax.random.normal(key, batch["x"].shape)
    return denoise(params, context, {**batch, "eps": eps}, key)


def method(loss):
    # sgd with momentum: Adam divides by gradients that are zero up to rounding
    optimiser = optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.1, momentum=0.9))

    def start(key):
        rng = np.random.default_rng(0)
        return {"net": {"in": rng.standard_normal((3, 512)), "out": rng.standard_normal((512, 2))}}

    player = Player(loss, optimiser, ema={"power": ema.power(1.0)})
    return Method(start, {"net": player}, lambda state: None, {"weight": jnp.array([1.0, 2.0])})


def train(loss, steps=STEPS, **kwargs):
    return fit(method(loss), data, num_updates=steps, progress=False, **kwargs)


def tune(**kwargs):
    """Tune levels and weights of a sampler; the loss is a mean over the batch's pairs."""
    model = Gaussian(np.array([0.3, -0.2]), np.array([0.5, 0.1]))
    family = tuning.of_weights(tuning.of_grid(solvers.euler, grids.karras(2, 0.1)))
    optimiser = optax.sgd(0.1, momentum=0.9)
    ball = tuning.Ball(count=16, batch=16, radius=1e-3, rate=1e-3)
    made = tuning.tuning(
        model.denoiser, family, tuning.end_point(), optimiser=optimiser, ball=ball, shape=(2,)
    )

    def pairs(step):
        start = 80.0 * np.random.default_rng(step).standard_normal((16, 2))
        image = np.asarray(model.flow(jnp.asarray(start), 80.0, 0.0))
        return {"start": start, "image": image, "index": np.arange(16, dtype=np.int32)}

    return fit(made, pairs, num_updates=2, progress=False, **kwargs)


def difference(a, b):
    """Largest absolute difference of parameters, optimiser states and averages."""
    pairs = zip(jax.tree.leaves(a[1:4]), jax.tree.leaves(b[1:4]), strict=True)
    return max(float(np.max(np.abs(np.asarray(x) - np.asarray(y)))) for x, y in pairs)


def split_share(state):
    """The fraction of the state that one device holds."""
    leaves = jax.tree.leaves(state[1:4])
    return sum(x.addressable_shards[0].data.size for x in leaves) / sum(x.size for x in leaves)


def tuned():
    one = tune(devices=jax.devices()[:1])
    return {way: difference(one, tune(parallel=way)) for way in ("jit", "fsdp", "pmap")}


def trained():
    one = train(denoise, devices=jax.devices()[:1])
    sharded = train(denoise, parallel="fsdp")
    assert split_share(sharded) < 0.5 < split_share(one) == 1, split_share(sharded)
    out = {
        "jit": difference(one, train(denoise)),
        "fsdp": difference(one, sharded),
        "pmap": difference(one, train(denoise, parallel="pmap")),
        "jit from the key": difference(train(draw, devices=jax.devices()[:1]), train(draw)),
    }
    with tempfile.TemporaryDirectory() as folder:
        train(denoise, 2, checkpoint=folder)
        resumed = train(denoise, checkpoint=folder, parallel="pmap")
        out["resumed under pmap"] = difference(one, resumed)
    mesh = devices.mesh(model=2)
    assert mesh.shape == {"data": 4, "model": 2}
    try:
        fit(method(denoise), lambda step: {"x": np.ones((12, 2))}, num_updates=1, progress=False)
    except ValueError as error:
        assert "must divide over 8 devices" in str(error)
    else:
        raise AssertionError("a batch that does not divide was accepted")
    return out


assert jax.device_count() == 8
print(json.dumps({"trained": trained, "tuned": tuned}[sys.argv[1]]()))
