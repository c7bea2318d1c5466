"""Runs that go on, are looked at while they train, are lengthened or started from another."""

import dataclasses
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxdiff.app import config as configs
from jaxdiff.app import config_file, methods, models, network
from jaxdiff.app import folder as folders
from jaxdiff.app import main as cli
from jaxdiff.app.data import read_data
from jaxdiff.app.distill import distill
from jaxdiff.app.latents import FILE
from jaxdiff.app.load import load_model
from jaxdiff.app.load_run import load_run
from jaxdiff.app.methods import teacher_method
from jaxdiff.app.network import build_network
from jaxdiff.app.train import train
from jaxdiff.networks import from_linen
from jaxdiff.training import checkpoint as checkpoints

pytestmark = pytest.mark.usefixtures("as_users")


class Flat(nn.Module):
    """A network that compiles in no time: one layer, as wide as ``channels`` says."""

    channels: int
    log_variance: bool = False

    @nn.compact
    def __call__(self, x, label, cond=None):
        given = jnp.concatenate([x.reshape(len(x), -1), label[:, None]], axis=1)
        h = nn.Dense(self.channels)(given)
        return nn.Dense(x[0].size)(h).reshape(x.shape)


BUILD = build_network


def build_flat(config, classes, *shown):
    module = Flat(config.channels)
    return module, from_linen(module)


@pytest.fixture(scope="module", autouse=True)
def small_networks():
    with pytest.MonkeyPatch.context() as patch:
        for module in (methods, models, network):
            patch.setattr(module, "build_network", build_flat)
        yield


def save(path, images, classes=2):
    np.savez(path, images=images, labels=np.arange(len(images)) % classes)
    return path


IMAGES = np.random.default_rng(0).integers(0, 256, (12, 4, 4), np.uint8)


def requested(run, data, **fields):
    kinds = {"updates": 4, "batch": 4, "save_every": 2, "warmup": 1, "ema": (0.5,)}
    kinds |= {"network": configs.UNet(4), "data": configs.Data(str(data))}
    return configs.Train(str(run), **kinds | fields)


def begin(run, data, **fields):
    return train(requested(run, data, **fields), progress=False)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with data and a finished run of 4 updates with checkpoints after 2 and 4."""
    folder = tmp_path_factory.mktemp("made")
    begin(folder / "run", save(folder / "data.npz", IMAGES))
    return folder


@pytest.fixture
def run(made, tmp_path):
    """A copy of the run; and the data."""
    shutil.copytree(made / "run", tmp_path / "run")
    return tmp_path / "run", made / "data.npz"


def same_tree(a, b):
    return jax.tree.all(jax.tree.map(np.array_equal, a, b))


def unfinish(run):
    (run / "model.npz").unlink()
    shutil.rmtree(run / "checkpoints" / "4")


def test_a_run_is_a_model_in_python(run):
    run, _ = run
    found, own = load_run(run), load_model(run)
    assert same_tree(found.params, own.params) and same_tree(found.denoiser, own.denoiser)
    assert found.shape == (4, 4, 1) and found.classes == 2 and found.prediction == "edm"
    assert found.metadata["name"] == "run" and found.metadata["updates"] == 4
    assert found.levels == pytest.approx((0.002, 80.0)) and found.bounds == (-1.0, 1.0)
    early = load_run(run, checkpoint=2)
    assert same_tree(early.params, load_model(run, "2").params)
    assert not same_tree(early.params, found.params)
    with pytest.raises(FileNotFoundError, match="no folder of a run"):
        load_run(run / "checkpoints")


def test_data_are_known_by_their_contents(run, tmp_path, monkeypatch):
    """Moved data go on, by any spelling; changed ones do not, of a finished run neither."""
    run, data = run
    (tmp_path / "there").mkdir()
    moved = shutil.copy(data, tmp_path / "there" / "other.npz")
    monkeypatch.chdir(tmp_path)
    for path in (moved, "there/other.npz", "./there/other.npz"):
        begin(run, path, updates=4)
    assert load_model(run).metadata["data"]["path"] == "./there/other.npz"
    changed = IMAGES.copy()
    changed[7] = 255 - changed[7]
    for images, what in ((changed, "images: "), (IMAGES[:6], "number of images: 12 there, 6")):
        with pytest.raises(ValueError, match=f"begun with other data .{what}"):
            begin(run, save(tmp_path / "x.npz", images))
    with pytest.raises(ValueError, match="begun with other data .classes: 2 there, 3 here"):
        begin(run, save(tmp_path / "x.npz", IMAGES, 3))
    with pytest.raises(ValueError, match="another configuration .learning_rate: 0.003 there"):
        begin(run, data, learning_rate=1e-3)
    with pytest.raises(ValueError, match="another configuration .data: {'flip': False} there"):
        flipped = dataclasses.replace(requested(run, data), data=configs.Data(str(data), flip=True))
        train(flipped, progress=False)


def test_a_wrong_first_try_refuses_nothing(tmp_path, made, monkeypatch):
    """What was never trained is no run: nothing is written before all is checked, and a
    configuration that has no checkpoint is replaced.
    """
    run, data = tmp_path / "run", made / "data.npz"
    for module in (methods, models, network):
        monkeypatch.setattr(module, "build_network", BUILD)
    for wrong in (
        {"network": configs.UNet(4, (1,), attention=(3,), embedding=4)},
        {"batch": 6, "gradient_accumulation": 4},
    ):
        with pytest.raises(ValueError, match="attention|--batch 6 does not divide"):
            begin(run, data, **wrong)
        assert not run.exists()
    config_file.save(requested(run, data, batch=12), run)
    (run / "checkpoints").mkdir()
    (run / FILE).write_bytes(b"of another")
    with folders.opened(requested(run, data), {"metadata": {}, "data": {"count": 3}}):
        assert config_file.load(run).batch == 4 and not (run / FILE).exists()
    for count, kept in ((3, True), (4, False)):  # the same first try again, and with other data
        (run / FILE).write_bytes(b"its own")
        with folders.opened(requested(run, data), {"metadata": {}, "data": {"count": count}}):
            assert (run / FILE).exists() is kept


def test_a_run_in_training_is_that_of_its_newest_checkpoint(run, tmp_path, capsys):
    run, data = run
    finished = load_model(run)
    latest = load_model(run, "latest")
    assert same_tree(latest.params, finished.params)
    unfinish(run)
    sample = ["sample", "--run", str(run), "--out", str(tmp_path / "s"), "--count", "2"]
    assert cli.main([*sample, "--num-steps", "1"]) == 0
    assert f"{run}: the checkpoint after 2 of 4 updates" in capsys.readouterr().out
    early = load_model(run)
    assert early.shape == (4, 4, 1) and early.metadata["class_names"] == ("0", "1")
    assert not same_tree(early.params, finished.params)
    assert cli.main([*sample, "--checkpoint", "3"]) == 2
    assert "no checkpoint of step 3 in" in capsys.readouterr().err
    assert cli.main([*sample, "--checkpoint", "newest"]) == 2
    assert '"latest" or the step of one' in capsys.readouterr().err
    again = begin(run, data)  # and goes on to the same end
    assert same_tree(again.params, finished.params)


def test_a_finished_run_is_lengthened(run, capsys):
    """It goes on from its last checkpoint, with the rates of a run of so many updates."""
    run, data = run
    capsys.readouterr()
    longer = train(requested(run, data, updates=6))
    assert "lengthened from 4 updates to 6" in capsys.readouterr().out
    assert checkpoints.latest_step(run / "checkpoints") == 6 and longer.metadata["updates"] == 6
    assert load_model(run).metadata["updates"] == 6
    with pytest.raises(ValueError, match="updates: 6 there, 4 here"):
        begin(run, data, updates=4)
    shutil.rmtree(run / "checkpoints")
    with pytest.raises(ValueError, match="without its checkpoints"):
        begin(run, data, updates=8)


def test_a_run_starts_from_the_parameters_of_another(run, tmp_path):
    run, data = run
    known = load_model(run).params
    config = requested(tmp_path / "new", data, init=str(run), updates=1)
    method = teacher_method(config, load_model(run).metadata, known)
    (start,) = method.init(jax.random.key(5)).values()
    assert same_tree(start, known)
    other = configs.UNet(channels=8)
    with pytest.raises(ValueError, match="--init .*is of another network"):
        begin(tmp_path / "new", data, init=str(run), network=other)
    assert not (tmp_path / "new").exists()


def test_one_command_works_in_a_folder(run):
    """Another gets the name of the holder; one that reads is not kept out; a lock that was left is
    none."""
    run, data = run
    with folders.held(run):
        with pytest.raises(OSError, match=r"process \d+ on .* is working in this folder"):
            begin(run, data)
        assert load_model(run).classes == 2
    (run / "lock.json").write_text('{"process": 1, "machine": "x", "since": "y"}')
    begin(run, data)
    assert not (run / "lock.json").exists()


def test_models_and_data_are_one_short_line(run):
    run, data = run
    model = load_model(run)
    assert repr(model).startswith("Model(teacher: 4x4x1, 2 classes, ") and len(repr(model)) < 80
    assert repr(read_data(configs.Data(str(data)), False)) == (
        "Dataset('data-train': 12 of 4x4x1, 2 classes)"
    )


@pytest.mark.slow
@pytest.mark.parametrize("method", ["easy_consistency", "progressive_distillation"])
def test_a_student_in_training_is_that_of_its_newest_checkpoint(run, tmp_path, method, capsys):
    """Of one stage, and of several, each made of the one before."""
    teacher, student = run[0], tmp_path / "student"
    config = configs.Distill(
        str(teacher), str(student), method, 6, 4, ema=0.5, save_every=1,
        choices={} if method == "easy_consistency" else {"first": 4, "last": 1},
    )  # fmt: skip
    distill(config, progress=False)
    finished, stages = load_model(student), folders.stage_checkpoints(student)
    assert (len(stages) == 1) == (method == "easy_consistency")
    last, steps = stages[-1]
    (student / "model.npz").unlink()
    same = load_model(student)
    assert same_tree(same.params, finished.params) and same.metadata["samplers"].keys() == (
        finished.metadata["samplers"].keys()
    )
    before = 6 - steps[-1]
    early = load_model(student, str(before + steps[-2]), progress=True)
    assert f"{student}: the checkpoint after 5 of 6 updates" in capsys.readouterr().out
    assert early.student and not same_tree(early.params, finished.params)
    if before:
        first = load_model(student, str(before))
        assert first.student and not same_tree(first.params, early.params)
        with pytest.raises(ValueError, match="in 3 stages, .*cannot be lengthened"):
            distill(dataclasses.replace(config, updates=7), progress=False)
    else:
        longer = distill(dataclasses.replace(config, updates=7), progress=False)
        assert longer.metadata["updates"] == 7 and not same_tree(longer.params, finished.params)
