"""Configurations of restoration, images given measurements of them, and of editing."""

import dataclasses
from typing import TYPE_CHECKING, Literal

from jaxdiff.app.restoration_methods import METHODS
from jaxdiff.app.restoration_tasks import NOISE, TASKS
from jaxdiff.ranges import Count, NotNegative, Number, Positive, PositiveFraction, Seed, Several

if TYPE_CHECKING:  # names of the lists of tasks and methods
    TaskName = str
    RestorationName = str
else:
    TaskName = Literal[tuple(TASKS)]
    RestorationName = Literal[tuple(METHODS)]


@dataclasses.dataclass(frozen=True)
class Restore:
    """Restore images from measurements with a run as the prior: inpainting, super-resolution,
    deblurring, colour, compressed sensing and others, by any method for inverse problems.

    The images, your own or the run's test data, are measured and restored several times each. A
    table compares the methods: PSNR and SSIM to the truth, of single samples and of their mean; the
    misfit, the root mean square of the measurement minus that of the restored image, which is to be
    the noise; and the spread of the samples of one measurement. Numbers are of what is saved,
    images within the range of images.
    """

    run: str
    """The model: a run, a file or folder of published weights or the name of their card, or
    module:FILE.py:FUNCTION, a function of yours that makes a model (the file is run); or a student
    of a run that is shown the measurement (jaxdiff train super).
    """
    images: tuple[str, ...] = ()
    """Your images: files of pictures, folders, zips, .npz or .npy; the option's name may be left
    out, before all options or after one of a single value. By default some of the run's own test
    data.
    """
    out: str = "restored"
    """Folder for the scores (restored.json), the images (restored.npz) and the picture
    (restored.png).
    """
    task: TaskName = "inpaint"
    """The measurement. inpaint: all but a box in the middle. pixels: some pixels. super, bicubic,
    decimate: fewer pixels, by averages, by the bicubic filter, or every so many. blur: a Gaussian.
    motion: a straight motion, periodic. colour: the grey image. sensing: some numbers of a
    Walsh-Hadamard transform. projections: random projections. phase: magnitudes of the Fourier
    transform. jpeg: the quantisation of JPEG.
    """
    method: RestorationName | None = None
    """How to restore: by default network, the run's own, where that is shown the measurement
    (jaxdiff train super); ddnm without noise, dps where the measurement is not linear, else mmps.
    bicubic enlarges, and restores nothing.
    """
    methods: str | None = None
    """Several methods to compare, with commas between, or "all" that the task and the noise allow.
    """
    noise: NotNegative = NOISE
    """Standard deviation of the measurement's noise, of images in [-1, 1]."""
    share: PositiveFraction | None = None
    """inpaint: of height and width, the box that is hidden, 0.5. pixels, sensing, projections: of
    what could be measured, what is, 0.25.
    """
    factor: Several | None = None
    """super, bicubic, decimate: how many pixels become one along each axis, 2."""
    width: Positive | None = None
    """blur: standard deviation in pixels, 1. motion: its length, an odd number of pixels, 5."""
    angle: Number | None = None
    """motion: in degrees from along the rows of the image, 0."""
    quality: Count | None = None
    """jpeg: 1 to 100, 10."""
    measured: bool = False
    """Your images are measurements already: small, blurred, with a hole. There is no truth then;
    say what is known of their --noise.
    """
    samples: Count = 4
    """Restorations of each measurement."""
    count: Count = 4
    """Images of the run's own test data."""
    size: Count | None = None
    """Crop your images to squares and resize them to size x size."""
    grayscale: bool = False
    """Turn your images to grey."""
    range: tuple[Number, Number] | None = None
    """The values of your images that are black and white; by default 0 and 255, or for floats of
    an .npz 0 and 1, or -1 and 1.
    """
    num_steps: Count | None = None
    """Sampling steps: 50, or a student's, 1."""
    low: Positive | None = None
    """Lowest noise level before 0; by default the model's."""
    high: Positive | None = None
    """Noise level to start from; by default the model's."""
    features: str | None = None
    """module:FILE.py:FUNCTION, a function of yours of images (n, height, width, channels) in [-1,
    1] to features (n, d); the table then has the distance of a restoration's features to the
    truth's. The file is run.
    """
    particles: Several | None = None
    """tds, fps_smc: particles for each measurement, of which the samples are some; 64."""
    label: str | None = None
    """Class of the images, by its name or number; by default none, and their own of a model that
    cannot do without.
    """
    prompt: str | None = None
    """Text of the images, of a run of texts; by default none."""
    batch: Count = 64
    """Samples at a time. They do not depend on it."""
    seed: Seed = 0
    checkpoint: str | None = None
    """Instead of the finished model a checkpoint of the run: its step, or "latest". A run that is
    not finished gives its latest by default.
    """


@dataclasses.dataclass(frozen=True)
class Edit:
    """Edit images with a run: by noise and denoising (SDEdit), by a latent of one class or model
    decoded by another (DDIB), or along the difference of two flows (FlowEdit).
    """

    run: str
    """The model that the images are edited to, no student: a run, a file or folder of published
    weights or the name of their card, or module:FILE.py:FUNCTION, a function of yours that makes a
    model (the file is run).
    """
    images: tuple[str, ...] = ()
    """Your images: files of pictures, folders, zips, .npz or .npy; the option's name may be left
    out, before all options or after one of a single value. By default some of the run's own test
    data.
    """
    out: str = "edited"
    """Folder for the numbers (edited.json), the images (edited.npz) and the picture (edited.png).
    """
    method: Literal["sdedit", "ddib", "flow_edit"] = "sdedit"
    """How: sdedit (arXiv 2108.01073), ddib (2203.08382), flow_edit (2412.08629)."""
    label: str | None = None
    """Class to edit to, by its name or number; by default none."""
    source: str | None = None
    """ddib, flow_edit: another model, of what the images are; by default the run itself."""
    source_label: str | None = None
    """ddib, flow_edit: class of the images, by its name or number; by default none."""
    guidance: Number | None = None
    """Classifier-free guidance weight of the class to edit to."""
    strength: PositiveFraction | None = None
    """sdedit, flow_edit: share of the steps that are taken, 0.5. More edits more."""
    samples: Count = 1
    """Edits of each image; ddib has one."""
    count: Count = 4
    """Images of the run's own test data."""
    size: Count | None = None
    """Crop your images to squares and resize them to size x size."""
    grayscale: bool = False
    """Turn your images to grey."""
    range: tuple[Number, Number] | None = None
    """The values of your images that are black and white; by default 0 and 255, or for floats of
    an .npz 0 and 1, or -1 and 1.
    """
    num_steps: Count = 50
    """Steps of the whole grid."""
    low: Positive | None = None
    """Lowest noise level above 0; by default the model's."""
    high: Positive | None = None
    """Highest noise level; by default the model's."""
    seed: Seed = 0
    checkpoint: str | None = None
    """Instead of the finished model a checkpoint of the run: its step, or "latest". A run that is
    not finished gives its latest by default.
    """
