"""Typed configurations of the command line, one a command: frozen dataclasses of plain values."""

import dataclasses
from typing import TYPE_CHECKING, Literal

from jaxdiff.app.config_network import MLP as MLP
from jaxdiff.app.config_network import DiT as DiT
from jaxdiff.app.config_network import Module as Module
from jaxdiff.app.config_network import Network, UNet
from jaxdiff.ranges import (
    Below1,
    Count,
    Fraction,
    Natural,
    NotNegative,
    Number,
    Positive,
    Seed,
    Several,
    Width,
)
from jaxdiff.recipes import RECIPES
from jaxdiff.recipes.scenes import OF_IMAGES
from jaxdiff.recipes.tuning import TUNERS
from jaxdiff.solvers import SOLVERS

Parallel = Literal["jit", "fsdp", "pmap"]
if TYPE_CHECKING:  # names of the lists of solvers, recipes and tuners
    SolverName = str
    MethodName = str
    TunerName = str
    SceneMethodName = str
else:
    SolverName = Literal[tuple(known.name for known in SOLVERS if known.command_line)]
    MethodName = Literal[tuple(RECIPES)]
    TunerName = Literal[tuple(TUNERS)]
    SceneMethodName = Literal[tuple(OF_IMAGES)]
ProcessName = Literal["edm", "vp", "cosine", "flow", "trig"]
PredictionName = Literal["edm", "eps", "x0", "v", "flow", "score"]
LevelsName = Literal["log_normal", "uniform", "logit_normal"]
WeightingName = Literal[
    "prediction", "edm", "uniform", "snr", "snr_plus_one", "truncated_snr", "min_snr", "sigmoid"
]
GridName = Literal["karras", "log_snr", "vp_time", "arctan", "cosine"]
EndName = Literal["zero", "lowest", "denoise"]


@dataclasses.dataclass(frozen=True)
class Data:
    """Source of the images."""

    path: str = "digits"
    """"digits" (scikit-learn's, 8x8), or a folder or zip of images, a .tar or a folder of them, an
    .npz or .npy.
    """
    split: Literal["train", "val", "test"] = "train"
    """Part to use: of the digits, of an .npz, of folders called train, val, test."""
    labels: Literal["auto", "none", "folders", "json"] = "auto"
    """Source of the classes: a dataset.json, the folders, nowhere; by default the first of these
    that there is, or the labels of an .npz.
    """
    size: Count | None = None
    """Resize images to size x size; by default they keep theirs."""
    limit: Count | None = None
    """Use at most this many images, a random choice that is always the same."""
    grayscale: bool = False
    """Turn colour images to grey."""
    range: tuple[Number, Number] | None = None
    """The values that are black and white, such as 0 1 for masks; by default 0 and 255, or for
    floats 0 and 1, or -1 and 1.
    """
    flip: bool = False
    """Mirror half of the images at random."""
    arrays: bool = False
    """Read an .npy or .npz as samples of any shape (n, ...) that are no images: points, signals
    (n, length, channels), volumes. Their numbers stay as they are: give --sigma-data theirs.
    """
    lazy: bool = False
    """Leave the images where they are and read each batch as it is needed: for data beyond memory.
    """


@dataclasses.dataclass(frozen=True)
class OtherData:
    """Real images: the run's own data, but for what is given here; of published weights, which do
    not say theirs, what is given.
    """

    path: str | None = None
    """"digits", a folder or zip of images, an .npz: other images, or the run's own if they have
    been moved. Published weights need it.
    """
    split: Literal["train", "val", "test"] | None = None
    """Part to use."""
    labels: Literal["auto", "none", "folders", "json"] | None = None
    """Source of the classes."""
    size: Count | None = None
    """Resize images to size x size."""
    limit: Count | None = None
    """Use at most this many images."""
    grayscale: bool | None = None
    """Turn colour images to grey."""
    range: tuple[Number, Number] | None = None
    """The values that are black and white."""


def of_run(own: Data, given: OtherData) -> Data | None:
    """Return a run's data with what is given in place of its own; None if nothing is."""
    changed = {k: v for k, v in dataclasses.asdict(given).items() if v is not None}
    return dataclasses.replace(own, **changed) if changed else None


@dataclasses.dataclass(frozen=True)
class Train:
    """Train a score network on images.

    The network is chosen by "--network unet", "dit", "mlp" or "module:FILE.py:CLASS"; the options
    --network.* are those of the chosen one, shown by "--network dit --help". "--dtype bfloat16" is
    short for --network.dtype.
    """

    run: str
    """Folder of the run: checkpoints, history and configuration. An unfinished run there is
    resumed.
    """
    data: Data = Data()
    network: Network = UNet()
    process: ProcessName = "edm"
    """Diffusion process: edm (noise is added, 2206.00364), vp (linear beta, 2011.13456),
    cosine (2102.09672), flow (straight lines, 2209.03003), trig (2410.11081).
    """
    prediction: PredictionName | None = None
    """Prediction of the network: edm with process edm, eps with vp and cosine, flow (the velocity)
    with flow and trig, by default.
    """
    levels: LevelsName | None = None
    """Distribution of noise levels in training: log_normal (EDM's; with edm and trig by default),
    uniform in the process's time (with vp, cosine and flow by default), or logit_normal in it
    (Stable Diffusion 3's).
    """
    weighting: WeightingName = "prediction"
    """Weight of a level's error: the plain squared error of what the network predicts
    (prediction; of a score times sigma), of x0 (uniform), of eps (snr), of v (snr_plus_one), EDM's
    (edm), truncated_snr (2202.00512), min_snr (2303.09556) or sigmoid (2303.00848).
    """
    snr_limit: Positive = 5.0
    """Largest weight of min_snr."""
    sigmoid_bias: Number = 2.0
    """Centre of the weight sigmoid, in units of the logarithm of the signal-to-noise ratio."""
    updates: Count = 3000
    """Updates in all. More than a run has made lengthen it: it goes on from its last checkpoint,
    and its learning rate is that of a run of so many steps; if it had fallen to zero, it rises at
    once and falls again.
    """
    batch: Count = 32
    """Images per update."""
    learning_rate: Positive = 3e-3
    """Peak rate, after the warm-up."""
    schedule: Literal["cosine", "constant", "inverse_sqrt"] = "cosine"
    """Learning rate after the warm-up: falls to zero by a cosine, stays, or falls as
    1/sqrt(update) from --decay-after on (EDM2, 2312.02696).
    """
    decay_after: Count | None = None
    """Updates at the peak rate, of inverse_sqrt; by default a fifteenth of all, as EDM2's 70,000
    are of about a million.
    """
    warmup: Natural = 200
    """Steps of warm-up."""
    weight_decay: NotNegative = 0.0
    """Decoupled weight decay (AdamW, 1711.05101) of weights of two axes or more, in units of the
    learning rate.
    """
    ema: Below1 = 0.998
    """Decay of the averaged parameters that sampling uses; less at first, so that its
    half-life is at most a fifth of the updates made.
    """
    ema_std: tuple[Width, ...] = ()
    """Keep power-function averages of these relative widths, too, such as 0.05 0.1, and snapshots
    of them, of which "jaxdiff ema" makes averages of other widths afterwards (2312.02696).
    """
    snapshot_every: Count | None = None
    """Updates between snapshots; as --save-every by default. The last update always is one."""
    clip: Positive | None = 1.0
    """Largest norm of the gradient; None for any."""
    label_drop: Fraction = 0.1
    """Fraction of labels dropped, for guidance."""
    sigma_data: Positive = 0.5
    """Standard deviation of the data, as EDM's preconditioning, its weight and trig assume it."""
    level_mean: Number | None = None
    """Mean of the log noise level in training, -1.2 by default, or of logit_normal's logit, 0."""
    level_std: Positive | None = None
    """Standard deviation of the log noise level in training, 1.2 by default, or of the logit, 1."""
    seed: Seed = 0
    save_every: Count = 500
    """Steps between checkpoints."""
    parallel: Parallel = "jit"
    """Placement on several devices: parameters on every device (jit, pmap), or split over them
    (fsdp), which takes less memory and more communication.
    """
    devices: Count | None = None
    """Use so many devices; by default all."""
    gradient_accumulation: Count = 1
    """Take the batch in so many parts, one after the other: memory for one part is enough."""
    nonfinite: Literal["stop", "skip"] = "stop"
    """A step whose loss or gradient is not finite ends the run, its batch kept for a replay, or is
    skipped and counted.
    """
    init: str | None = None
    """Start from the parameters of this run (finished, or its latest checkpoint)."""


@dataclasses.dataclass(frozen=True)
class Distill:
    """Distil a trained run, or published weights, into a student that samples in one or two
    evaluations.
    """

    teacher: str
    """The teacher: a run, a file or folder of published weights or the name of their card, or
    module:FILE.py:FUNCTION, a function of yours that makes a model (the file is run).
    """
    run: str
    """Folder of the student's run."""
    method: MethodName = "easy_consistency"
    """How: any recipe of jaxdiff.recipes, with choices for a few thousand updates."""
    updates: Count = 2000
    """Updates in all. More than a run of one stage has made lengthen it, as in training."""
    batch: Count = 32
    """Images per update."""
    learning_rate: Positive = 1e-3
    """Rate of RAdam, after which it decays to zero by a cosine."""
    choices: dict[str, bool | int | float | str] = dataclasses.field(default_factory=dict)
    """Choices of the method, such as "q 2 stages 8" for easy_consistency; "--method NAME
    --help" lists the choices of a method. Several numbers are joined by commas: "windows 4,1".
    """
    ema: Below1 = 0.998
    """Decay of the averaged parameters that sampling uses; less at first, so that its
    half-life is at most a fifth of the updates made.
    """
    seed: Seed = 0
    save_every: Count = 500
    """Steps between checkpoints."""
    parallel: Parallel = "jit"
    """Placement on several devices: parameters on every device (jit, pmap), or split over them
    (fsdp), which takes less memory and more communication.
    """
    devices: Count | None = None
    """Use so many devices; by default all."""
    gradient_accumulation: Count = 1
    """Take the batch in so many parts, one after the other: memory for one part is enough."""
    nonfinite: Literal["stop", "skip"] = "stop"
    """A step whose loss or gradient is not finite ends the run, its batch kept for a replay, or is
    skipped and counted.
    """
    checkpoint: str | None = None
    """Instead of the finished teacher a checkpoint of its run: its step, or "latest". A teacher
    that is not finished gives its latest by default.
    """
    data: OtherData = OtherData()


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
    label: str | None = None
    """Class to sample, by its name or number; by default all classes in turn."""
    prompt: str | None = None
    """Prompt, for a text-to-image model; without --guidance it is followed loosely."""
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
class Ema:
    """Make the model of a run whose parameters are a power-function average of another width than
    those that were kept, of the snapshots of a run trained with --ema-std (arXiv 2312.02696).
    """

    run: str
    """Folder of the trained run."""
    std: Width
    """Relative width of the average: its standard deviation as a fraction of the run."""
    out: str
    """Folder for the model, a run for every other command."""
    updates: Count | None = None
    """Updates after which the average is taken, one of the snapshots; the last by default."""


@dataclasses.dataclass(frozen=True)
class Discriminate:
    """Train a discriminator that distinguishes a run's data with noise from the run's own samples
    with
    noise, for discriminator guidance: sample --discriminator FILE corrects the run's score by it.
    It is a head on the frozen features of the run's network.
    """

    run: str
    """The model, no student: a run, a file or folder of published weights or the name of their
    card, or module:FILE.py:FUNCTION, a function of yours that makes a model (the file is run).
    """
    out: str = "discriminator.npz"
    """The file."""
    count: Count = 4096
    """Images of the run's data, and as many samples of the same classes, to learn from. Of few it
    learns these by heart.
    """
    num_steps: Count = 20
    """Sampling steps of DPM-Solver++ that make a sample."""
    updates: Count = 1000
    """Updates of the discriminator."""
    batch: Count = 64
    """Images, and samples, per update, and samples made at a time."""
    learning_rate: Positive = 3e-4
    """Rate of Adam."""
    width: Count = 64
    """Hidden channels of the head."""
    low: Positive = 1e-3
    """Lowest noise level in training; they are even in their logarithm."""
    high: Positive = 152.0
    """Highest noise level in training."""
    seed: Seed = 0
    parallel: Parallel = "jit"
    """Placement on several devices: parameters on every device, or split over them (fsdp)."""
    devices: Count | None = None
    """Use so many devices; by default all."""
    checkpoint: str | None = None
    """Instead of the finished model a checkpoint of the run: its step, or "latest". A run that is
    not finished gives its latest by default.
    """
    data: OtherData = OtherData()


@dataclasses.dataclass(frozen=True)
class Tune:
    """Find the best sampler of a few evaluations for a trained run, or for an exact problem. The
    network stays as it is; the sampler is a small JSON table.
    """

    run: str | None = None
    """The model, no student: a run, a file or folder of published weights or the name of their
    card, or module:FILE.py:FUNCTION, a function of yours that makes a model (the file is run).
    """
    problem: str | None = None
    """Instead of a run, an exact problem of experiments.gym: mixture-2d, mixture-8d, gaussian."""
    nfe: tuple[Count, ...] = (5,)
    """Numbers of network evaluations, one sampler for each."""
    method: TunerName = "gs"
    """How. Levels: gits, ays, elbo, dmn (searched), ld3 (learned). Weights: s4s. Both: s4s_alt,
    bns, gs. Steps with learned intermediate times: bespoke, amed, epd. For the kernel distance to
    data, with
    noise: ggdm. Steps that depend on each sample, in a file that is used as a table is: pas (a
    solver's directions corrected), amed_predictor (intermediate times predicted from the network's
    own features).
    """
    choices: dict[str, bool | int | float | str] = dataclasses.field(default_factory=dict)
    """Choices of the method, such as "fine 80 measure l1" for gits; "--method NAME --help"
    lists the choices of a method. Several numbers are joined by commas: "discounts 1,1.15".
    """
    out: str = "runs/tuned"
    """Folder for the tables, one folder "nfe-N" for each number of evaluations."""
    solver: SolverName | None = None
    """Solver to start from; the best one by default."""
    order: Count | None = None
    """Its order."""
    pairs: Count = 256
    """Accurate trajectories to tune on; as many more are held out to choose by."""
    teacher_steps: Count = 40
    """Steps of UniPC that make an accurate trajectory."""
    updates: Count = 400
    """Updates of a method that learns."""
    batch: Several = 32
    """Trajectories per update."""
    rate: Positive = 0.02
    """Learning rate, which falls to zero."""
    patience: Count | None = None
    """Stop after so many updates without a better held-out score."""
    distance: Literal["squared", "huber", "features"] = "squared"
    """Objective: squared or pseudo-Huber distance of samples, or the squared distance of
    what a classifier trained on the run's data sees.
    """
    guidance: Number | None = None
    """Classifier-free guidance weight to tune for."""
    low: Positive | None = None
    """Lowest noise level of the baselines' grids, by default 0.002, or that of published weights.
    """
    high: Positive | None = None
    """Noise level to start from, by default 80, or that of published weights."""
    remat: bool = False
    """Recompute evaluations in the gradient pass instead of storing them: memory hardly grows with
    the number of evaluations, for a third more time (on CPU, for several times the time).
    """
    seed: Seed = 0
    parallel: Parallel = "jit"
    """Placement on several devices: parameters on every device, or split over them (fsdp)."""
    devices: Count | None = None
    """Use so many devices; by default all."""
    checkpoint: str | None = None
    """Instead of the finished model a checkpoint of the run: its step, or "latest". A run that is
    not finished gives its latest by default.
    """
    data: OtherData = OtherData()


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """Score a model's samples against real images."""

    run: str
    """The model: a run, a file or folder of published weights or the name of their card, or
    module:FILE.py:FUNCTION, a function of yours that makes a model (the file is run).
    """
    data: OtherData = OtherData()
    """Reference images; by default the part of the run's data that it was not trained on (the test
    split), or, where there is none, a third of those that it was.
    """
    reference: str | None = None
    """Reference, in place of the data: an .npz of statistics (mu and sigma of features,
    as pytorch-fid and EDM have them), or a folder, zip or .npz of images.
    """
    reference_count: Count = 5000
    """Compare with so many real images at most, chosen at random."""
    save_statistics: str | None = None
    """Write the statistics of the reference's features to this .npz, a --reference of later."""
    labels: Literal["reference", "uniform"] = "reference"
    """Classes of the samples: each as often as in the reference, or all that are there as often."""
    out: str | None = None
    """File for the report (HTML, numbers beside it as JSON); evaluation.html in the run's folder
    by default, and here for published weights.
    """
    count: Count = 1000
    """Samples."""
    batch: Count = 256
    """Samples at a time."""
    solver: SolverName | None = None
    """Solver of a teacher, dpmpp by default."""
    num_steps: tuple[Count, ...] = ()
    """Numbers of sampling steps to score: 5, 10 and 20 for a teacher, 1, 2 and 4 for a student by
    default.
    """
    table: str | None = None
    """A saved sampler table (JSON) to score, instead of solver and numbers of steps."""
    features: str = "classifier"
    """Features of the comparison: "classifier", a small one trained on other images with labels;
    "pixels"; "inception", for FID, KID and the Inception score; or a function of yours,
    "module:FILE.py:FUNCTION", of images (batch, height, width, channels), floats in [-1, 1], to
    features (batch, d).
    """
    inception_weights: str = "inception-fid"
    """Inception's weights: a file (.pth, .pt, .safetensors, .npz, .pickle) or an address; by
    default pytorch-fid's, fetched once.
    """
    inception_resize: Literal["tensorflow", "pytorch"] = "tensorflow"
    """Resizing to Inception's 299 x 299: as the distance was defined, and EDM and
    torch-fidelity compute it, or as pytorch-fid does.
    """
    guidance: Number | None = None
    """Classifier-free guidance weight."""
    discriminator: str | None = None
    """A discriminator of this run (jaxdiff discriminate), whose gradient corrects the score."""
    discriminator_weight: Number = 1.0
    """Weight of the discriminator's gradient."""
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
class Analyse:
    """Show how a model samples: the geometry of its trajectories, step by step, each number beside
    that of a Gaussian with the data's mean and covariance and of the optimal denoiser of the finite
    data set, on the same noise (arXiv 2305.19947, 2405.11326, 2506.10177).

    Models are asked without a class where they can be, since the null models know of none.
    """

    run: str | None = None
    """The model: a run, a file or folder of published weights or the name of their card, or
    module:FILE.py:FUNCTION, a function of yours that makes a model (the file is run). A student is
    shown beside its teacher, which is the model.
    """
    problem: str | None = None
    """Instead of a run, an exact problem: mixture-2d, mixture-8d, gaussian."""
    students: tuple[str, ...] = ()
    """Runs of students of this model, to be compared with it."""
    out: str | None = None
    """File for the report (HTML, numbers beside it as JSON); analysis.html in the run's folder by
    default, and here for published weights and problems.
    """
    count: Several = 128
    """Trajectories."""
    num_steps: Several = 20
    """Euler's steps of a trajectory, as the papers have them."""
    label: str | None = None
    """Analyse one class, by its name or number, against the data of this class."""
    guidance: tuple[Number, ...] = (1.0, 2.0, 4.0, 7.5)
    """Classifier-free guidance weights to compare, for models that can be guided."""
    nfe: Several = 5
    """Evaluations for which levels are recommended and solvers compared."""
    metric: Literal["sliced Wasserstein", "Frechet distance", "MMD^2"] = "sliced Wasserstein"
    """What compares states and denoised outputs of every level with data, number by number."""
    low: Positive | None = None
    """Lowest noise level, by default 0.002, or that of published weights."""
    high: Positive | None = None
    """Noise level to start from, by default 80, or that of published weights."""
    seed: Seed = 0
    checkpoint: str | None = None
    """Instead of the finished model a checkpoint of the run: its step, or "latest". A run that is
    not finished gives its latest by default.
    """
    data: OtherData = OtherData()
    """What the null models are made of: by default what the model was trained on; where that is
    not known, 2048 samples of the model itself.
    """


@dataclasses.dataclass(frozen=True)
class Demo:
    """The main job on real images: train, sample with every solver, distil, measure, report.
    Minutes on two cores.
    """

    out: str = "runs/demo"
    """Folder for the report and the runs. Finished parts found there are not made again."""
    train_updates: Count = 3000
    """Updates of the teacher."""
    method: MethodName = "easy_consistency"
    """Configuration of the distillation."""
    distill_updates: Count = 1500
    """Updates of the student."""
    count: Count = 360
    """Samples per score."""
    nfe: tuple[Count, ...] = (3, 5, 7, 11, 35)
    """Numbers of network evaluations to sample with; odd, so that solvers of two evaluations per
    step have them too.
    """
    seed: Seed = 0
    fresh: bool = False
    """Start anew: do not use what an earlier call left in the folder."""
