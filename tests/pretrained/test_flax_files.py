"""Parameters of flax's users: msgpack files and folders of orbax."""

import flax.serialization
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from jaxdiff.networks.adapters import from_linen
from jaxdiff.networks.mlp import MLP
from jaxdiff.networks.parameters import init
from jaxdiff.pretrained.tensors import open_tensors, tree_of
from jaxdiff.training.orbax_folder import load_orbax

TREE = {
    "params": {"a": {"kernel": np.arange(6.0, dtype=np.float32).reshape(2, 3)}, "b": np.ones(2)},
    "step": np.int64(7),
}


def same(a, b):
    assert set(a) == set(b)
    for name in a:
        if isinstance(a[name], dict):
            same(a[name], b[name])
        else:
            np.testing.assert_array_equal(a[name], b[name])


def test_msgpack_comes_back_by_paths(tmp_path):
    tree = {**TREE, "half": np.ones(3, jnp.bfloat16)}
    (tmp_path / "m.msgpack").write_bytes(flax.serialization.to_bytes(tree))
    tensors = open_tensors(tmp_path / "m.msgpack")
    assert tensors.shapes["params/a/kernel"] == (2, 3)
    assert tensors.dtypes["half"] == jnp.bfloat16
    same(tree_of(tensors), tree)


def test_orbax_comes_back(tmp_path):
    with ocp.StandardCheckpointer() as saver:
        saver.save(tmp_path / "one", TREE)
    same(load_orbax(tmp_path / "one"), TREE)


def test_a_network_of_ones_own_samples_by_its_file(tmp_path, rng=np.random.default_rng(0)):
    import jax

    module = MLP(width=8, depth=1, embedding=4)
    params = init(module, jax.random.key(0), (2,))
    (tmp_path / "mine.msgpack").write_bytes(flax.serialization.to_bytes(params))
    read = tree_of(open_tensors(tmp_path / "mine.msgpack"))
    x, label = jnp.asarray(rng.standard_normal((3, 2)), jnp.float32), jnp.zeros(3)
    np.testing.assert_array_equal(
        from_linen(module)(read, x, label, None), from_linen(module)(params, x, label, None)
    )


@pytest.mark.parametrize("data", [b"", b"\xc1", b"\x81\xa1a\xc7", b"\x93\x01\x02\x03"])
def test_what_is_no_file_of_flax_is_refused_by_name(tmp_path, data):
    (tmp_path / "bad.msgpack").write_bytes(data)
    with pytest.raises(ValueError, match=r"bad\.msgpack"):
        open_tensors(tmp_path / "bad.msgpack")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="not a checkpoint of orbax"):
        load_orbax(tmp_path / "empty")
    with pytest.raises(FileNotFoundError):
        load_orbax(tmp_path / "none")
    with pytest.raises(ValueError, match="'a' is both"):
        tree_of({"a": 1, "a/b": 2})
