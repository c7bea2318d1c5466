"""A classifier in a file: read back as it was, students of SimKD whole, and what is refused."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import classify
from jaxdiff.classify.reused_classifier import tail_of
from jaxdiff.networks import ImageClassifier, ResNetCIFAR
from jaxdiff.networks.reused import Reused
from jaxdiff.pretrained.saving import write_tensors

SHAPE = (8, 8, 1)


def trained(module):
    """A classifier with variables of which no two are alike."""
    network = ImageClassifier(module, SHAPE)
    shapes, rng = jax.eval_shape(network.init, jax.random.key(0)), np.random.default_rng(0)
    drawn = lambda x: jnp.asarray(rng.random(x.shape), x.dtype)  # noqa: E731
    return classify.Trained(network, jax.tree.map(drawn, shapes))


@functools.cache
def teacher():
    return trained(ResNetCIFAR(2, (4, 4, 6), 3))


def student(blocks):
    """A student of SimKD with the teacher's tail."""
    tail, _, sides, channels = tail_of(teacher(), blocks)
    own = ResNetCIFAR(1, (4, 4, 5), 0, dtype=jnp.float32)
    return trained(Reused(own, channels, 2, sides, tail))


@pytest.mark.parametrize("blocks", [0, 1])
def test_a_student_is_read_back_as_it_was(tmp_path, blocks):
    made = student(blocks)
    path = tmp_path / "one.safetensors"
    classify.save_classifier(path, made)
    read = classify.load_classifier(path)
    assert read.network == made.network
    assert jax.tree.structure(read.variables) == jax.tree.structure(made.variables)
    for a, b in zip(*map(jax.tree.leaves, (read.variables, made.variables)), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


def test_what_is_no_file_of_a_classifier_is_refused(tmp_path):
    path = tmp_path / "one.safetensors"
    with pytest.raises(ValueError, match="a file called .safetensors"):
        classify.save_classifier(tmp_path / "one.npz", teacher())
    with pytest.raises(TypeError, match="one Trained classifier, not Ensemble"):
        classify.save_classifier(path, classify.Ensemble((teacher(),)))

    class Own(ResNetCIFAR):
        pass

    with pytest.raises(ValueError, match="a Own is none of the networks"):
        classify.save_classifier(path, trained(Own(1, (4, 4), 3)))
    other = classify.Trained(teacher().network, trained(ResNetCIFAR(1, (4, 4), 3)).variables)
    with pytest.raises(ValueError, match="params/fc/kernel has shape .4, 3., and its network's"):
        classify.save_classifier(path, other)
    assert not list(tmp_path.iterdir())
    with pytest.raises(FileNotFoundError):
        classify.load_classifier(path)
    x = {"params/x": np.zeros(3, np.float32)}
    said = {"format": "jaxdiff classifier", "shape": "[8, 8, 1]"}
    for header, message in (
        ({"format": "pt"}, "is no file of save_classifier"),
        (said | {"network": '{"network": "Foreign"}'}, "names no network .*Foreign"),
        (said | {"network": '{"network": "ResNetCIFAR", "depth": 8}'}, "names no network"),
        (said | {"network": '{"network": "ResNetCIFAR"}'}, "params/.* has shape None, and"),
    ):
        write_tensors(path, x, header)
        with pytest.raises(ValueError, match=f"one.safetensors.*{message}"):
            classify.load_classifier(path)
    classify.save_classifier(path, teacher())
