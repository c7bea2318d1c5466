"""Golden cases of EDM's and EDM2's networks, and what their blocks are called here."""

import functools
import json
import re

import jax
import numpy as np
import pytest
from helpers.diffusers_cases import channels_last, family, folder
from jax.tree_util import keystr

SONG = ("edm_ddpmpp_cond", "edm_ddpmpp_uncond_aug", "edm_ncsnpp_uncond", "vp_ddpmpp_uncond",
        "ve_ncsnpp_uncond")  # fmt: skip
EDM_CASES = (*SONG, "edm_adm_cond", "iddpm_adm_uncond")


@functools.cache
def edm_family():
    """The cases of EDM's networks by name, and their arrays."""
    place = folder("networks_edm")
    cases = json.loads((place / "io.json").read_text())["cases"]
    return {case["name"]: case for case in cases}, np.load(place / "io.npz")


def edm_case(name):
    """A case and its arrays, channels last."""
    cases, arrays = edm_family()
    found = cases.get(name, {})
    if not found.get("arrays"):
        pytest.skip(f"the case {name} of networks_edm is not in the committed subset")
    return found, {a: channels_last(arrays[f"{found['id']}/{a}"]) for a in found["arrays"]}


def edm2_case(**fields):
    """The only case of EDM2's with these fields, and its arrays as they are stored."""
    cases, arrays = family("networks_edm2_io")
    (found,) = (c for c in cases if all(c.get(k) == v for k, v in fields.items()))
    return found, {a: arrays[f"{found['id']}/{a}"] for a in found["arrays"]}


def condition(arrays):
    """The condition of a case: classes of its vectors, and labels of augmentation."""
    cond = {}
    if "labels" in arrays:
        cond["class"] = arrays["labels"].argmax(axis=1)
    if "augment_labels" in arrays:
        cond["augment"] = arrays["augment_labels"]
    return cond or None


def place(name, resolution):
    """The module here of a block that a case calls ``name``."""
    level = lambda size: int(np.log2(resolution / int(size)))  # noqa: E731
    for pattern, path in (
        (r"map_layer1", lambda m: "embedding/dense_1"),
        (r"emb_fourier", lambda m: "features"),
        (r"emb_noise", lambda m: "embedding"),
        (r"emb_label", lambda m: "class"),
        (r"out_conv", lambda m: "conv_out"),
        (r"enc\.\d+x\d+_conv", lambda m: "conv_in"),
        (r"(enc|dec)\.(\d+)x\d+_block(\d+)",
         lambda m: f"{'down' if m[1] == 'enc' else 'up'}_{level(m[2])}_block_{m[3]}"),
        (r"enc\.(\d+)x\d+_down", lambda m: f"down_{level(m[1])}_resample"),
        (r"dec\.(\d+)x\d+_up", lambda m: f"up_{level(m[1])}_resample"),
        (r"dec\.\d+x\d+_in(\d)", lambda m: f"middle_{m[1]}"),
        (r"dec\.(\d+)x\d+_aux_norm", lambda m: f"up_{level(m[1])}_norm_out"),
    ):  # fmt: skip
        if match := re.fullmatch(pattern, name):
            return path(match)
    raise KeyError(name)


def intermediates(model, x, level, cond):
    """What the network's modules return within a denoiser, of the first sample, by path."""
    c_in, label, *_ = model.denoiser.func.weights(*model.denoiser.args[1:], level)
    scaled = c_in.reshape(-1, 1, 1, 1) * x if np.ndim(c_in) else c_in * x
    _, kept = model.network.apply(
        {"params": model.params}, scaled, label, cond, capture_intermediates=True
    )
    leaves, _ = jax.tree_util.tree_flatten_with_path(kept["intermediates"])
    return {
        re.sub(r"/__call__.*", "", keystr(path, simple=True, separator="/")): value[:1]
        for path, value in leaves
    }
