"""Safetensors files and indexes of shards that are damaged, or made to do harm, are refused at
once, by the file's name.
"""

import json
import os
import struct
import time

import numpy as np
import pytest
from helpers.fuzz_readers import answer, changes, damages, depth, forall, memory_below, text_of
from hypothesis import strategies as st
from safetensors.numpy import save

from jaxdiff.files import read_json
from jaxdiff.pretrained import load_pretrained
from jaxdiff.pretrained.tensors import open_tensors

SECOND = 1.0  # of this process's own time
TWO = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(2, np.float16)}
WHOLE = save(TWO, {"from": "here"})


def written(path, header, data=b"\0" * 28):
    text = header if isinstance(header, bytes) else text_of(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def refused(path):
    began = time.process_time()
    with pytest.raises((ValueError, OSError)) as caught, memory_below(1 << 26):
        open_tensors(path)
    assert time.process_time() - began < SECOND
    assert path.name in str(caught.value) and len(str(caught.value)) < 1000
    return str(caught.value)


def test_files_are_read(tmp_path):
    path = tmp_path / "whole.safetensors"
    path.write_bytes(WHOLE)
    tensors = open_tensors(path)
    assert tensors.metadata == {"from": "here"}
    for name, value in TWO.items():
        np.testing.assert_array_equal(tensors[name], value)
        assert tensors.dtypes[name] == value.dtype and tensors.shapes[name] == value.shape
    path.write_bytes(WHOLE[:-20])
    with pytest.raises(ValueError, match=r"whole\.safetensors is cut off"):
        tensors["a"], tensors["b"]


def entry(kind="F32", shape=(7,), ends=(0, 28)):
    return {"dtype": kind, "shape": list(shape), "data_offsets": list(ends)}


HEADERS = {
    "unknown dtype": ({"w": entry("F4")}, "'F4', which is not read; those that are: BOOL"),
    "newer dtype": ({"w": entry("F8_E8M0")}, "'F8_E8M0'"),
    "no dtype": ({"w": entry(None)}, "None"),
    "negative": ({"w": entry(shape=(-7,))}, "shape or offsets"),
    "two negative": ({"w": entry(shape=(-7, -1))}, "shape or offsets"),
    "huge": ({"w": entry(shape=(1 << 47, 1 << 47, 0))}, "other ends"),
    "huge integer": ({"w": entry(shape=(10**300,))}, "shape or offsets"),
    "float": ({"w": entry(shape=(7.0,))}, "shape or offsets"),
    "truth": ({"w": entry(shape=(True, 7))}, "shape or offsets"),
    "many axes": ({"w": entry(shape=(1,) * 10**5)}, "shape or offsets"),
    "too large": ({"w": entry(shape=(8,), ends=(0, 32))}, "end at byte"),
    "too small": ({"w": entry(shape=(6,), ends=(0, 24))}, "end at byte"),
    "wrong size": ({"w": entry(shape=(6,))}, "claims 24 bytes"),
    "backwards": ({"w": entry(ends=(28, 0))}, "claims 28 bytes"),
    "overlap": ({"v": entry(), "w": entry()}, "begins at 0, where 28"),
    "gap": ({"v": entry(shape=(3,), ends=(0, 12)), "w": entry(shape=(3,), ends=(16, 28))}, "16"),
    "more entries": ({"w": {**entry(), "x": 1}}, "other entries"),
    "no entries": ({"w": {}}, "other entries"),
    "list": ([1], "not a dictionary"),
    "metadata": ({"__metadata__": {"a": 1}, "w": entry()}, "metadata are not texts"),
    "twice": (b'{"w": 1, "w": 2}', "'w' twice"),
    "deep": (b"[" * 10**5, "cannot be read"),
    "no JSON": (b"\xff\xfe", "cannot be read"),
}


@pytest.mark.parametrize("name", HEADERS)
def test_headers_say_what_there_is(tmp_path, name):
    header, message = HEADERS[name]
    assert message in refused(written(tmp_path / "evil.safetensors", header))


@pytest.mark.parametrize("length", [-1, 1 << 62, 10**8 + 1, len(WHOLE) - 7])
def test_headers_longer_than_the_file(tmp_path, length):
    path = tmp_path / "evil.safetensors"
    path.write_bytes(struct.pack("<q", length) + WHOLE[8:])
    assert "a header of" in refused(path)


def test_files_cut_short_anywhere(tmp_path):
    path = tmp_path / "cut.safetensors"
    for end in range(len(WHOLE)):
        path.write_bytes(WHOLE[:end])
        with pytest.raises(ValueError, match=r"cut\.safetensors"):
            open_tensors(path)


@depth(15, 3000)
def test_fuzzed_files(tmp_path, count):
    path = tmp_path / "fuzzed.safetensors"
    header = json.loads(WHOLE[8 : 8 + int.from_bytes(WHOLE[:8], "little")])

    @forall(count, damages(WHOLE) | changes(header))
    def check(made):
        path.write_bytes(made) if isinstance(made, bytes) else written(path, made)
        tensors = answer(open_tensors, path)
        if type(tensors) is not object:
            assert all(tensors[n].shape == tensors.shapes[n] for n in tensors)


@pytest.fixture
def shards(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    for name, value in TWO.items():
        (folder / f"{name}.safetensors").write_bytes(save({name: value}))

    def index(places):
        path = folder / "model.safetensors.index.json"
        path.write_text(places if isinstance(places, str) else json.dumps({"weight_map": places}))
        return path

    return index


@pytest.mark.parametrize("name", ["a.safetensors", "a.pt", "a.npz", "a.msgpack", "a.json"])
def test_pipes_are_not_waited_for(tmp_path, name):
    os.mkfifo(tmp_path / name)
    read = read_json if name == "a.json" else load_pretrained
    with pytest.raises(ValueError, match=f"{name} is a pipe, a socket or a device"):
        read(tmp_path / name)


def test_shards_lie_beside_their_index(shards, tmp_path):
    good = {"a": "a.safetensors", "b": "b.safetensors"}
    assert sorted(open_tensors(shards(good))) == ["a", "b"]
    (tmp_path / "out.safetensors").write_bytes(save({"a": TWO["a"]}))
    outside = ["../out.safetensors", str(tmp_path / "out.safetensors"), "", ".", ".."]
    for place in [*outside, "a\0.safetensors", 1, None, ["a.safetensors"]]:
        refused(shards({"a": place}))
    os.symlink(tmp_path / "out.safetensors", tmp_path / "model" / "link.safetensors")
    assert "link" in refused(shards({"a": "link.safetensors"}))
    assert "lacks 'c'" in str(
        pytest.raises(ValueError, open_tensors, shards({"c": good["a"]})).value
    )
    with pytest.raises(OSError, match="missing.safetensors"):
        open_tensors(shards({"a": "missing.safetensors"}))
    itself = shards({"a": "model.safetensors.index.json"})
    assert "index of another" in refused(itself)
    for text in ("[]", '{"weight_map": 1}', "{", "[" * 10**5):
        refused(shards(text))
    twice = shards('{"weight_map": {"a": "a.safetensors", "a": "b.safetensors"}}')
    with pytest.raises(ValueError, match="b.safetensors lacks 'a'"):
        open_tensors(twice)


@depth(30, 1000)
def test_fuzzed_indexes(shards, count):
    good = {"weight_map": {"a": "a.safetensors", "b": "b.safetensors"}, "metadata": {"size": 3}}

    @forall(count, changes(good) | st.text())
    def check(made):
        path = shards(made if isinstance(made, str) else text_of(made))
        began = time.process_time()
        try:
            open_tensors(path)
        except (ValueError, OSError) as error:
            assert str(path.parent) in str(error)
        assert time.process_time() - began < SECOND


CONFIG = {
    "_class_name": "UNet2DModel", "sample_size": 8, "block_out_channels": [32],
    "down_block_types": ["DownBlock2D"], "up_block_types": ["UpBlock2D"], "layers_per_block": 1,
}  # fmt: skip
FIELDS = [
    ("layers_per_block", 10**5), ("layers_per_block", -1), ("layers_per_block", "2"),
    ("block_out_channels", [10**9]), ("block_out_channels", {}), ("norm_eps", "x"),
    ("in_channels", -3), ("in_channels", "x"), ("_class_name", ["x"]),
]  # fmt: skip


@pytest.mark.parametrize("field, value", FIELDS)
def test_configurations_make_sense(tmp_path, field, value):
    """Before anything is made of it, a configuration's fields are compared with what they mean."""
    (tmp_path / "diffusion_pytorch_model.safetensors").write_bytes(WHOLE)
    for said in ({**CONFIG, field: value}, [field, value]):
        (tmp_path / "config.json").write_text(json.dumps(said))
        began = time.process_time()
        with pytest.raises(ValueError, match=tmp_path.name):
            load_pretrained(tmp_path)
        assert time.process_time() - began < SECOND
