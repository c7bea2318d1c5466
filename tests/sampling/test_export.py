"""A sampler as one file: the same samples, any number of them, in a process that has only jax."""

import re
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import grids, solvers
from jaxdiff.denoisers import denoiser
from jaxdiff.sampling import export
from jaxdiff.sampling.export import export_sampler, load_sampler
from jaxdiff.sampling.sampler import Sampler
from jaxdiff.sampling.trace import table

PARAMS = {"in": np.full((3, 8), 0.1, np.float32), "out": np.full((8, 2), 0.2, np.float32)}
SHAPE = (2,)


def network(params, x, label, cond=None):
    given = label if cond is None else label + cond.astype(x.dtype)
    h = jnp.concatenate([x, given[:, None]], axis=1)
    return jnp.tanh(h @ params["in"]) @ params["out"]


def sampler(**options):
    solver = solvers.ddim if options else solvers.unipc
    made = table(solver, grids.karras(3), **options)
    return Sampler(denoiser(network, PARAMS), made.with_metadata(model="abc"))


@pytest.fixture(autouse=True)
def usual_precision():
    with jax.enable_x64(False):
        yield


@pytest.mark.parametrize("options", [{}, {"eta": 1.0}], ids=["deterministic", "stochastic"])
def test_a_file_gives_the_same_samples(tmp_path, options):
    path, own = tmp_path / "s.npz", sampler(**options)
    export_sampler(path, own, SHAPE, classes=3, platforms=["cpu"])
    read = load_sampler(path)
    labels = np.array([0, 2, 1, 1], np.int32)
    expected = own(jax.random.key(5), 4, SHAPE, labels)
    np.testing.assert_allclose(read.run(5, 4, labels), expected, atol=1e-6)
    np.testing.assert_allclose(read.run(5, [2], labels[2:3]), expected[2:3], atol=1e-6)
    assert read.metadata["nfe"] == 3 and read.metadata["metadata"] == {"model": "abc"}
    with pytest.raises(ValueError, match="has 3 classes; labels=None"):
        read.run(5, 4)
    with pytest.raises(ValueError, match="0 to 2, or 3 for no class; they are -1 to 2"):
        read.run(5, 4, labels - 1 + (labels == 2))
    with pytest.raises(ValueError, match="index is 4294967296, which int32 does not hold"):
        read.run(5, [2**32], labels[:1])


def test_conditions_are_rounded_to_half_precision_with_a_warning():
    whole, third = np.ones(2), np.full(2, 1 / 3)
    assert export._held("labels", whole, jnp.bfloat16).dtype == jnp.bfloat16
    assert export._held("labels", third, jnp.float32).dtype == jnp.float32
    with pytest.warns(UserWarning, match="labels is rounded from float64 to bfloat16"):
        export._held("labels", third, jnp.bfloat16)


def test_the_documented_lines_need_only_jax(tmp_path):
    export_sampler(tmp_path / "sampler.npz", sampler(), SHAPE, classes=10)
    code = textwrap.dedent(re.search(r"anywhere::\n\n(.*?)\n\nAn older", export.__doc__, re.S)[1])
    code += '\nnp.save("images.npy", images)\nimport sys\nassert "jaxdiff" not in sys.modules\n'
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    labels = np.arange(16, dtype=np.int32) % 10
    expected = sampler()(jax.random.key(0), 16, SHAPE, labels)
    np.testing.assert_allclose(np.load(tmp_path / "images.npy"), expected, atol=1e-6)


@pytest.mark.slow
def test_without_classes(tmp_path):
    export_sampler(tmp_path / "s.npz", sampler(), SHAPE, platforms=["cpu"])
    read = load_sampler(tmp_path / "s.npz")
    np.testing.assert_allclose(read.run(1, 3), sampler()(jax.random.key(1), 3, SHAPE), atol=1e-6)
    with pytest.raises(ValueError, match="has 0 classes"):
        read.run(1, 3, [0, 1, 2])


def test_parameters_are_arguments_and_no_constants(tmp_path):
    """The program's size does not know the network's."""
    sizes = []
    for width in (8, 4096):
        params = {"in": np.ones((3, width), np.float32), "out": np.ones((width, 2), np.float32)}
        own = sampler()._replace(denoiser=denoiser(network, params))
        export_sampler(tmp_path / "s.npz", own, SHAPE, platforms=["cpu"])
        sizes.append(np.load(tmp_path / "s.npz")["program"].size)
    assert abs(sizes[1] - sizes[0]) < 500


def test_what_cannot_be_exported_or_read(tmp_path):
    with pytest.raises(ValueError, match="ends in .npz"):
        export_sampler(tmp_path / "s.bin", sampler(), SHAPE)
    with pytest.raises(ValueError, match="no platform 'gpu'"):
        export_sampler(tmp_path / "s.npz", sampler(), SHAPE, platforms=["gpu"])
    with pytest.raises(FileNotFoundError):
        load_sampler(tmp_path / "none.npz")
    np.savez(tmp_path / "other.npz", x=np.ones(3))
    with pytest.raises(ValueError, match="damaged or not an exported sampler"):
        load_sampler(tmp_path / "other.npz")
    export_sampler(tmp_path / "s.npz", sampler(), SHAPE, platforms=["cpu"])
    whole = (tmp_path / "s.npz").read_bytes()
    (tmp_path / "s.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="damaged"):
        load_sampler(tmp_path / "s.npz")
    assert not list(tmp_path.glob("*.tmp"))
