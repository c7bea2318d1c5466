"""The numbered modules of score_sde's networks under EDM's names, level by level."""

import re
from typing import Any

import numpy as np

from jaxdiff.pretrained.tensors import Tensors

BLOCK = {"GroupNorm_0": "norm0", "Conv_0": "conv0", "Dense_0": "affine", "GroupNorm_1": "norm1",
         "Conv_1": "conv1", "Conv_2": "skip"}  # fmt: skip


class Walk:
    """The modules in their order, each of a kind: linear, conv, norm, block, resample, attention,
    image (what brings the image, halved, to the maps), other.
    """

    def __init__(self, tensors: Tensors, path: str) -> None:
        """Take tensors named ``all_modules.N...``."""
        self.tensors, self.path, self.made = tensors, path, dict[str, Any]()
        self.parts: dict[int, set[str]] = {}
        for name in tensors:
            if match := re.fullmatch(r"all_modules\.(\d+)\.(.+)", name):
                self.parts.setdefault(int(match[1]), set()).add(match[2])
        self.kinds = [self._kind(i) for i in range(len(self.parts))]
        self.at = 0

    def _kind(self, i: int) -> str:
        own = self.parts.get(i, set())
        shape = lambda part: self.tensors.shapes[f"all_modules.{i}.{part}"]  # noqa: E731
        if own == {"W"}:
            return "fourier"
        if "weight" in own:
            return {1: "norm", 2: "linear", 4: "conv"}.get(len(shape("weight")), "other")
        if "NIN_3.W" in own:
            return "attention"
        if {
            "GroupNorm_1.weight",
            "Conv_1.weight",
            "Dense_0.weight",
        } <= own and "NIN_0.W" not in own:
            out, into = shape("Conv_0.weight")[:2]
            return "resample" if out == into and "Conv_2.weight" in own else "block"
        if own in ({"Conv2d_0.weight", "Conv2d_0.bias"}, {"Conv_0.weight", "Conv_0.bias"}):
            return (
                "image" if "Conv2d_0.weight" in own or shape("Conv_0.weight")[2] == 1 else "other"
            )
        return "other"

    @property
    def next(self) -> str:
        """The kind of the module that comes, "" at the end."""
        return self.kinds[self.at] if self.at < len(self.kinds) else ""

    def take(self, kind: str, name: str) -> None:
        """Give the module that comes an EDM's name. ValueError if it is of another kind."""
        if self.next != kind:
            raise ValueError(
                f"{self.path}: module {self.at} is {self.next or 'missing'} (it has "
                f"{', '.join(sorted(self.parts.get(self.at, {'nothing'})))}), where {name} is "
                f"expected, {kind}: NCSN++ and DDPM++ with BigGAN's blocks are read"
            )
        module = f"all_modules.{self.at}"
        if kind == "attention":
            self._attention(module, name)
        elif kind in ("block", "resample"):
            for theirs, ours in BLOCK.items():
                self._move(f"{module}.{theirs}", f"{name}.{ours}")
        elif kind == "image":
            skip = "Conv_0.weight" in self.parts[self.at]
            part = "Conv_0" if skip else "Conv2d_0"
            self._move(f"{module}.{part}", f"{name}_{'skip' if skip else 'residual'}")
        elif kind == "fourier":
            self._one(f"{module}.W", name)
        else:
            self._move(module, name)
        self.at += 1

    def _move(self, theirs: str, ours: str) -> None:
        for leaf in ("weight", "bias"):
            if f"{theirs}.{leaf}" in self.tensors:
                self._one(f"{theirs}.{leaf}", f"{ours}.{leaf}")

    def _one(self, theirs: str, ours: str) -> None:
        shape, dtype = self.tensors.shapes[theirs], self.tensors.dtypes[theirs]
        self.made[ours] = (shape, dtype, lambda: self.tensors[theirs])

    def _attention(self, module: str, name: str) -> None:
        """q, k and v of one head, innermost, as EDM keeps them; kernels are (in, out) here."""
        self._move(f"{module}.GroupNorm_0", f"{name}.norm2")
        c = self.tensors.shapes[f"{module}.NIN_3.W"][0]
        dtype, read = self.tensors.dtypes[f"{module}.NIN_3.W"], self.tensors.__getitem__

        def qkv(leaf: str) -> np.ndarray:
            rows = [read(f"{module}.NIN_{i}.{leaf}").T for i in range(3)]
            return np.stack(rows, axis=1).reshape(3 * c, *rows[0].shape[1:])

        self.made |= {
            f"{name}.qkv.weight": ((3 * c, c), dtype, lambda: qkv("W")),
            f"{name}.qkv.bias": ((3 * c,), dtype, lambda: qkv("b")),
            f"{name}.proj.weight": ((c, c), dtype, lambda: read(f"{module}.NIN_3.W").T),
            f"{name}.proj.bias": ((c,), dtype, lambda: read(f"{module}.NIN_3.b")),
        }


def edm_names(tensors: Tensors, path: str, image_size: int | None) -> Tensors:
    """Return the tensors under EDM's names, of images of a size; if None, of one whose attention is
    at maps of 16 pixels. Raises ValueError, naming the module, for another order of modules.
    """
    walk = Walk(tensors, path)
    if walk.next == "fourier":
        walk.take("fourier", "map_noise.freqs")
    walk.take("linear", "map_layer0")
    walk.take("linear", "map_layer1")
    resamples = [i for i, kind in enumerate(walk.kinds) if kind == "resample"]
    levels = 1 + len(resamples) // 2
    blocks = walk.kinds[: resamples[0]].count("block") if resamples else 0
    attended = _attended(walk.kinds, blocks, levels)
    if image_size is None and len(attended) != 1:
        raise ValueError(
            f"{path}: attention at levels {sorted(attended)} does not determine the size of its "
            "images: config={'image_size': ...} does"
        )
    full = image_size or 16 << min(attended)
    names = [f"{full >> i}x{full >> i}" for i in range(levels)]
    walk.take("conv", f"enc.{names[0]}_conv")
    for i, size in enumerate(names):
        if i:
            walk.take("resample", f"enc.{size}_down")
            if walk.next == "image":
                walk.take("image", f"enc.{size}_aux")
        for j in range(blocks):
            walk.take("block", f"enc.{size}_block{j}")
            if walk.next == "attention":
                walk.take("attention", f"enc.{size}_block{j}")
    for j, kind in enumerate(("block", "attention", "block")):
        walk.take(kind, f"dec.{names[-1]}_in{j // 2}")
    for i, size in reversed(list(enumerate(names))):
        for j in range(blocks + 1):
            walk.take("block", f"dec.{size}_block{j}")
        if walk.next == "attention":
            walk.take("attention", f"dec.{size}_block{blocks}")
        if walk.next == "norm":
            walk.take("norm", f"dec.{size}_aux_norm")
            walk.take("conv", f"dec.{size}_aux_conv")
        if i:
            walk.take("resample", f"dec.{names[i - 1]}_up")
    if walk.next or f"dec.{names[0]}_aux_conv.weight" not in walk.made:
        walk.take("end", "nothing more")
    return Tensors(walk.made, None, path)


def _attended(kinds: list[str], blocks: int, levels: int) -> set[int]:
    """Numbers of the levels whose blocks on the way down are followed by attention."""
    level, count, found = 0, 0, set[int]()
    for kind in kinds:
        level, count = (level + 1, 0) if kind == "resample" else (level, count + (kind == "block"))
        if level == levels or count > blocks:
            break
        if kind == "attention":
            found.add(level)
    return found
