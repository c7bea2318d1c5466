"""Pictures that steer a run's model: trained by the command line, shown, refused."""

import numpy as np
import pytest
from PIL import Image

from jaxdiff.app import config as configs
from jaxdiff.app import control
from jaxdiff.app import main as cli
from jaxdiff.app.adapt import adapt
from jaxdiff.app.inspect import inspect
from jaxdiff.conditioning.guidance import Prompts
from jaxdiff.data.edges import edges

pytestmark = pytest.mark.usefixtures("as_users")


def test_edges_are_where_the_gradient_is_long():
    images = np.zeros((1, 5, 6, 3), np.uint8)
    images[:, :, 3:] = 255
    expected = np.zeros((1, 5, 6, 1))
    expected[:, :, 2:4] = 1  # central differences of half the range on both sides of the step
    np.testing.assert_array_equal(edges(images), expected)
    np.testing.assert_array_equal(edges(images / 127.5 - 1), expected)
    assert not edges(images, threshold=0.5).any()
    with pytest.raises(ValueError, match="edges are of images"):
        edges(images[0])


def test_a_picture_is_read_as_it_is_or_by_its_edges(tmp_path):
    values = np.zeros((4, 4, 3), np.uint8)
    values[1, 2] = 255, 0, 0
    Image.fromarray(values).save(tmp_path / "a.png")
    path = str(tmp_path / "a.png")
    read = control._read(path, (4, 4), 3)
    np.testing.assert_array_equal(read, values[None].astype(np.float32) / 255)
    assert control._read(path, (4, 4), 1)[0, 1, 2, 0] == pytest.approx(1 / 3)
    clear = Image.fromarray(np.zeros((4, 2, 4), np.uint8))
    clear.save(tmp_path / "clear.png")  # on white, as it is in data
    assert (control._read(str(tmp_path / "clear.png"), (4, 2), 1) == 1).all()
    turned = Image.fromarray(np.zeros((4, 2), np.uint8)).getexif()
    turned[0x112] = 6
    Image.fromarray(np.zeros((4, 2), np.uint8)).save(tmp_path / "turned.jpg", exif=turned)
    assert control._read(str(tmp_path / "turned.jpg"), (2, 4), 3).shape == (1, 2, 4, 3)
    np.testing.assert_array_equal(control._read(f"edges:{path}", (4, 4), 1), edges(values[None]))
    with pytest.raises(ValueError, match="a.png is 4x4, and the picture .* must be 8x4: resize"):
        control._read(path, (8, 4), 3)
    with pytest.raises(ValueError, match="pictures of 2 channels"):
        control._read(path, (4, 4), 2)
    with pytest.raises(FileNotFoundError):
        control._read(str(tmp_path / "none.png"), (4, 4), 3)


def test_the_picture_stands_beside_any_condition():
    picture = np.ones((2, 4, 4, 1), np.float32)
    labels = np.array([1, 2])
    made = control.shown(labels, picture)
    assert set(made) == {"classes", "control"} and made["classes"] is labels
    assert set(control.shown(None, picture)) == {"control"}
    assert set(control.shown({"text": labels}, picture)) == {"text", "control"}
    both = Prompts({"tokens": labels}, {"tokens": labels})
    assert set(control.shown(both.positive, picture)) == {"tokens", "control"}


def test_options_without_effect_are_refused(tmp_path):
    for given, said in (
        ({"kind": "controlnet", "rank": 3}, "--rank would have no effect"),
        ({"kind": "t2i", "layers": ("*",)}, "--layers would have no effect: t2i is a network"),
        ({"kind": "t2i", "token": "x"}, "--token would have no effect"),
    ):
        with pytest.raises(ValueError, match=said):
            adapt(configs.Adapt("nowhere", str(tmp_path / "x"), **given), progress=False)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_run_is_steered_by_edges(tmp_path, capsys):
    run, file = str(tmp_path / "run"), str(tmp_path / "c.safetensors")
    small = ["--network.channels", "8", "--network.multipliers", "1", "--updates", "4"]
    assert cli.main(["train", "digits", "--run", run, "--batch", "8", *small]) == 0
    short = ["--updates", "3", "--batch", "4", "--learning-rate", "0.1"]
    command = ["adapt", "--run", run, "--kind", "controlnet", *short, "--out"]
    assert cli.main([*command, file]) == 0, capsys.readouterr().err
    assert f"--adapter {file} --control edges:IMAGE" in capsys.readouterr().out
    assert "steers a U-Net: UNetControl" in inspect(configs.Inspect(file))
    image = np.zeros((8, 8, 3), np.uint8)
    image[2:6, 2:6] = 255
    Image.fromarray(image).save(tmp_path / "a.png")
    sample = ["sample", "--run", run, "--count", "3", "--num-steps", "2", "--guidance", "2"]
    shown = ["--control", f"edges:{tmp_path / 'a.png'}"]
    made = {}
    for name, given in {
        "plain": [], "none": ["--adapter", f"{file}:0", *shown],
        "shown": ["--adapter", file, *shown],
    }.items():  # fmt: skip
        assert cli.main([*sample, "--out", str(tmp_path / name), *given]) == 0
        made[name] = np.load(tmp_path / name / "samples.npz")
    np.testing.assert_allclose(made["none"]["images"], made["plain"]["images"], atol=1e-5)
    assert np.abs(made["shown"]["images"] - made["plain"]["images"]).max() > 1e-3
    np.testing.assert_array_equal(made["shown"]["labels"], made["plain"]["labels"])
    capsys.readouterr()
    for given, said in (
        (["--adapter", file], "give it by --control IMAGE"),
        (shown, "--control would have no effect"),
        (["--adapter", file, file, *shown], "is a second network"),
    ):
        assert cli.main([*sample, "--out", str(tmp_path / "x"), *given]) == 2
        assert said in capsys.readouterr().err
    assert cli.main([*command, str(tmp_path / "folder")]) == 2
    assert "is saved as a .safetensors file" in capsys.readouterr().err
    assert cli.main(["adapt", "--run", run, "--kind", "t2i", *short, "--out", file + "2"]) == 2
    assert "needs a UNet2DCondition" in capsys.readouterr().err
