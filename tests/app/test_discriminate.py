"""Discriminator guidance by the command line: trained, saved, used, refused with another run."""

import jax
import numpy as np
import pytest

from jaxdiff.app import config as configs
from jaxdiff.app import main as cli
from jaxdiff.app.data import read_data
from jaxdiff.app.discriminate import guided_by, head_of
from jaxdiff.app.generate import generate
from jaxdiff.app.load import load_model
from jaxdiff.app.samplers import make_sampler

pytestmark = pytest.mark.usefixtures("as_users")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two tiny teachers, and a discriminator of the first."""
    place = tmp_path_factory.mktemp("runs")
    for seed in ("0", "1"):
        small = ["--network.channels", "8", "--network.multipliers", "1", "--updates", "4"]
        command = ["train", "digits", "--run", str(place / seed), "--seed", seed, "--batch", "8"]
        assert cli.main([*command, *small]) == 0
    command = ["discriminate", "--run", str(place / "0"), "--out", str(place / "d.npz")]
    command += ["--count", "32", "--num-steps", "2", "--updates", "30", "--batch", "16"]
    assert cli.main([*command, "--learning-rate", "0.01"]) == 0
    return place


def sample(folder, out, *more, run="0"):
    command = ["sample", "--run", str(folder / run), "--out", str(out), "--count", "3"]
    return cli.main([*command, "--num-steps", "2", *more])


@pytest.mark.slow
def test_samples_are_corrected(folder, tmp_path):
    """Weight 0 is the run itself; weight 1 is its denoiser and s^2 times the logits' gradient."""
    file = str(folder / "d.npz")
    for out, more in {
        "plain": [],
        "none": ["--discriminator", file, "--discriminator-weight", "0"],
        "guided": ["--discriminator", file],
    }.items():
        assert sample(folder, tmp_path / out, *more) == 0
    read = {o: np.load(tmp_path / o / "samples.npz")["images"] for o in ("plain", "none", "guided")}
    np.testing.assert_allclose(read["none"], read["plain"], atol=1e-5)
    assert np.abs(read["guided"] - read["plain"]).max() > 1e-6
    model = load_model(folder / "0")
    D = guided_by(file, model, model.denoiser, 1.0)
    y = jax.random.normal(jax.random.key(0), (2, 8, 8, 1))
    s, cond = 0.7, np.array([1, 2])
    logits, params = D.args[1].func, D.args[1].args[0]
    slope = jax.grad(lambda y: logits(params, y, s, cond).sum())(y)
    np.testing.assert_allclose(
        D(y, s, cond), model.denoiser(y, s, cond) + s**2 * slope, rtol=1e-4, atol=1e-6
    )


@pytest.mark.slow
def test_it_learns_to_tell_data_from_samples(folder):
    """A teacher of four updates samples what is far from digits; its own network stays."""
    model = load_model(folder / "0")
    logits, init = head_of(model, 64)
    D = guided_by(folder / "d.npz", model, model.denoiser, 1.0)
    params = D.args[1].args[0]
    for a, b in zip(jax.tree.leaves(params["trunk"]), jax.tree.leaves(model.params), strict=True):
        np.testing.assert_array_equal(a, b)
    data = read_data(configs.Data(), progress=False)
    real = data.images[:64].astype(np.float32) / 127.5 - 1
    labels = np.asarray(data.labels[:64])
    config = configs.Sample(str(folder / "0"), num_steps=2)
    made = generate(make_sampler(model, config), 64, model.shape, labels, progress=False)
    seen, given = (logits(params, x, 0.1, labels) for x in (real, made))
    assert seen.mean() > given.mean()
    fresh = {"trunk": model.params, "head": init(jax.random.key(0))}
    apart = logits(fresh, real, 0.1, labels).mean() - logits(fresh, made, 0.1, labels).mean()
    assert seen.mean() - given.mean() > apart


@pytest.mark.slow
def test_what_does_not_go_together_is_refused(folder, tmp_path, capsys):
    file = str(folder / "d.npz")
    assert sample(folder, tmp_path / "a", "--discriminator", file, run="1") == 2
    assert "was trained on the model" in capsys.readouterr().err
    assert sample(folder, tmp_path / "a", "--discriminator-weight", "2") == 2
    assert "there is no --discriminator" in capsys.readouterr().err
    other = str(folder / "0" / "model.npz")
    assert sample(folder, tmp_path / "a", "--discriminator", other) == 2
    assert "is not a discriminator that jaxdiff discriminate saved" in capsys.readouterr().err
    assert not (tmp_path / "a").exists()
