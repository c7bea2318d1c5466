"""Inception's weights under their published names, made by a rule, and TorchScript archives."""

import zipfile
import zlib

import numpy as np

from jaxdiff.networks.inception import BLOCKS, STEM

SHAPES: dict[str, tuple[int, ...]] = {}  # of pytorch-fid's file, in the order of the layers


def _layer(name, inputs, features, size):
    SHAPES[f"{name}.conv.weight"] = (features, inputs, *size)
    for leaf in ("weight", "bias", "running_mean", "running_var"):
        SHAPES[f"{name}.bn.{leaf}"] = (features,)
    SHAPES[f"{name}.bn.num_batches_tracked"] = ()


def _fill_shapes():
    width = 3
    for layer in STEM:
        if not isinstance(layer, str):
            path, features, size = layer[:3]
            _layer(f"Conv2d_{path[-2:]}_{size[0]}x{size[1]}", width, features, size)
            width = features
    for path, (branches, pool, *pooled) in BLOCKS.items():
        total, block = 0, path.capitalize()
        for branch in branches:
            inputs = width
            for layer in branch:
                ends = layer if isinstance(layer[0], tuple) else (layer,)
                for name, features, size, *_ in ends:
                    published = name.replace("double_3x3", "3x3dbl").replace("double_7x7", "7x7dbl")
                    _layer(f"{block}.branch{published}", inputs, features, size)
                inputs = ends[0][1]
            total += sum(e[1] for e in ends)
        if pool == "halved":
            total += width
        else:
            _layer(f"{block}.branch_pool", width, pooled[0], (1, 1))
            total += pooled[0]
        width = total
    SHAPES.update({"fc.weight": (1008, width), "fc.bias": (1008,)})


_fill_shapes()


def tensor(name, shape):
    """The tensor that the golden numbers were computed with."""
    if name.endswith("num_batches_tracked"):
        return np.zeros(shape, np.int64)
    g = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape)
    if name == "fc.weight":
        g /= 2048**0.5
    elif name.endswith("conv.weight"):
        g *= np.sqrt(2 / np.prod(shape[1:]))
    elif name.endswith("bn.weight"):
        g = 1 + 0.1 * g
    elif name.endswith("running_var"):
        g = np.exp(0.2 * g)
    else:
        g *= 0.1
    return g.astype(np.float32)


def scripted(path, attributes):
    """Write a TorchScript archive of a module with these attributes: arrays, dictionaries (modules)
    and truth values. Its pickle is what torch.jit.save of PyTorch 2 writes, without the memo.
    """
    storages = []

    def text(value):
        return b"X" + len(value.encode()).to_bytes(4, "little") + value.encode()

    def integer(value):
        return b"J" + int(value).to_bytes(4, "little")

    def numbers(values):
        return b"(" + b"".join(map(integer, values)) + b"t"

    def one(value):
        if isinstance(value, dict):
            inner = b"".join(text(k) + one(v) for k, v in value.items())
            return b"c__torch__.torch.nn.modules.container\nSequential\n)\x81}(" + inner + b"ub"
        if isinstance(value, bool):
            return b"\x88" if value else b"\x89"
        storages.append(value)
        strides = [s // value.itemsize for s in value.strides]
        storage = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text(f"{len(storages) - 1}")
        storage += text("cpu") + integer(value.size) + b"tQ"
        rest = integer(0) + numbers(value.shape) + numbers(strides) + b"\x89"
        rest += b"ccollections\nOrderedDict\n)R"
        return b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + rest + b"tR"

    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(
            "net/data.pkl", b"\x80\x02" + one({"training": False, **attributes}) + b"."
        )
        archive.writestr("net/code/__torch__.py", b"raise SystemExit('never run')")
        archive.writestr("net/byteorder", b"little")
        for i, value in enumerate(storages):
            archive.writestr(f"net/data/{i}", np.ascontiguousarray(value).tobytes())
