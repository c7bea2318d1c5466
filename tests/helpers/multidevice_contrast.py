"""Train CRD for a step on one and on eight simulated devices; print how far its memories are apart.

Run by tests/classify/test_methods.py in its own process.
"""

import json

import jax
import numpy as np

from jaxdiff import classify
from jaxdiff.networks import ImageClassifier, ResNetCIFAR
from jaxdiff.training import fit

LABELS = np.arange(24, dtype=np.int32) % 3
NETWORK = ImageClassifier(ResNetCIFAR(1, (4, 4), 3), (8, 8, 1))


def data(step):
    rng = np.random.default_rng(step)
    index = rng.permutation(24)[:16].astype(np.int32)
    image = rng.standard_normal((16, 8, 8, 1)).astype(np.float32)
    return {"image": image, "label": LABELS[index], "index": index}


def memory(**options):
    teacher = classify.Trained(NETWORK, NETWORK.init(jax.random.key(1)))
    method = classify.contrastive_distillation(
        teacher, NETWORK, LABELS, size=4, negatives=6, recipe=classify.Recipe(num_updates=10)
    )
    state = fit(method, data, num_updates=1, progress=False, **options)
    return state.network_state["student"]["beside"]["memory"]


def main():
    assert jax.device_count() == 8
    one = memory(devices=jax.devices()[:1])
    found = {}
    for way in ("jit", "pmap"):
        several = memory(parallel=way)
        pairs = [(one.student, several.student), (one.teacher, several.teacher)]
        found[way] = max(float(np.max(np.abs(np.asarray(a) - np.asarray(b)))) for a, b in pairs)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
