"""Training presets for ``jaxdiff train PRESET``.

A preset is a configuration; every field can be overridden on the command line.
"""

import tyro

from jaxdiff.app.config import Data, Latent, Measure, TextUNet, Train, UNet

digits = Train(run="runs/digits")

images = Train(run=tyro.MISSING, data=Data(path=tyro.MISSING))

# At 28x28 a class is distinguished at higher noise than where digits get their edges. By dpmpp in
# 12 steps 98 % of the samples are read as the class requested with guidance 2 and 83 % without;
# with half the updates at log levels N(-1.2, 1.2^2) it was 79 % and 58 %.
mnist_small = Train(
    run="runs/mnist-small",
    data=Data("mnist.npz"),
    network=UNet(channels=16, multipliers=(1, 2, 2)),
    warmup=100,
    level_mean=-0.4,
    level_std=1.4,
)

# Place and class are decided where a picture can hardly be seen: at noise levels of 2 and more.
text = Train(
    run="runs/text",
    data=Data("digits", compose=20_000, size=16),
    network=TextUNet(channels=(16, 32, 64)),
    updates=6000,
    sigma_data=0.4,
    level_mean=0.3,
    level_std=1.4,
)

mnist = Train(
    run="runs/mnist",
    data=Data("mnist.npz", size=32),
    network=UNet(channels=32, multipliers=(1, 2, 2, 2), embedding=128),
    updates=20_000,
    batch=128,
    learning_rate=1e-3,
    warmup=1000,
    ema=(0.9995,),
)

cifar10 = Train(
    run="runs/cifar10",
    data=Data("cifar10-train-32x32.zip", flip=True),
    network=UNet(
        128, (2, 2, 2), blocks=4, attention=(16,), dropout=0.13, embedding=512, dtype="bfloat16"
    ),
    updates=400_000,
    batch=512,
    learning_rate=1e-3,
    warmup=20_000,
    ema=(0.9999,),
)

# Digits have classes, which a restoration network does without: --data.labels auto is for both.
_shown = Data(labels="none")
enlarge = Train(run="runs/super", data=_shown, measure=Measure("super"))
deblur = Train(run="runs/deblur", data=_shown, measure=Measure("blur"))
inpaint = Train(run="runs/inpaint", data=_shown, measure=Measure("inpaint"))
colour = Train(
    run=tyro.MISSING,
    data=Data(path=tyro.MISSING, labels="none"),
    measure=Measure("colour", noise=(0.0, 0.1)),
)

# Latents have a standard deviation of 1, twice that of images: so have the levels.
latent = Train(
    run="runs/latent",
    latent=Latent(),
    sigma_data=1.0,
    level_mean=-0.5,
)

PRESETS: dict[str, tuple[str, Train]] = {
    "digits": ("scikit-learn's 8x8 digits: 3000 updates, about a minute on two CPU cores.", digits),
    "images": (
        "your own images: give --data.path and --run; the small network of digits, to be enlarged.",
        images,
    ),
    "mnist-small": (
        "MNIST or Fashion-MNIST from an .npz, at 28x28: 3000 updates, five minutes on two CPU "
        "cores. Sample it with --num-steps 12 --guidance 2.",
        mnist_small,
    ),
    "text": (
        "text to image without a download: coloured digits, composed with captions of class, "
        "position, size, thickness and colour, at 16x16; 15 minutes on two CPU cores, after which "
        "samples follow all of these but the class, which they do in two of three. --data.path "
        "mnist.npz or a fashion_mnist.npz (with --data.nouns) for others. Sample it with --prompt "
        '"a thick red seven, upper left" --guidance 3.',
        text,
    ),
    "mnist": (
        "MNIST or Fashion-MNIST from an .npz, at 32x32: hours on CPU, minutes on a GPU.",
        mnist,
    ),
    "super": (
        "a network shown a smaller image, to enlarge it: the digits, or your --data.path. "
        "Use it by jaxdiff restore --task super --methods network,bicubic,mmps.",
        enlarge,
    ),
    "deblur": ("a network shown a blurred image: restore --task blur.", deblur),
    "inpaint": ("a network shown an image with a hole: restore --task inpaint.", inpaint),
    "colour": (
        "a network shown a grey image, to colour it: give --data.path and --run; restore --task "
        "colour.",
        colour,
    ),
    "latent": (
        "latent diffusion of the digits, or your --data.path: an autoencoder, whose scale is "
        "measured, then a network on its latents; --latent.autoencoder takes one that is there.",
        latent,
    ),
    "cifar10": ("CIFAR-10 from an EDM-format zip, a 50 M parameter network: for GPUs.", cifar10),
}
