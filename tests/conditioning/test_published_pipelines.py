"""Image to image, inpainting and editing by instruction: published pipelines by the parts here."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.golden_numbers import SHARED

import jaxdiff as jd
from jaxdiff import blending, corrections, editing, guidance
from jaxdiff.pretrained.opening import load_pretrained
from jaxdiff.pretrained.pipeline import text_condition, with_scheduler
from jaxdiff.pretrained.schedulers import read_scheduler

FILE = SHARED / "pipelines_cond_io.json"
pytestmark = [
    pytest.mark.skipif(not FILE.exists(), reason=f"{FILE} is not beside this checkout"),
    pytest.mark.slow,
]
KEY = jax.random.key(0)


def cases(start, count):
    """The first cases of a kind; each compiles a pipeline of its own."""
    made = json.loads(FILE.read_text())["cases"] if FILE.exists() else []
    return [pytest.param(c, id=c["id"]) for c in made if c["what"].startswith(start)][:count]


@functools.cache
def model(folder):
    return load_pretrained(SHARED / folder)


@functools.cache
def numbers():
    return np.load(FILE.with_suffix(".npz"))


def array(case, name):
    """An array of the case, channels last."""
    return jnp.asarray(np.moveaxis(numbers()[f"{case['id']}/{name}"], -3, -1))


def driven(case):
    """The model of a case under its scheduler, and the scheduler."""
    own = model(case["folder"])
    name = {"DDIM": "DDIMScheduler"}.get(case["scheduler"], case["scheduler"])
    scheduler = read_scheduler({**own.parts["scheduler"].config, "_class_name": name})
    return with_scheduler(own, scheduler), scheduler


def encoded(vae, images, noise):
    """Latents drawn with recorded noise: the deviation is what a drawn one is from the mean."""
    mean = vae.encode(images)
    drawn = vae.encode(images, KEY)
    return mean + (drawn - mean) / jax.random.normal(KEY, mean.shape, mean.dtype) * noise


def states(case, own, scheduler, correct=lambda image: None):
    """The accepted states from the level that the strength leaves, in the scheduler's frame."""
    plan = scheduler.plan(case["num_inference_steps"])
    levels = editing.last_steps(plan.levels, case["strength"])
    image = encoded(own.parts["vae"], 2 * array(case, "image") - 1, array(case, "draw.0"))
    start = image + float(levels[0]) * array(case, "draw.1")
    if case["strength"] == 1 and case["what"].startswith("inpaint"):
        start = array(case, "draw.1") * scheduler.start_scale(case["num_inference_steps"])
    D = guidance.negative_prompt(own.denoiser, case["guidance_scale"])
    table = jd.table(plan.solver, levels, **plan.options)
    cond = text_condition(own, case["prompt"], "")
    made = jd.trajectory(D, table, start, cond, correct=correct(image))
    return in_frame(case, made), image


def in_frame(case, made):
    levels = np.asarray(made.levels[1:]).reshape(-1, 1, 1, 1, 1)
    scale = 1.0 if case["scheduler"].startswith("Euler") else 1 / np.sqrt(1 + levels**2)
    return np.asarray(made.states[1:]) * scale


def check(case, own, made):
    wanted = np.moveaxis(numbers()[f"{case['id']}/traj"], -3, -1)
    np.testing.assert_allclose(made, wanted, atol=1e-3 * np.abs(wanted).max())
    decoded = own.parts["vae"].decode(jnp.asarray(made[-1], jnp.float32))
    wanted = array(case, "image_out")
    np.testing.assert_allclose(np.clip(decoded, -1, 1) / 2 + 0.5, wanted, atol=2e-3)


@pytest.mark.parametrize("case", cases("img2img", 3))
def test_image_to_image(case):
    own, scheduler = driven(case)
    check(case, own, states(case, own, scheduler)[0])


@pytest.mark.parametrize("case", cases("inpaint, 4-channel", 1))
def test_inpainting_by_replacement(case):
    """Masked sampling with one noise at all levels; the last state has the known part clean."""
    own, scheduler = driven(case)
    mask = jnp.round(array(case, "mask"))[:, ::2, ::2]
    noise = array(case, "draw.1")
    correct = lambda image: corrections.replacement(image, 1 - mask, noise)  # noqa: E731
    made, image = states(case, own, scheduler, correct)
    made[-1] = mask * made[-1] + (1 - mask) * image
    check(case, own, made)


@pytest.mark.parametrize("case", cases("InstructPix2Pix", 1))
def test_editing_by_instruction(case):
    own, scheduler = driven(case)
    network = with_scheduler(model(case["unet"]), scheduler)
    prompts = text_condition(own, case["prompt"], "")
    vae = own.parts["vae"]
    picture = vae.encode(2 * array(case, "image") - 1) / vae.scale

    def both(y, level, cond=None):
        assert cond is not None
        beside, tokens = cond
        return network.denoiser(y, level, {"beside": beside, "tokens": tokens})

    weights = case["image_guidance_scale"], case["guidance_scale"]
    nulls = jnp.zeros(picture.shape[1:], picture.dtype), prompts.negative["tokens"][0]
    D = blending.two_weights(both, *weights, nulls)
    n = case["num_inference_steps"]
    start = array(case, "draw.0") * scheduler.start_scale(n)
    cond = (picture, prompts.positive["tokens"])
    made = jd.trajectory(D, scheduler.table(n), start, cond)
    check(case, own, in_frame(case, made))
