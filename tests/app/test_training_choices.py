"""Any network, process, prediction and schedule from the command line."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxdiff.app import config as configs
from jaxdiff.app import config_file, optimiser, snapshots
from jaxdiff.app import main as cli
from jaxdiff.app.config_network import network_named
from jaxdiff.app.load import checkpoint_state, load_model
from jaxdiff.app.methods import teacher_method
from jaxdiff.app.objective import objective
from jaxdiff.app.train import train
from jaxdiff.denoisers import description
from jaxdiff.power_average import profile
from jaxdiff.process import RectifiedFlow
from jaxdiff.training.checkpoint import save_params

pytestmark = pytest.mark.usefixtures("as_users")

NETWORK = """
import flax.linen as nn

Other = dict

class Net(nn.Module):
    width: int = 4

    @nn.compact
    def __call__(self, x, label, cond=None):
        h = nn.Dense(self.width)(x.reshape(len(x), -1)) + nn.Dense(self.width)(label[:, None])
        return nn.Dense(x[0].size)(nn.tanh(h)).reshape(x.shape)

class Narrow(nn.Module):
    @nn.compact
    def __call__(self, x, label, cond=None):
        return nn.Dense(3)(x)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Data, a network of the user's own, and a run of a flow with snapshots."""
    made = tmp_path_factory.mktemp("choices")
    images = np.random.default_rng(0).integers(0, 256, (12, 4, 4), np.uint8)
    np.savez(made / "data.npz", images=images)
    (made / "net.py").write_text(NETWORK)
    command = ["train", "images", "--run", str(made / "run"), "--data.path", str(made / "data.npz"),
               "--network", f"module:{made / 'net.py'}:Net", "--network.options", "width", "5",
               "--process", "flow", "--levels", "logit_normal", "--weighting", "min_snr",
               "--schedule", "inverse_sqrt", "--decay-after", "2", "--weight-decay", "0.1",
               "--ema", "0.5", "0.0", "0.9",
               "--ema-std", "0.05", "0.1", "--snapshot-every", "2", "--clip", "None",
               "--updates", "6", "--batch", "4", "--warmup", "1"]  # fmt: skip
    assert cli.main(command) == 0
    return made


def test_a_run_is_sampled_by_its_own_process_and_prediction(folder, tmp_path):
    model = load_model(folder / "run")
    made = description(model.denoiser)
    assert (made["prediction"], type(made["process"])) == ("flow", RectifiedFlow)
    assert made["network"].module.width == 5
    said = json.loads((folder / "run" / "config.json").read_text())
    assert said["network"]["kind"] == "Module" and said["process"] == "flow"
    y = np.ones((2, 4, 4, 1), np.float32)
    value = made["network"](model.params, y / 3, np.full(2, 2 / 3, np.float32), None)
    np.testing.assert_allclose(model.denoiser(y, 2.0), y / 3 - 2 / 3 * value, rtol=1e-4)
    out = tmp_path / "samples"
    sample = ["sample", "--run", str(folder / "run"), "--count", "2", "--num-steps", "2"]
    assert cli.main([*sample, "--out", str(out)]) == 0
    with np.load(out / "samples.npz") as file:
        assert file["images"].shape == (2, 4, 4, 1)


def test_an_average_of_another_width_is_a_run(folder, tmp_path, capsys):
    out = tmp_path / "ema"
    command = ["ema", "--run", str(folder / "run"), "--std", "0.1", "--out", str(out)]
    assert cli.main(command) == 0
    assert "average of relative width 0.1 of 6 snapshots" in capsys.readouterr().out
    found = snapshots.snapshots(folder / "run")
    assert list(found) == [(n, std) for n in (2, 4, 6) for std in (0.05, 0.1)]
    kept, _ = snapshots.load_params(found[6, 0.1])
    model = load_model(out)
    assert model.metadata["ema_std"] == 0.1 and model.metadata["process"] == "flow"
    for a, b in zip(jax.tree.leaves(model.params), jax.tree.leaves(kept), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)  # a kept one is itself
    assert cli.main(command) == 2
    assert "holds a run: give another folder" in capsys.readouterr().err
    assert cli.main([*command[:-1], str(tmp_path / "x"), "--updates", "3"]) == 2
    assert "no snapshot is of 3 updates; there are [2, 4, 6]" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_plain_averages_are_kept_side_by_side(folder, tmp_path, capsys):
    """That of decay 0 is the last parameters; sampling uses the first of --ema."""

    def same(a, b):  # to rounding, of which programs differ in the last bit
        return jax.tree.all(jax.tree.map(lambda x, y: np.allclose(x, y, atol=1e-7), a, b))

    def made(*options, out="made"):
        command = ["ema", "--run", str(folder / "run"), "--out", str(tmp_path / out), *options]
        return cli.main(command), capsys.readouterr()

    code, said = made("--decay", "0.0")
    assert code == 0 and "the average of decay 0 after 6 updates" in said.out
    model, run = load_model(tmp_path / "made"), load_model(folder / "run")
    assert model.metadata["ema_decay"] == 0.0
    saved = folder / "run" / "checkpoints"
    config, known = config_file.load_known(folder / "run")
    state = checkpoint_state(saved, teacher_method(config, known["metadata"]), None)
    averages = state.ema["student"]
    assert same(model.params, state.params["student"])
    assert same(run.params, averages["average"]) and not same(run.params, model.params)
    assert made("--decay", "0.9", out="other")[0] == 0
    assert same(load_model(tmp_path / "other").params, averages["decay_0.9"])
    for options, text in (
        (("--decay", "0.5"), "keeps no average of decay 0.5; others: 0.0 0.9"),
        (("--decay", "0.9", "--updates", "6"), "--updates would have no effect"),
        (("--decay", "0.9", "--std", "0.1"), "either --std, a width, or --decay"),
        ((), "either --std, a width, or --decay"),
    ):
        code, said = made(*options, out="no")
        assert code == 2 and text in said.err and not (tmp_path / "no").exists()


def test_one_decay_is_read_where_several_may_be():
    """As in the configurations of earlier versions."""
    values = config_file.to_dict(configs.Train(run="r")) | {"ema": 0.9}
    assert config_file.from_dict(configs.Train, values).ema == (0.9,)
    for decays, said in (((), "--ema needs a decay"), ((0.9, 0.9), "names a decay twice")):
        with pytest.raises(ValueError, match=said):
            snapshots.check_snapshots(configs.Train(run="r", ema=decays))


def test_averages_are_those_of_the_whole_trajectory(tmp_path):
    """Of parameters known after every update, the average of a width between is the weighted sum
    by its profile, to a hundredth of their spread.
    """
    steps = np.arange(1, 401)
    path = np.stack([np.cos(steps / 40), steps / 400], axis=1)
    found = {}
    for n in range(20, 401, 20):
        for std in (0.05, 0.1):
            name = tmp_path / f"{n}-{std:g}.npz"
            save_params(name, {"p": profile(steps, n, std) @ path}, {})
            found[n, std] = name
    made, used = snapshots.reconstructed(found, 0.075, 400, {"p": np.zeros(2, np.float32)})
    assert used == 40
    np.testing.assert_allclose(made["p"], profile(steps, 400, 0.075) @ path, atol=5e-3)


def test_rates_by_hand():
    def rates(**given):
        config = configs.Train("r", updates=100, learning_rate=1.0, warmup=10, **given)
        return [float(optimiser.learning_rate(config)(n)) for n in (0, 5, 10, 25, 100)]

    np.testing.assert_allclose(rates(schedule="constant"), [0, 0.5, 1, 1, 1])
    falls = rates(schedule="inverse_sqrt", decay_after=25)
    np.testing.assert_allclose(falls, [0, 0.5, 1, 1, 0.5])
    np.testing.assert_allclose(rates()[:3] + rates()[4:], [0, 0.5, 1, 0], atol=1e-6)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"prediction": "eps"}, "--prediction eps has no meaning with --process edm"),
        ({"levels": "uniform"}, "--levels uniform has no meaning with --process edm"),
        ({"process": "flow", "prediction": "edm", "levels": "log_normal"},
         "--process flow would have no effect with --prediction edm"),
        ({"process": "vp", "level_mean": 0.0}, "--level-mean would have no effect: uniform times"),
        ({"snr_limit": 3.0}, "--snr-limit would have no effect: only --weighting min_snr"),
        ({"sigmoid_bias": 0.0}, "--sigmoid-bias would have no effect"),
        ({"process": "flow", "sigma_data": 1.0}, "--sigma-data would have no effect: predict"),
        ({"decay_after": 3}, "--decay-after would have no effect: the schedule cosine"),
        ({"schedule": "inverse_sqrt", "decay_after": 4}, "--decay-after 4 is not below"),
        ({"snapshot_every": 3}, "--snapshot-every would have no effect: there is no --ema-std"),
        ({"ema_std": (0.1, 0.1)}, "--ema-std names a width twice"),
        ({"ema_std": (0.3,)}, "--ema-std must be above 0 and at most 0.2886, not 0.3"),
        ({"network": configs.DiT(patch=3)}, "patches of 3x3 need a height and a width divisible"),
        ({"network": configs.Module("no.py:Net")}, "there is no file no.py"),
    ],
)  # fmt: skip
def test_wrong_combinations_are_refused_before_anything_is_written(given, said, folder, tmp_path):
    data = configs.Data(str(folder / "data.npz"))
    config = configs.Train(str(tmp_path / "r"), data, updates=4, batch=4, **given)
    with pytest.raises((ValueError, FileNotFoundError), match=said):
        train(config, progress=False)
    assert not (tmp_path / "r").exists()


def test_modules_that_do_not_fit_are_named(folder):
    from jaxdiff.app.network import build_network

    source = f"{folder / 'net.py'}:Net"
    with pytest.raises(ValueError, match="has no field 'depth'; it has width"):
        build_network(configs.Module(source, {"depth": 3}), 0)
    with pytest.raises(ValueError, match="is not a class of flax.linen modules"):
        build_network(configs.Module(source.replace(":Net", ":Other")), 0)
    config = configs.Train("r", network=configs.Module(source.replace(":Net", ":Narrow")))
    with pytest.raises(ValueError, match=r"Narrow makes \(2, 3\) of samples \(2, 5\)"):
        teacher_method(config, {"classes": 0, "shape": [5], "sigma_data": 0.5})
    assert network_named("module:net.py:Net").source == f"{Path('net.py').absolute()}:Net"
    with pytest.raises(ValueError, match="mlp, text or module:FILE.py:CLASS, not cnn"):
        network_named("cnn")


@pytest.mark.parametrize("process", ["vp", "cosine", "flow", "trig"])
def test_a_process_has_its_own_prediction(process):
    made = objective(configs.Train("r", process=process))
    assert (
        made.prediction == {"vp": "eps", "cosine": "eps", "flow": "flow", "trig": "flow"}[process]
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("network", "process"),
    [*(("mlp", p) for p in ("edm", "vp", "cosine", "flow", "trig")), ("unet", "flow"),
     ("dit", "vp")],
)  # fmt: skip
def test_every_network_and_every_process_is_learned(network, process, tmp_path):
    """Images that are one grey each, -0.5 or 0.5, come back within a tenth from level 0.2."""
    grey = np.where(np.arange(32) % 2, 191, 64).astype(np.uint8)
    np.save(tmp_path / "data.npy", np.broadcast_to(grey[:, None, None], (32, 4, 4)))
    small = {"unet": {"channels": 8, "embedding": 16}, "dit": {"width": 32, "depth": 1},
             "mlp": {"width": 32, "depth": 1, "embedding": 16}}[network]  # fmt: skip
    config = configs.Train(
        str(tmp_path / "r"), configs.Data(str(tmp_path / "data.npy")),
        type(network_named(network))(**small), process, updates=600, batch=32, warmup=50,
        ema=(0.9,),
    )  # fmt: skip
    model = train(config, progress=False)
    x0 = np.where(np.arange(16) % 2, 0.498, -0.498).astype(np.float32)
    x0 = np.broadcast_to(x0[:, None, None, None], (16, 4, 4, 1))
    noise = np.random.default_rng(1).standard_normal(x0.shape).astype(np.float32)
    answer = model.denoiser(x0 + 0.2 * noise, 0.2)
    assert np.sqrt(np.mean((answer - x0) ** 2)) < 0.1
