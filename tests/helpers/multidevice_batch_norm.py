"""Train a classifier with batch norm on one and on eight simulated devices; print the differences.

Run by test_network_state.py in its own process, which also takes the method from here.
"""

import json
import tempfile

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxdiff.method import Method, Player, WithState
from jaxdiff.training import fit

STEPS, MOMENTUM = 3, 0.9
WIDTH = 128  # of which fsdp splits the kernel
SHAPE, CLASSES = (8, 8, 1), 3
PATTERNS = np.random.default_rng(7).standard_normal((CLASSES, *SHAPE))


class CNN(nn.Module):
    """Batch norm comes first, so that its statistics are those of the images."""

    @nn.compact
    def __call__(self, x, train=False, axis_name=None):
        norm = lambda: nn.BatchNorm(not train, momentum=MOMENTUM, axis_name=axis_name)  # noqa: E731
        h = nn.Conv(WIDTH, (3, 3), 2, use_bias=False)(norm()(x))
        return nn.Dense(CLASSES)(jnp.mean(nn.relu(norm()(h)), axis=(1, 2)))


def data(step):
    """Noisy patterns, every image with an offset of its own, so that parts of a batch differ."""
    rng = np.random.default_rng(step)
    label = rng.integers(0, CLASSES, 32)
    image = PATTERNS[label] + rng.standard_normal((32, *SHAPE)) + 2 * rng.random((32, 1, 1, 1))
    return {"image": image.astype(np.float32), "label": label.astype(np.int32)}


def classifier(synchronised=True):
    """Cross-entropy; ``method.sampler(state)`` gives logits by the running averages."""
    module = CNN()

    def init(key):
        variables = module.init(key, jnp.zeros((1, *SHAPE), jnp.float32))
        return {"net": WithState(variables["params"], {"batch_stats": variables["batch_stats"]})}

    def loss(params, context, batch, key):
        name = context.axis_name if synchronised else None
        variables = {"params": params, **context.network_state["net"]}
        logits, after = module.apply(variables, batch["image"], True, name, mutable=["batch_stats"])
        with jax.numpy_dtype_promotion("standard"):
            each = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])
        right = jnp.argmax(logits, axis=1).astype(jnp.int32) == batch["label"]
        return jnp.mean(each), WithState({"right": jnp.mean(right)}, after)

    def sampler(state):
        variables = {"params": state.params["net"], **state.network_state["net"]}
        return lambda image: module.apply(variables, image)

    return Method(init, {"net": Player(loss, optax.sgd(0.1, momentum=0.9))}, sampler)


def train(steps=STEPS, synchronised=True, **options):
    return fit(classifier(synchronised), data, num_updates=steps, progress=False, **options)


def difference(a, b):
    """The largest of parameters, optimiser states and batch statistics."""
    trees = [(s.params, s.opt_state, s.network_state) for s in (a, b)]
    pairs = zip(*map(jax.tree.leaves, trees), strict=True)
    return max(float(np.max(np.abs(np.asarray(x) - np.asarray(y)))) for x, y in pairs)


def averaged_variance(state):
    """How far the running variance of the images is from the mean of the eight parts' own."""
    image = data(0)["image"].astype(float)
    own = MOMENTUM + (1 - MOMENTUM) * np.mean([np.var(part) for part in np.split(image, 8)])
    whole = MOMENTUM + (1 - MOMENTUM) * np.var(image)
    found = float(state.network_state["net"]["batch_stats"]["BatchNorm_0"]["var"][0])
    assert abs(own - whole) > 0.001
    return abs(found - own)


def main():
    assert jax.device_count() == 8
    one = train(devices=jax.devices()[:1])
    out = {way: difference(one, train(parallel=way)) for way in ("jit", "fsdp", "pmap")}
    out["mean of the devices' parts"] = averaged_variance(train(1, False, parallel="pmap"))
    with tempfile.TemporaryDirectory() as folder:
        train(2, checkpoint=folder, parallel="fsdp")
        resumed = train(checkpoint=folder, parallel="pmap")
        out["resumed under pmap"] = difference(one, resumed)
    print(json.dumps(out))


if __name__ == "__main__":
    main()
