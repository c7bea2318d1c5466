"""Every list of published names and shapes beside the project is the anchor of a test."""

import ast
import pathlib

import pytest
from helpers.published_keys import FOLDER

ANCHORED = {  # by test module, the published models whose every tensor it finds a place for
    "test_controls": {"controlnet_sd15"},
    "test_diffusers": {
        "lcm_sd15", "sd15", "sd21", "sdxl", "taesd", "unet2d_256", "unet2d_cifar10", "vae_flux",
        "vae_sd",
    },
    "test_edm": {
        "edm_cifar10_ve_uncond", "edm_cifar10_vp_cond", "edm_cifar10_vp_uncond", "edm_ffhq64_vp",
        "edm_imagenet64_adm_cond",
    },
    "test_edm2": {"edm2_img512_m", "edm2_img512_s", "edm2_img512_xs", "edm2_img64_s"},
    "test_guided": {
        "adm128_cond", "adm256_classifier", "adm256_cond", "adm256_uncond", "adm64",
        "adm64_classifier",
    },
    "test_transformers": {
        "dit_xl_2_256", "flux_dev", "flux_schnell", "pixart", "pixart_sigma512", "sd35_medium",
        "sd3_medium",
    },
}  # fmt: skip


def anchors(module):
    """The strings in what a test module calls ANCHORS, or hands to ``published``."""
    tree = ast.parse((pathlib.Path(__file__).parent / f"{module}.py").read_text())
    for node in ast.walk(tree):
        name = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "func", None)
        if getattr(name, "id", "") in ("ANCHORS", "published"):
            yield from (n.value for n in ast.walk(node) if isinstance(n, ast.Constant))


@pytest.mark.parametrize("module", ANCHORED)
def test_every_anchor_of_the_list_is_in_its_test(module):
    assert ANCHORED[module] <= {*anchors(module)}


def test_every_published_list_of_tensors_is_an_anchor():
    if not FOLDER.exists():
        pytest.skip("the names of published models are not beside this checkout")
    there = {p.stem for p in FOLDER.glob("*.json") if not p.name.endswith(".config.json")}
    assert there == set().union(*ANCHORED.values())
