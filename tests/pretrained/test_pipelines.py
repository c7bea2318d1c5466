"""Whole pipelines against diffusers: latents after every step, and the image."""

import functools
import json

import jax.numpy as jnp
import numpy as np
import pytest
from helpers.golden_numbers import SHARED

import jaxdiff as jd
from jaxdiff.conditioning.guidance import negative_prompt
from jaxdiff.pretrained.opening import load_pretrained
from jaxdiff.pretrained.pipeline import text_condition, with_scheduler
from jaxdiff.pretrained.schedulers import read_scheduler

FILE = SHARED / "pipelines_sd_io.json"
pytestmark = pytest.mark.skipif(not FILE.exists(), reason=f"{FILE} is not beside this checkout")


def cases():
    made = json.loads(FILE.read_text())["cases"] if FILE.exists() else []
    return [pytest.param(c, id=c["id"]) for c in made if c["what"] == "sample"]


@functools.cache
def model(folder):
    return load_pretrained(SHARED / folder)


@functools.cache
def numbers():
    return np.load(FILE.with_suffix(".npz"))


def channels_last(x):
    return jnp.asarray(np.moveaxis(x, -3, -1))


def condition(case, own):
    return text_condition(
        own, case["prompt"], case["negative_prompt"], second=case.get("prompt_2"),
        skip=case.get("clip_skip", 0), original=case.get("original_size"),
        corner=case.get("crops_coords_top_left", (0, 0)), size=case.get("target_size"),
    )  # fmt: skip


def states(case, own, scheduler):
    """The accepted states of a sampler, in the scheduler's frame, and their number of steps."""
    n, weight = case["num_inference_steps"], case["guidance_scale"]
    prompts = condition(case, own)
    D, cond = own.denoiser, prompts.positive
    if weight != 1:
        D, cond = negative_prompt(D, weight, case.get("guidance_rescale", 0.0)), prompts
    start = channels_last(numbers()[case["latents"]]) * scheduler.start_scale(n)
    plan = scheduler.plan(n)
    if plan.options.get("clip") is not None:
        made = jd.direct(D, plan.solver, plan.levels, start, cond, **plan.options)[None]
        levels = plan.levels[-1:]
    else:
        path = jd.trajectory(D, scheduler.table(n), start, cond)
        made, levels = path.states[1:], np.asarray(path.levels)[1:]
    made = np.asarray(made)
    if not case["scheduler"].startswith("Euler"):
        made = made / np.sqrt(1 + levels**2)[:, None, None, None, None]
    return made


@pytest.mark.slow
@pytest.mark.parametrize("case", cases())
def test_latents_and_image(case):
    scheduler = read_scheduler({"_class_name": case["scheduler"], **case["scheduler_config_used"]})
    own = with_scheduler(model(case["folder"]), scheduler)
    made = states(case, own, scheduler)
    wanted = np.moveaxis(numbers()[f"{case['id']}/traj"], -3, -1)
    if case["scheduler"] == "PNDMScheduler":
        wanted = wanted[1:]  # its second evaluation repeats the first step
    if case["scheduler"].startswith("UniPC"):
        made = made[-1:]  # between its steps the pipeline holds what is not corrected yet
    made = made[: len(wanted)] if len(made) > 1 else made  # denoising_end
    wanted = wanted[-len(made) :]
    np.testing.assert_allclose(made, wanted, atol=1e-3 * np.abs(wanted).max())
    if f"{case['id']}/decoded_raw" in numbers():
        image = own.parts["vae"].decode(jnp.asarray(made[-1]))
        wanted = channels_last(numbers()[f"{case['id']}/decoded_raw"])
        np.testing.assert_allclose(image, wanted, atol=1e-3 * np.abs(wanted).max())


def test_parts_are_named_and_what_is_left_out_is_said():
    own = model("pipelines_sd/sd15_0")
    assert set(own.parts) == {"scheduler", "text_encoder", "vae"}
    assert own.metadata["left_out"] == [] and "assumed" not in own.metadata
    assert repr(own).startswith("Pretrained(StableDiffusionPipeline; 8x8x4; eps of Discrete; ")


def transformer_cases():
    path = SHARED / "networks_transformers_io.json"
    made = json.loads(path.read_text())["cases"] if path.exists() else []
    return [pytest.param(c, id=c["id"]) for c in made if c["what"] == "DiTPipeline"]


@pytest.mark.slow
@pytest.mark.parametrize("case", transformer_cases())
def test_a_pipeline_of_dit(case):
    own = model(case["folder"])
    config = {**own.parts["scheduler"].config, "_class_name": case["scheduler"]}
    scheduler = read_scheduler(config)
    own = with_scheduler(own, scheduler)
    arrays = np.load(SHARED / "networks_transformers_io.npz")
    n, weight = case["num_inference_steps"], case["guidance_scale"]
    D = own.denoiser if weight == 1 else jd.guidance.classifier_free(own.denoiser, weight)
    start = channels_last(arrays[f"{case['id']}/latents"]) * scheduler.start_scale(n)
    cond, levels = jnp.asarray(case["class_labels"]), np.asarray(scheduler.grid(n))[1:]
    made = np.asarray(jd.trajectory(D, scheduler.table(n), start, cond).states[1:])
    made = made / np.sqrt(1 + levels**2)[:, None, None, None, None]
    wanted = channels_last(arrays[f"{case['id']}/traj"])
    np.testing.assert_allclose(made, wanted, atol=1e-4 * np.abs(wanted).max())
    image = own.parts["vae"].decode(jnp.asarray(made[-1], jnp.float32))
    wanted = channels_last(arrays[f"{case['id']}/decoded_raw"])
    np.testing.assert_allclose(image, wanted, atol=1e-4 * np.abs(wanted).max())
