"""Typed configurations of the command line, and how they are kept with a run.

A configuration is a frozen dataclass of plain values. The one that a run was started with is saved
in its folder as ``config.json`` and is enough to rebuild its network.
"""

import dataclasses
import difflib
import json
import math
import os
import pathlib
import sys
import types
import typing
from typing import Any, Literal, TypeVar

from jaxdiff.files import read_json, write_text

LARGEST = 1 << 63  # beyond it an integer is no number of anything
C = TypeVar("C")
Parallel = Literal["jit", "fsdp", "pmap"]
SolverName = Literal[
    "euler", "heun", "dpm2", "dpm_solver", "lms", "ipndm", "ipndm_v", "pndm", "deis", "dpmpp",
    "unipc", "flow_heun", "flow_midpoint", "flow_lms", "edict", "bdia",
    "ddim", "ddpm", "dpm2_ancestral", "dpmpp_2s_ancestral", "sde_dpmpp", "sde_dpmpp_2s",
    "sa_solver", "er_sde", "churn", "restart", "predictor_corrector",
]  # fmt: skip
GridName = Literal["karras", "log_snr", "vp_time", "arctan", "cosine"]
EndName = Literal["zero", "lowest", "denoise"]
MethodName = Literal[
    "knowledge_distillation", "path_distillation", "progressive_distillation",
    "feature_distillation", "guided_distillation", "tract", "sfd", "sfd_v", "boot",
    "rectified_flow", "reflow", "perflow", "consistency_distillation", "consistency_training",
    "improved_consistency", "easy_consistency", "easy_consistency_distillation", "scd", "sct",
    "continuous_distillation", "continuous_training", "truncated_consistency",
    "latent_consistency", "multistep_consistency", "multistep_consistency_training",
    "trajectory_consistency", "trajectory_consistency_adversarial", "shortcut",
    "inductive_moments", "trajectory_operator", "mean_flow", "mean_flow_of_data",
    "improved_mean_flow", "align_your_flow", "align_your_flow_lagrangian",
    "flow_map_lagrangian", "flow_map_eulerian", "flow_map_semigroup",
    "diff_instruct", "diff_instruct_low_rank", "dmd", "dmd2", "dmd2_two_steps", "decoupled_dmd",
    "f_distill", "sid", "sida", "sim", "moment_matching", "add", "ladd", "ufogen", "ddgan",
    "truncated_diffusion",
]  # fmt: skip
TunerName = Literal[
    "gits", "ays", "elbo", "dmn", "ld3", "s4s", "s4s_alt", "bns", "gs", "bespoke", "amed", "epd",
    "ggdm",
]  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Data:
    """Where images come from."""

    path: str = "digits"
    """"digits" (scikit-learn's, 8x8), or a folder of images, an EDM-format zip, an .npz."""
    split: Literal["train", "test"] = "train"
    """Which half of an .npz, or of the digits, to use."""
    size: int | None = None
    """Resize images to size x size; by default they keep theirs."""
    limit: int | None = None
    """Use at most this many images, spread evenly."""
    grayscale: bool = False
    """Turn colour images to grey."""
    flip: bool = False
    """Mirror half of the images at random."""


@dataclasses.dataclass(frozen=True)
class UNet:
    """The network."""

    channels: int = 32
    """Channels of the first level; a multiple of 8."""
    multipliers: tuple[int, ...] = (1, 2)
    """Channels of each level in units of ``channels``; every level halves the image."""
    blocks: int = 1
    """Residual blocks per level and direction."""
    attention: tuple[int, ...] = ()
    """Heights of the maps that get self-attention."""
    dropout: float = 0.0
    """Dropout rate in training."""
    embedding: int = 128
    """Length of the embedding of noise level and class."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """What the network computes in; parameters stay float32."""


@dataclasses.dataclass(frozen=True)
class Train:
    """Train a score network (an EDM denoiser) on images."""

    run: str
    """Folder of the run: checkpoints, history and configuration. An unfinished run there is
    resumed.
    """
    data: Data = Data()
    network: UNet = UNet()
    steps: int = 3000
    """Updates."""
    batch: int = 32
    """Images per update."""
    learning_rate: float = 3e-3
    """Peak rate; warm-up, then cosine decay to zero."""
    warmup: int = 200
    """Steps of warm-up."""
    ema: float = 0.998
    """Decay of the averaged parameters that sampling uses."""
    clip: float = 1.0
    """Largest norm of the gradient."""
    label_drop: float = 0.1
    """Fraction of labels dropped, for guidance."""
    sigma_data: float = 0.5
    """Standard deviation of the data, as preconditioning assumes it."""
    level_mean: float = -1.2
    """Mean of the log noise level in training."""
    level_std: float = 1.2
    """Standard deviation of the log noise level in training."""
    seed: int = 0
    save_every: int = 500
    """Steps between checkpoints."""
    parallel: Parallel = "jit"
    """How several devices are used: parameters on every device (jit, pmap), or split over them
    (fsdp), which takes less memory and more communication.
    """
    devices: int | None = None
    """Use so many devices; by default all."""
    accumulate: int = 1
    """Take the batch in so many parts, one after the other: memory for one part is enough."""
    nonfinite: Literal["stop", "skip"] = "stop"
    """A step whose loss or gradient is not finite ends the run, its batch kept for a replay, or is
    skipped and counted.
    """


@dataclasses.dataclass(frozen=True)
class Distill:
    """Distil a trained run into a student that samples in one or two evaluations."""

    teacher: str
    """Folder of the teacher's run."""
    run: str
    """Folder of the student's run."""
    method: MethodName = "easy_consistency"
    """How: any recipe of jaxdiff.recipes, with choices for a few thousand updates."""
    steps: int = 2000
    """Updates."""
    batch: int = 32
    """Images per update."""
    learning_rate: float = 1e-3
    """Rate of RAdam, after which it decays to zero by a cosine."""
    choices: dict[str, float] = dataclasses.field(default_factory=dict)
    """What a method lets you choose, such as "q 2 stages 8" for easy_consistency (the functions of
    jaxdiff.recipes list them).
    """
    ema: float = 0.998
    """Decay of the averaged parameters that sampling uses."""
    seed: int = 0
    save_every: int = 500
    """Steps between checkpoints."""
    parallel: Parallel = "jit"
    """How several devices are used: parameters on every device (jit, pmap), or split over them
    (fsdp), which takes less memory and more communication.
    """
    devices: int | None = None
    """Use so many devices; by default all."""
    accumulate: int = 1
    """Take the batch in so many parts, one after the other: memory for one part is enough."""
    nonfinite: Literal["stop", "skip"] = "stop"
    """A step whose loss or gradient is not finite ends the run, its batch kept for a replay, or is
    skipped and counted.
    """


@dataclasses.dataclass(frozen=True)
class Sample:
    """Sample a trained or distilled run."""

    run: str
    """Folder of the run."""
    out: str = "samples"
    """Folder for the pictures (samples.png) and the numbers (samples.npz)."""
    count: int = 100
    """Samples."""
    batch: int = 256
    """Samples at a time. The samples do not depend on it."""
    solver: SolverName = "dpmpp"
    """Solver of a teacher; a student has its own sampler."""
    order: int | None = None
    """Order of a solver that has several; its usual one by default."""
    steps: int | None = None
    """Steps: 10 for a teacher and 1 for a student by default."""
    grid: GridName = "karras"
    """How noise levels are spaced."""
    end: EndName = "zero"
    """Where the grid ends: at 0, the last step denoising; at the lowest level, keeping its noise;
    or there with one evaluation more that denoises.
    """
    low: float = 0.002
    """Lowest noise level before 0."""
    high: float = 80.0
    """Noise level to start from."""
    table: str | None = None
    """A saved sampler table (JSON), instead of solver, order, steps and grid."""
    guidance: float | None = None
    """Classifier-free guidance weight: 1 is the plain conditional model. Two evaluations per
    step.
    """
    label: int | None = None
    """Class to sample; by default all classes in turn."""
    seed: int = 0
    parallel: Parallel = "jit"
    """How several devices are used: each makes its part of the samples, by jit or pmap; with fsdp
    the parameters are split over them, too. The samples do not depend on it.
    """
    devices: int | None = None
    """Use so many devices; by default all."""


@dataclasses.dataclass(frozen=True)
class Export:
    """Write a sampler with its network as one file that needs only jax to run."""

    run: str
    """Folder of the run."""
    out: str = "sampler.npz"
    """The file."""
    solver: SolverName = "dpmpp"
    """Solver of a teacher; a student has its own sampler."""
    order: int | None = None
    """Order of a solver that has several; its usual one by default."""
    steps: int | None = None
    """Steps: 10 for a teacher and 1 for a student by default."""
    grid: GridName = "karras"
    """How noise levels are spaced."""
    table: str | None = None
    """A saved sampler table (JSON), instead of solver, order, steps and grid."""
    guidance: float | None = None
    """Classifier-free guidance weight."""
    platforms: tuple[str, ...] = ("cpu", "cuda", "tpu")
    """Kinds of device that the file is to run on: cpu, cuda, rocm, tpu."""


@dataclasses.dataclass(frozen=True)
class Tune:
    """Find the best sampler of a few evaluations for a trained run, or for an exact problem. The
    network stays as it is; the sampler is a small JSON table.
    """

    run: str | None = None
    """Folder of a trained run."""
    problem: str | None = None
    """Instead of a run, an exact problem of experiments.gym: mixture-2d, mixture-8d, gaussian."""
    nfe: tuple[int, ...] = (5,)
    """Numbers of network evaluations, one sampler for each."""
    method: TunerName = "gs"
    """How. Levels: gits, ays, elbo, dmn (searched), ld3 (learned). Weights: s4s. Both: s4s_alt,
    bns, gs. Steps with learned middles: bespoke, amed, epd. For the kernel distance to data, with
    noise: ggdm.
    """
    out: str = "runs/tuned"
    """Folder for the tables, one folder "nfe-N" for each number of evaluations."""
    solver: SolverName | None = None
    """Solver to start from; the best one by default."""
    order: int | None = None
    """Its order."""
    pairs: int = 256
    """Accurate trajectories to tune on; as many more are held out to choose by."""
    teacher_steps: int = 40
    """Steps of UniPC that make an accurate trajectory."""
    updates: int = 400
    """Updates of a method that learns."""
    batch: int = 32
    """Trajectories per update."""
    rate: float = 0.02
    """Learning rate, which falls to zero."""
    patience: int | None = None
    """Stop after so many updates without a better held-out score."""
    distance: Literal["squared", "huber", "features"] = "squared"
    """What is made small: squared or pseudo-Huber distance of samples, or the squared distance of
    what a classifier trained on the run's data sees.
    """
    guidance: float | None = None
    """Classifier-free guidance weight to tune for."""
    low: float = 0.002
    """Lowest noise level of usual grids."""
    high: float = 80.0
    """Noise level to start from."""
    remat: bool = False
    """Recompute evaluations in the gradient pass instead of storing them: memory hardly grows with
    the number of evaluations, for a third more time (on CPU, for several times the time).
    """
    seed: int = 0
    parallel: Parallel = "jit"
    """How several devices are used: parameters on every device, or split over them (fsdp)."""
    devices: int | None = None
    """Use so many devices; by default all."""


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """Score a run's samples against real images."""

    run: str
    """Folder of the run."""
    data: Data | None = None
    """Reference images; by default the run's own data."""
    out: str | None = None
    """File for the report (HTML, numbers beside it as JSON); evaluation.html in the run's folder
    by default.
    """
    count: int = 1000
    """Samples."""
    batch: int = 256
    """Samples at a time."""
    solver: SolverName = "dpmpp"
    """Solver of a teacher."""
    steps: tuple[int, ...] = ()
    """Step counts to score: 5, 10 and 20 for a teacher, 1, 2 and 4 for a student by default."""
    table: str | None = None
    """A saved sampler table (JSON) to score, instead of solver and steps."""
    features: Literal["classifier", "pixels"] = "classifier"
    """What images are compared by: a small classifier trained on the reference labels, or the
    pixels.
    """
    guidance: float | None = None
    """Classifier-free guidance weight."""
    seed: int = 0
    parallel: Parallel = "jit"
    """How several devices are used: each makes its part of the samples, by jit or pmap; with fsdp
    the parameters are split over them, too. The samples do not depend on it.
    """
    devices: int | None = None
    """Use so many devices; by default all."""


@dataclasses.dataclass(frozen=True)
class Demo:
    """The main job on real images: train, sample with every solver, distil, measure, report.
    Minutes on two cores.
    """

    out: str = "runs/demo"
    """Folder for the report and the runs. Finished parts found there are not made again."""
    train_steps: int = 3000
    """Updates of the teacher."""
    method: MethodName = "easy_consistency"
    """How the student is distilled."""
    distill_steps: int = 1500
    """Updates of the student."""
    count: int = 360
    """Samples per score."""
    nfe: tuple[int, ...] = (3, 5, 7, 11, 35)
    """Numbers of network evaluations to sample with; odd, so that solvers of two evaluations per
    step have them too.
    """
    seed: int = 0
    fresh: bool = False
    """Start anew: do not use what an earlier call left in the folder."""


@dataclasses.dataclass(frozen=True)
class Described:
    """What a finished model's file says of it, besides what only students have."""

    network: UNet
    shape: tuple[int, ...]
    """Of an image."""
    classes: int
    sigma_data: float
    data: Data

    def __post_init__(self) -> None:
        if not self.shape or min(self.shape) < 1 or math.prod(self.shape) >= 1 << 31:
            raise ValueError(f"no image has shape {self.shape}")
        if self.classes < 0 or self.sigma_data <= 0:
            raise ValueError(
                f"there are no {self.classes} classes of standard deviation {self.sigma_data}"
            )


def to_dict(config: Any) -> dict[str, Any]:
    """A configuration as plain values, with its kind."""
    return {"kind": type(config).__name__} | dataclasses.asdict(config)


def from_dict(kind: type[C], values: dict[str, Any], where: str = "config") -> C:
    """A configuration from plain values. Raises ValueError naming a field that is unknown, missing
    or of another type.
    """
    if not isinstance(values, dict):
        raise ValueError(f"{where} should hold the fields of {kind.__name__}")
    hints, fields = typing.get_type_hints(kind), {f.name: f for f in dataclasses.fields(kind)}  # type: ignore[arg-type]
    values = {k: v for k, v in values.items() if k != "kind"}
    for name in values:
        if name not in fields:
            close = difflib.get_close_matches(name, fields, 1)
            raise ValueError(
                f"{where}: no field {name!r} in "
                f"{kind.__name__}{f'; {close[0]!r}?' if close else ''}"
            )
    try:
        return kind(**{k: _plain(hints[k], v, f"{where}.{k}") for k, v in values.items()})
    except (TypeError, RecursionError) as error:
        raise ValueError(f"{where}: {error}") from error


def _plain(hint: Any, value: Any, where: str) -> Any:
    """The value of a field of a type, made of what JSON knows. ValueError for another type."""
    origin, of = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):  # X | None
        return None if value is None else _plain(of[0], value, where)
    if dataclasses.is_dataclass(hint) and isinstance(value, dict):
        return from_dict(hint, value, where)  # type: ignore[arg-type]
    if origin is tuple and isinstance(value, list | tuple):
        return tuple(_plain(of[0], v, f"{where}[{i}]") for i, v in enumerate(value))
    if origin is dict and isinstance(value, dict):
        return {k: _plain(of[1], v, f"{where}.{k}") for k, v in value.items()}
    if origin is typing.Literal and value in of:
        return value
    if hint is float and type(value) in (int, float) and abs(value) < sys.float_info.max:
        return value
    if hint in (bool, str) and type(value) is hint:
        return value
    if hint is int and type(value) is int and abs(value) < LARGEST:
        return value
    named = hint.__name__ if isinstance(hint, type) else str(hint).removeprefix("typing.")
    raise ValueError(f"{where} should be of type {named}, not {value!r:.60}")


def save(config: Any, folder: str | os.PathLike) -> None:
    """Write ``config.json`` into a run's folder, whole or not at all."""
    write_text(pathlib.Path(folder) / "config.json", json.dumps(to_dict(config), indent=1))


def load(folder: str | os.PathLike) -> Train | Distill:
    """The configuration of a run.

    Raises:
        FileNotFoundError: if there is no run. ValueError: if its configuration is damaged.
    """
    path = pathlib.Path(folder) / "config.json"
    if not path.exists():
        raise FileNotFoundError(f"{folder} is not a run: it has no config.json")
    try:
        values = read_json(path)
        kind = {"Train": Train, "Distill": Distill}[values["kind"]]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged: {error!r}") from error
    return from_dict(kind, values, str(path))
