"""Exported samplers, from outside, and that nothing read runs: the requirements on readers,
fuzz_readers says.
"""

import contextlib
import io
import json
import os
import pickle
import re
import shutil
import textwrap
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.fuzz_readers import (
    REFUSED,
    TWO,
    answer,
    changes,
    damages,
    depth,
    forall,
    text_of,
    write_zip,
)
from hypothesis import strategies as st
from PIL import Image

from jaxdiff import grids, solvers
from jaxdiff.data import load
from jaxdiff.denoisers import denoiser
from jaxdiff.sampling import export
from jaxdiff.sampling.export import export_sampler, load_sampler
from jaxdiff.sampling.sampler import Sampler
from jaxdiff.sampling.trace import table
from jaxdiff.training import checkpoint

# Nothing runs


class Trap:
    """An object that makes a folder when it is unpickled."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.makedirs, (str(self.marker),)


def trapped(marker, kind):
    """A member that would run something, if anyone unpickled it."""
    stream = io.BytesIO()
    if kind == "array":
        np.save(stream, np.array([Trap(marker)]), allow_pickle=True)
    elif kind == "scalar":
        np.save(stream, np.array(Trap(marker), object), allow_pickle=True)
    elif kind == "field":
        record = np.array([(1.0, Trap(marker))], [("a", "f8"), ("b", "O")])
        np.save(stream, record, allow_pickle=True)
    else:
        pickle.dump(Trap(marker), stream)
    return stream.getvalue()


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A small exported sampler."""
    path = tmp_path_factory.mktemp("exported") / "sampler.npz"
    with jax.enable_x64(False):
        export_sampler(path, small_sampler(np.float32), (2,), platforms=["cpu"])
    return path


def small_sampler(dtype):
    params = {"in": np.full((3, 2), 0.1, dtype), "out": np.full((2, 2), 0.2, dtype)}

    def network(params, x, label, cond=None):
        stated, params = jnp.concatenate([x, label[:, None]], axis=1), jax.tree.map(_float, params)
        return jnp.tanh(stated @ params["in"]) @ params["out"]

    return Sampler(denoiser(network, params), table(solvers.euler, grids.karras(1)))


def _float(x):
    return x.astype(jnp.float32)


def loaded_by_hand(path):
    """The lines that the module documents, as far as reading goes."""
    code = textwrap.dedent(re.search(r"anywhere::\n\n(.*?)\n\nAn older", export.__doc__, re.S)[1])
    lines = code.replace('"sampler.npz"', repr(str(path))).split("index = ")[0]
    known = {}
    try:
        exec(lines, known)
    except ValueError as error:  # NumPy's own, which does not know the file's name
        raise ValueError(f"{path}: {error}") from error
    finally:
        known["file"].close()


@pytest.mark.parametrize("kind", ["array", "scalar", "field", "bare"])
def test_nothing_is_unpickled(tmp_path, exported, kind):
    """A trap in place of every member of every kind of npz, and of the whole file."""
    marker = tmp_path / "marker"
    trap = trapped(marker, kind)
    np.savez(tmp_path / "images.npz", images=TWO, labels=np.array([1, 0]))
    checkpoint.save_params(tmp_path / "params.npz", {"w": jnp.ones(3)})
    shutil.copy(exported, tmp_path / "sampler.npz")
    readers = {"images": [load], "params": [checkpoint.load_params]}
    readers["sampler"] = [load_sampler] + [loaded_by_hand] * (kind != "bare")
    tried = 0
    for name, own in readers.items():
        path = tmp_path / f"{name}.npz"
        with zipfile.ZipFile(path) as archive:
            members = {n: archive.read(n) for n in archive.namelist()}
        for at in members:
            changed = [(n, trap if n == at else content) for n, content in members.items()]
            write_zip(tmp_path / "trap.npz", changed)
            for reader in own:
                if reader is loaded_by_hand and at == "metadata.npy":
                    continue  # these lines do not read it
                assert answer(reader, tmp_path / "trap.npz") is REFUSED
                tried += 1
        (tmp_path / "trap.npz").write_bytes(trap)
        assert answer(own[0], tmp_path / "trap.npz") is REFUSED
    assert tried > 8 and not marker.exists()
    with contextlib.suppress(Exception):  # what it would have done
        np.load(io.BytesIO(trap), allow_pickle=True)
    assert marker.exists()


def test_pictures_that_are_programs_are_not_run(tmp_path, monkeypatch):
    """PIL reads EPS by starting Ghostscript; here a program of that name leaves a mark."""
    marker, programs = tmp_path / "marker", tmp_path / "programs"
    programs.mkdir()
    (programs / "gs").write_text(f"#!/bin/sh\ntouch {marker}\n")
    (programs / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    (tmp_path / "images").mkdir()
    path = tmp_path / "images" / "a.png"
    lines = ["%!PS-Adobe-3.0 EPSF-3.0", "%%BoundingBox: 0 0 4 4", "%%EndComments", "showpage"]
    path.write_text("\n".join([*lines, "%%EOF\n"]))
    with pytest.raises(ValueError, match=r"cannot read a.png"):
        load(path.parent)
    assert not marker.exists()
    with contextlib.suppress(Exception), Image.open(path) as image:  # what it would have done
        image.load()
    assert marker.exists()


def test_programs_that_call_python_are_refused(tmp_path):
    """jax exports none with a call back into Python unless requested, and that is refused."""
    target = "xla_ffi_python_cpu_callback"
    call = jax.ffi.ffi_call(target, jax.ShapeDtypeStruct((2,), jnp.float32))
    allowed = [jax.export.DisabledSafetyCheck.custom_call(target)]
    shapes = [jax.ShapeDtypeStruct((), jnp.uint32), jax.ShapeDtypeStruct((2,), jnp.int32)]
    run = jax.jit(lambda weights, seed, index: call(index))
    program = jax.export.export(run, platforms=["cpu"], disabled_checks=allowed)([], *shapes)
    code, metadata = np.frombuffer(program.serialize(), np.uint8), {"classes": 0, "shape": []}
    np.savez(tmp_path / "s.npz", program=code, metadata=np.str_(json.dumps(metadata)))
    with pytest.raises(ValueError, match=rf"s.npz.*calls {target}"):
        load_sampler(tmp_path / "s.npz")


# Exported samplers


def test_parameters_of_a_dtype_that_npz_does_not_know_come_back(tmp_path):
    with jax.enable_x64(False):
        made = small_sampler(jnp.bfloat16)
        export_sampler(tmp_path / "s.npz", made, (2,), platforms=["cpu"])
        images = load_sampler(tmp_path / "s.npz").run(3, 2)
        np.testing.assert_allclose(images, made(jax.random.key(3), 2, (2,)), rtol=1e-5)


@depth(40, 120)
def test_a_damaged_sampler_is_right_or_refused(tmp_path, exported, count):
    path, good = tmp_path / "sampler.npz", exported.read_bytes()
    known = load_sampler(exported).metadata

    @forall(count, damages(good))
    def _(data):
        path.write_bytes(data)
        with jax.enable_x64(False):
            made = answer(load_sampler, path)
        assert made is REFUSED or made.metadata == known


@depth(20, 60)
def test_what_a_sampler_says_of_itself_is_checked(tmp_path, exported, count):
    """Changed text and other parameters under right checksums."""
    with np.load(exported) as file:
        arrays_of = {name: file[name] for name in file.files}
    metadata = json.loads(str(arrays_of["metadata"]))
    weights = st.one_of(
        st.just(arrays_of["1"].T[:1]), st.just(arrays_of["1"].astype("<U4")),
        st.just(np.zeros((0, 2), np.float32)), st.just(None),
    )  # fmt: skip

    @forall(count, changes(metadata).map(text_of), st.none() | weights.map(lambda w: (w,)))
    def _(text, weight):
        given = (
            arrays_of | {"metadata": np.str_(text)} | ({} if weight is None else {"1": weight[0]})
        )
        np.savez(tmp_path / "s.npz", **{k: v for k, v in given.items() if v is not None})
        made = answer(load_sampler, tmp_path / "s.npz")
        if made is not REFUSED:
            assert weight is None and json.dumps(made.metadata) == json.dumps(json.loads(text))
            assert (made.metadata["classes"], made.metadata["shape"]) == (0, [2])
