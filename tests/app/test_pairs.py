"""Runs that are shown a picture beside x: pairs of pictures, and measurements of texts' images."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from jaxdiff.app import config as configs
from jaxdiff.app import main as cli
from jaxdiff.app.load import load_model
from jaxdiff.app.train import train
from jaxdiff.networks import MLP, Beside, DiT, UNet, from_linen, init
from jaxdiff.networks.beside import widened_parameters

pytestmark = pytest.mark.usefixtures("as_users")
NETWORK = ["--network.channels", "8", "--network.multipliers", "1"]
SHORT = ["--updates", "3", "--batch", "4", "--learning-rate", "0.1"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """24 grey images of two classes, and a coloured picture to each of them."""
    place, rng = tmp_path_factory.mktemp("pairs"), np.random.default_rng(0)
    for i in range(24):
        name = f"{'ab'[i % 2]}/{i}.png"
        for folder, shape in (("images", (8, 8)), ("pictures", (8, 8, 3)), ("large", (16, 16, 3))):
            (place / folder / name).parent.mkdir(parents=True, exist_ok=True)
            values = rng.integers(0, 256, shape).astype(np.uint8)
            Image.fromarray(values).save(place / folder / name)
    return place


def data_of(folders, pictures="pictures", **more):
    return configs.Data(str(folders / "images"), pairs=str(folders / pictures), **more)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"pictures": "large"}, "are 16x16x3, and the images 8x8x1: --data.size gives both one"),
        ({"measure": configs.Measure("super")}, "go neither with --measure nor with --latent"),
        ({"path": "digits"}, "--data.pairs would have no effect: the digits are in memory"),
        ({"pictures": "none"}, "no such file or folder"),
    ],
)
def test_pairs_that_do_not_go_with_images(folders, tmp_path, changes, said):
    data = data_of(folders, changes.get("pictures", "pictures"))
    data = configs.Data(changes.get("path", data.path), pairs=data.pairs)
    config = configs.Train(str(tmp_path / "run"), data=data, measure=changes.get("measure"))
    with pytest.raises((ValueError, FileNotFoundError), match=said):
        train(config, progress=False)
    assert not (tmp_path / "run").exists()


def test_a_network_that_is_shown_a_picture_starts_as_one_that_is_not():
    plain = MLP(width=8, depth=1, embedding=4, flatten=True)
    wide = Beside(plain, 3)
    shape = (2, 2, 2)
    start = init(plain, jax.random.key(0), shape)
    start = jax.tree.map(lambda a: a + 0.1, start)  # so that no output is 0
    wanted = jax.eval_shape(lambda: init(wide, jax.random.key(1), shape))
    made = widened_parameters(start, wanted, 2, 3)
    assert jax.tree.map(jnp.shape, made) == jax.tree.map(jnp.shape, wanted)
    x = np.linspace(-1, 1, 16, dtype=np.float32).reshape(2, *shape)
    label = np.ones(2, np.float32)
    beside = {"beside": np.full((2, 2, 2, 3), 0.7, np.float32)}
    own, other = from_linen(plain)(start, x, label), from_linen(wide)(made, x, label, beside)
    assert np.abs(own).max() > 0.05
    np.testing.assert_allclose(other, own, atol=1e-6)
    larger = jax.eval_shape(
        lambda: init(Beside(plain.clone(width=12), 3), jax.random.key(1), shape)
    )
    assert jax.tree.leaves(widened_parameters(start, larger, 2, 3))[0].shape != jnp.shape(
        jax.tree.leaves(larger)[0]
    )


@pytest.mark.parametrize("network", [UNet(4, (1,), embedding=4), DiT(2, 8, 1, 2)])
def test_every_network_is_widened(network):
    shapes = [
        jax.eval_shape(lambda m=m: init(m, jax.random.key(0), (4, 4, 2)))
        for m in (network, Beside(network, 3))
    ]
    start = jax.tree.map(lambda s: jnp.ones(s.shape, s.dtype), shapes[0])
    made = widened_parameters(start, shapes[1], 2, 3)
    assert jax.tree.map(jnp.shape, made) == jax.tree.map(jnp.shape, shapes[1])
    assert sum(a.sum() for a in jax.tree.leaves(made)) == sum(
        a.size for a in jax.tree.leaves(start)
    )


def test_a_start_of_other_classes_is_refused_by_name(tmp_path):
    config = configs.Train(
        str(tmp_path / "run"), data=configs.Data(labels="none"), init="digits",
        measure=configs.Measure("inpaint"),
    )  # fmt: skip
    with pytest.raises(ValueError, match="--init digits has 10 classes, and the data no classes"):
        train(config, progress=False)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_run_of_pairs_is_trained_sampled_exported_and_adapted(folders, tmp_path, capsys):
    run, out = str(tmp_path / "run"), str(tmp_path / "out")
    pairs = ["--data.path", str(folders / "images"), "--data.pairs", str(folders / "pictures")]
    command = ["train", "images", "--run", run, *pairs, *NETWORK, *SHORT]
    assert cli.main(command) == 0, capsys.readouterr().err
    model = load_model(run)
    assert model.pairs == 3 and model.classes == 2
    sample = ["sample", "--run", run, "--out", out, "--count", "2", "--num-steps", "2"]
    assert cli.main(sample) == 2
    assert "is shown a picture beside x: give it by --control IMAGE" in capsys.readouterr().err
    assert cli.main([*sample, "--control", str(folders / "large/a/0.png")]) == 2
    assert "is 16x16, and the picture that this model is shown must be 8x8" in (
        capsys.readouterr().err
    )
    made = []
    for number in (0, 2):
        picture = ["--control", str(folders / f"pictures/a/{number}.png"), "--guidance", "2"]
        assert cli.main([*sample, *picture]) == 0, capsys.readouterr().err
        made.append(np.load(f"{out}/samples.npz"))
    assert np.abs(made[0]["images"] - made[1]["images"]).max() > 1e-4
    assert made[0]["labels"].tolist() == [0, 1]
    file = str(tmp_path / "lora.safetensors")
    command = ["adapt", "--run", run, "--rank", "1", *SHORT, "--out", file]
    assert cli.main(command) == 0, capsys.readouterr().err
    assert cli.main([*sample, *picture, "--adapter", file]) == 0, capsys.readouterr().err
    student = str(tmp_path / "student")
    command = ["distill", "--teacher", run, "--run", student, "--updates", "2", "--batch", "4"]
    assert cli.main([*command, "--method", "easy_consistency_distillation"]) == 0
    assert f"next: jaxdiff sample --run {student} --control IMAGE" in capsys.readouterr().out
    made = []
    for number in (0, 2):
        picture = ["--control", str(folders / f"pictures/a/{number}.png")]
        assert cli.main([*sample[:2], student, *sample[3:7], *picture]) == 0
        made.append(np.load(f"{out}/samples.npz")["images"])
    assert np.abs(made[0] - made[1]).max() > 1e-4
    capsys.readouterr()
    numbers = ["--count", "8", "--num-steps", "1", "--features", "pixels"]
    for which in (run, student):
        assert cli.main(["evaluate", "--run", which, *numbers]) == 0
        said = "samples: pictures beside the images and classes of the reference"
        assert said in capsys.readouterr().out
    tuned = ["--nfe", "3", "--pairs", "16", "--batch", "2", "--updates", "1"]
    assert cli.main(["tune", "--run", run, "--out", f"{out}/tuned", *tuned]) == 0
    plain = ["train", "images", "--run", f"{out}/plain", *pairs[:2], *NETWORK, *SHORT]
    assert cli.main(plain) == 0
    capsys.readouterr()
    for command in (["evaluate", "--run"], ["distill", "--run", f"{out}/s", "--teacher"]):
        assert cli.main([*command, f"{out}/plain", *pairs[2:]]) == 2
        assert "--data.pairs would have no effect" in capsys.readouterr().err


@pytest.mark.slow
def test_a_controlnet_reads_the_pictures_of_pairs(folders, tmp_path, capsys):
    run, file = str(tmp_path / "run"), str(tmp_path / "c.safetensors")
    own = ["--data.path", str(folders / "images")]
    assert cli.main(["train", "images", "--run", run, *own, *NETWORK, *SHORT]) == 0
    pairs = ["--data.pairs", str(folders / "pictures")]
    assert cli.main(["adapt", "--run", run, *SHORT, *pairs, "--out", file]) == 2
    assert "--data.pairs would have no effect: neither --kind lora" in capsys.readouterr().err
    command = ["adapt", "--run", run, "--kind", "controlnet", *SHORT, *pairs, "--out", file]
    assert cli.main(command) == 0, capsys.readouterr().err
    sample = ["sample", "--run", run, "--out", str(tmp_path / "out"), "--count", "2"]
    made = []
    for number in (0, 2):
        picture = ["--control", str(folders / f"pictures/a/{number}.png"), "--num-steps", "2"]
        assert cli.main([*sample, *picture, "--adapter", file]) == 0, capsys.readouterr().err
        made.append(np.load(tmp_path / "out/samples.npz")["images"])
    assert np.abs(made[0] - made[1]).max() > 1e-4
