"""Pictures as prompts of a run of texts: an IP-Adapter by the command line."""

import jax
import numpy as np
import pytest
from PIL import Image

from jaxdiff.app import config as configs
from jaxdiff.app import main as cli
from jaxdiff.app import picture_prompt
from jaxdiff.app.adapt import adapt
from jaxdiff.networks import IPAdapter

SMALL = ["--network.channels", "8", "--network.head-width", "8", "--network.text-width", "8",
         "--network.text-depth", "1", "--data.compose", "40", "--data.size", "8"]  # fmt: skip


@pytest.fixture(autouse=True)
def as_users_run():
    with (
        jax.enable_x64(False),
        jax.numpy_dtype_promotion("standard"),
        jax.numpy_rank_promotion("allow"),
    ):
        yield


def test_features_are_pixels_or_a_function_of_a_file(tmp_path):
    pictures = np.linspace(-1, 1, 2 * 4 * 4 * 3).reshape(2, 4, 4, 3).astype(np.float32)
    network = IPAdapter((8,), image_width=48)
    made = picture_prompt.read(network, pictures, "pixels")
    np.testing.assert_array_equal(made, pictures.reshape(2, 48))
    (tmp_path / "f.py").write_text("def mean(x):\n    return x.mean(axis=(1, 2))\n")
    name = f"module:{tmp_path / 'f.py'}:mean"
    made = picture_prompt.features_named(name)(pictures)
    np.testing.assert_allclose(made, pictures.mean(axis=(1, 2)), rtol=1e-6)
    with pytest.raises(ValueError, match="reads 48 features .* has 3: give those"):
        picture_prompt.read(network, pictures, name)
    with pytest.raises(ValueError, match="--features is pixels or module"):
        picture_prompt.features_named("inception")
    with pytest.raises(ValueError, match="many places"):
        picture_prompt.read(network.clone(depth=1), pictures, "pixels")
    with pytest.raises(ValueError, match="too many for features"):
        picture_prompt.features_named("pixels")(np.zeros((1, 128, 128, 3), np.float32))


def test_features_without_effect_are_refused(tmp_path):
    given = configs.Adapt("nowhere", str(tmp_path / "x"), kind="t2i", features="module:f.py:f")
    with pytest.raises(ValueError, match="--features would have no effect: t2i reads none"):
        adapt(given, progress=False)


@pytest.mark.slow
def test_a_run_of_texts_is_prompted_with_a_picture(tmp_path, capsys):
    run, file = str(tmp_path / "run"), str(tmp_path / "ip.safetensors")
    assert cli.main(["train", "text", "--run", run, "--updates", "2", "--batch", "4", *SMALL]) == 0
    short = ["--updates", "3", "--batch", "4", "--learning-rate", "0.1"]
    command = ["adapt", "--run", run, "--kind", "ip", *short, "--out"]
    assert cli.main([*command, str(tmp_path / "folder")]) == 2
    assert "is saved as a .safetensors file" in capsys.readouterr().err
    assert cli.main([*command, file]) == 0, capsys.readouterr().err
    assert f"--prompt TEXT --adapter {file} --control IMAGE" in capsys.readouterr().out
    for name, value in {"dark": 0, "light": 255}.items():
        Image.fromarray(np.full((8, 8, 3), value, np.uint8)).save(tmp_path / f"{name}.png")
    sample = ["sample", "--run", run, "--count", "2", "--num-steps", "2", "--guidance", "2"]
    sample += ["--prompt", "a red seven"]
    made = {}
    for name, given in {
        "plain": [], "none": [f"{file}:0", "dark"], "dark": [file, "dark"], "light": [file, "light"]
    }.items():  # fmt: skip
        more = (
            ["--adapter", given[0], "--control", str(tmp_path / f"{given[1]}.png")] if given else []
        )
        assert cli.main([*sample, "--out", str(tmp_path / name), *more]) == 0, capsys.readouterr()
        made[name] = np.load(tmp_path / name / "samples.npz")["images"]
    np.testing.assert_allclose(made["none"], made["plain"], atol=1e-5)
    assert np.abs(made["dark"] - made["light"]).max() > 1e-3
    (tmp_path / "f.py").write_text("def mean(x):\n    return x.mean(axis=(1, 2))\n")
    features = ["--features", f"module:{tmp_path / 'f.py'}:mean"]
    shown = ["--control", str(tmp_path / "dark.png")]
    capsys.readouterr()
    for given, said in (
        (["--adapter", file], "give it by --control IMAGE"),
        (["--adapter", file, *shown, *features], "reads 192 features"),
        (shown, "--control would have no effect"),
        (features, "--features would have no effect"),
    ):
        assert cli.main([*sample, "--out", str(tmp_path / "x"), *given]) == 2
        assert said in capsys.readouterr().err, said
