"""Configurations of sampling: samples, optimised scenes, exported samplers; inspection of files."""

import dataclasses
from typing import Literal

from jaxdiff.app.config_choices import (
    EndName,
    GridName,
    Parallel,
    SceneMethodName,
    SolverName,
)
from jaxdiff.ranges import (
    Count,
    NotNegative,
    Number,
    Positive,
    Seed,
)


@dataclasses.dataclass(frozen=True)
class Sample:
    """Sample a trained or distilled run, or published weights."""

    run: str
    """The model: a run, a file or folder of published weights or the name of their card, or
    module:FILE.py:FUNCTION, a function of yours that makes a model (the file is run).
    """
    out: str = "samples"
    """Folder for the pictures (samples.png) and the numbers (samples.npz)."""
    count: Count = 100
    """Samples."""
    batch: Count = 256
    """Samples at a time. The samples do not depend on it."""
    solver: SolverName | None = None
    """Solver of a teacher, dpmpp by default; a student has its own sampler."""
    order: Count | None = None
    """Order of a solver that has several; its recommended one by default."""
    num_steps: Count | None = None
    """Sampling steps (intervals of the grid): 10 for a teacher and 1 for a student by default."""
    grid: GridName | None = None
    """Spacing of noise levels: karras by default, published weights as their publishers do."""
    end: EndName | None = None
    """End of the grid: at 0 (zero, the default), the last step denoising; at the lowest level,
    keeping its noise; or there with one evaluation more that denoises.
    """
    low: Positive | None = None
    """Lowest noise level before 0, by default 0.002, or that of published weights."""
    high: Positive | None = None
    """Noise level to start from, by default 80, or that of published weights."""
    noise_levels: tuple[NotNegative, ...] = ()
    """Noise levels of the grid themselves, decreasing, such as 80 20 5 1 0.2 0: instead of number
    of steps, grid, end, low and high.
    """
    table: str | None = None
    """A saved sampler table (JSON), instead of solver, order, number of steps and grid."""
    guidance: Number | None = None
    """Classifier-free guidance weight: 1 is the plain conditional model. Two evaluations per
    step.
    """
    discriminator: str | None = None
    """A discriminator of this run (jaxdiff discriminate), whose gradient corrects the score."""
    discriminator_weight: Number = 1.0
    """Weight of the discriminator's gradient."""
    adapter: tuple[str, ...] = ()
    """Files of adapters (jaxdiff adapt, LoRA as published), put into the model one after the other:
    FILE, or FILE:SCALE.
    """
    control: str | None = None
    """Picture that a ControlNet, T2I-Adapter or IP-Adapter among the adapters is shown, or a run of
    pairs, of the size that it was trained with: IMAGE, or edges:IMAGE for the edges of one.
    """
    features: str = "pixels"
    """What an IP-Adapter reads of the picture, as in its training: pixels, or
    module:FILE.py:FUNCTION.
    """
    box: tuple[str, ...] = ()
    """Boxes of an adapter of --kind gligen: LEFT,UPPER,RIGHT,LOWER in [0, 1], from the upper left
    corner, and what is there, "0,0,0.5,0.5:seven"; by default the prompt.
    """
    label: str | None = None
    """Class to sample, by its name or number; by default all classes in turn, of a run with classes
    beside its texts none.
    """
    base: str | None = None
    """A run of small images, a sample of which each sample of this run, of jaxdiff train super,
    enlarges: a cascade (arXiv 2106.15282).
    """
    base_noise: NotNegative | None = None
    """Standard deviation of the noise that is added to the small samples (noise-conditioning
    augmentation); the least that this run was shown, by default.
    """
    prompt: tuple[str, ...] = ()
    """Prompts, for a text-to-image model, which samples have in turn; without --guidance they are
    followed loosely.
    """
    negative_prompt: str | None = None
    """Negative prompt, with --guidance; by default the empty text."""
    seed: Seed = 0
    parallel: Parallel = "jit"
    """Placement on several devices: each makes its part of the samples, by jit or pmap; with fsdp
    the parameters are split over them, too. The samples do not depend on it.
    """
    devices: Count | None = None
    """Use so many devices; by default all."""
    checkpoint: str | None = None
    """Instead of the finished model a checkpoint of the run: its step, or "latest". A run that is
    not finished gives its latest by default.
    """


@dataclasses.dataclass(frozen=True)
class Optimise:
    """Optimise images by score distillation until a run's network finds them likely, and write them
    as sample does.

    The images themselves are the parameters, starting as noise and drawn toward the network's
    denoised outputs at random noise levels. sds (arXiv 2209.14988) seeks a mode: the images of a
    class end alike, blurred and typical, not as samples. Detail needs a high guidance weight, 100
    in the paper, which saturates colours. vsd (arXiv 2305.16213) trains a second score on the
    images and keeps them apart, at a weight of 7.5 in the paper and for three times the time. For
    samples, use jaxdiff sample, which is faster and better.
    """

    run: str
    """The model, no student: a run, a file or folder of published weights or the name of their
    card, or module:FILE.py:FUNCTION, a function of yours that makes a model (the file is run).
    """
    out: str = "optimised"
    """Folder for the pictures (samples.png) and the numbers (samples.npz)."""
    method: SceneMethodName = "sds"
    """How: sds or vsd."""
    choices: dict[str, bool | int | float | str] = dataclasses.field(default_factory=dict)
    """Choices of the method, such as "rate 0.01 last 0.5" for sds; "--method NAME --help"
    lists the choices of a method.
    """
    count: Count = 8
    """Images. All are in every update."""
    label: str | None = None
    """Class of the images, by its name or number; by default all classes in turn."""
    guidance: Number | None = None
    """Classifier-free guidance weight: 1 is the plain conditional model, the default. On a few
    classes 3 to 7.5 gives sds contrast, and more leaves what the network was trained on.
    """
    updates: Count = 1000
    """Updates."""
    seed: Seed = 0
    checkpoint: str | None = None
    """Instead of the finished model a checkpoint of the run: its step, or "latest". A run that is
    not finished gives its latest by default.
    """


@dataclasses.dataclass(frozen=True)
class Export:
    """Write a sampler with its network as one file that needs only jax to run."""

    run: str
    """The model: a run, a file or folder of published weights or the name of their card, or
    module:FILE.py:FUNCTION, a function of yours that makes a model (the file is run).
    """
    out: str = "sampler.npz"
    """The file."""
    solver: SolverName | None = None
    """Solver of a teacher, dpmpp by default; a student has its own sampler."""
    order: Count | None = None
    """Order of a solver that has several; its recommended one by default."""
    num_steps: Count | None = None
    """Sampling steps (intervals of the grid): 10 for a teacher and 1 for a student by default."""
    grid: GridName | None = None
    """Spacing of noise levels: karras by default, published weights as their publishers do."""
    table: str | None = None
    """A saved sampler table (JSON), instead of solver, order, number of steps and grid."""
    guidance: Number | None = None
    """Classifier-free guidance weight."""
    platforms: tuple[str, ...] = ("cpu", "cuda", "tpu")
    """Kinds of device that the file is to run on: cpu, cuda, rocm, tpu."""
    checkpoint: str | None = None
    """Instead of the finished model a checkpoint of the run: its step, or "latest". A run that is
    not finished gives its latest by default.
    """


@dataclasses.dataclass(frozen=True)
class Inspect:
    """Say what a file or folder is, without running anything in it: a run, a model, a sampler's
    table, an exported sampler, tuned samplers, published weights or a folder of diffusers,
    statistics of features, or just tensors.
    """

    path: str
    """The file or folder; the option's name may be left out."""
    json: bool = False
    """As JSON."""


@dataclasses.dataclass(frozen=True)
class List:
    """List what there is of a kind, one line each, with the arXiv number of its paper."""

    kind: Literal[
        "solvers", "grids", "methods", "tuners", "guidance", "metrics", "networks", "adapters",
        "models", "presets",
    ] = "solvers"  # fmt: skip
    """Of what; the option's name may be left out. models are the cards of published weights,
    presets those of jaxdiff train.
    """
    json: bool = False
    """As JSON."""
