"""Score distillation of images by the command line: what it ends at, writes and refuses."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.app import main as cli
from jaxdiff.arrays import expand
from jaxdiff.distill.parts.student import Student
from jaxdiff.recipes.choices import choices, chosen
from jaxdiff.recipes.scenes import OF_IMAGES, Images
from jaxdiff.training.loop import fit

MEANS, STD = jnp.asarray([-0.5, 0.25], jnp.float32), 0.5


def gaussian(params, y, level, cond):
    """A denoiser of a Gaussian for each of two classes, as a network with a learned shift."""
    v, mean = STD**2, expand(MEANS[cond], y) + params["shift"].sum()
    s = expand(level, y)
    return mean + v / (v + s**2) * (y - mean)


def images(steps):
    zero = {"shift": jnp.zeros((2, 2), jnp.float32)}
    own = Student(gaussian, zero, prediction="x0", classes=2)
    return Images(own.denoiser(zero), own, 4, (2, 2, 1), steps)


def test_sds_ends_at_the_mode():
    """Every image of a class at its mean, wherever it began: no sample has so little spread."""
    label = np.array([0, 1, 0, 1], np.int32)
    method = OF_IMAGES["sds"].makes(images(400), rate=0.05)
    start = method.init(jax.random.key(0))["student"]
    assert start.shape == (4, 2, 2, 1) and 0.5 < np.std(start) < 1.5
    state = fit(method, lambda step: {"label": label}, num_updates=400, progress=False)
    wanted = np.broadcast_to(MEANS[label][:, None, None, None], start.shape)
    apart = np.sqrt(np.mean((state.params["student"] - wanted) ** 2))
    assert apart < STD / 5, apart  # the rest is the noise of the last updates


def test_choices_are_those_of_the_methods():
    own = {"spread", "rate", "first", "last", "weight"}
    assert set(choices(OF_IMAGES["sds"])) == own
    more = {"fake_rate", "late", "late_last", "rank", "fake_weight"}
    assert set(choices(OF_IMAGES["vsd"])) == own | more
    assert all(choice.meaning for m in OF_IMAGES.values() for choice in choices(m).values())
    for name, method in OF_IMAGES.items():
        given = chosen(name, method, {"spread": 0, "weight": "uniform_weight"})
        start = method.makes(images(10), **given).init(jax.random.key(0))["student"]
        assert not np.any(start)
    with pytest.raises(ValueError, match=r"levels from 0\.5 of the time end later, not at 0\.2"):
        OF_IMAGES["sds"].makes(images(10), first=0.5, last=0.2)
    with pytest.raises(ValueError, match="rate of sds should be float above 0"):
        chosen("sds", OF_IMAGES["sds"], {"rate": 0})


@contextlib.contextmanager
def as_for_users():
    """Commands run as they do for users."""
    with (
        jax.enable_x64(False),
        jax.numpy_dtype_promotion("standard"),
        jax.numpy_rank_promotion("allow"),
    ):
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A tiny teacher."""
    place = tmp_path_factory.mktemp("runs") / "teacher"
    small = ["--network.channels", "8", "--network.multipliers", "1", "--updates", "4"]
    with as_for_users():
        assert cli.main(["train", "digits", "--run", str(place), "--batch", "8", *small]) == 0
    return str(place)


def optimise(run, out, *more):
    with as_for_users():
        return cli.main(["optimise", "--run", run, "--out", str(out), "--count", "3", *more])


@pytest.mark.slow
def test_images_are_optimised(run, tmp_path, capsys):
    for out, more in {
        "sds": ["--updates", "3"],
        "longer": ["--updates", "6"],
        "guided": ["--updates", "3", "--guidance", "7.5"],
        "vsd": ["--updates", "3", "--method", "vsd", "--label", "3", "--choices", "rank", "2"],
    }.items():
        assert optimise(run, tmp_path / out, *more) == 0, capsys.readouterr().err
        assert (tmp_path / out / "samples.png").stat().st_size > 100
    made = {p.name: np.load(p / "samples.npz") for p in tmp_path.iterdir()}
    read = {name: dict(archive) for name, archive in made.items()}
    for archive in read.values():
        assert archive["images"].shape == (3, 8, 8, 1) and np.abs(archive["images"]).max() <= 1
    np.testing.assert_array_equal(read["sds"]["labels"], [0, 1, 2])
    np.testing.assert_array_equal(read["vsd"]["labels"], [3, 3, 3])
    for other in ("longer", "guided"):
        assert np.abs(read["sds"]["images"] - read[other]["images"]).max() > 1e-3


@pytest.mark.slow
def test_what_has_no_meaning_is_refused(run, tmp_path, capsys):
    for more, said in {
        ("--choices", "rank", "2"): "sds has no choice 'rank'; it has: ",
        ("--label", "ten"): "label ten is not one of 0..9",
        ("--method", "vsd", "--choices", "rank", "-1"): "rank of vsd should be int at least 0",
        ("--count", "0"): "--count must be at least 1",
    }.items():
        assert optimise(run, tmp_path / "a", "--updates", "1", *more) == 2
        assert said in capsys.readouterr().err
    assert not (tmp_path / "a" / "samples.npz").exists()
