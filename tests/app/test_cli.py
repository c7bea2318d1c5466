"""The command line as a user meets it: configurations, errors, and every command on a small run."""

import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest

from jaxdiff import __version__
from jaxdiff.app import config as configs
from jaxdiff.app import config_file
from jaxdiff.app import main as cli
from jaxdiff.app.distill import history
from jaxdiff.app.generate import generate
from jaxdiff.app.load import load_model
from jaxdiff.app.methods import class_reward
from jaxdiff.app.network import build_network
from jaxdiff.app.samplers import GRIDS, make_sampler

pytestmark = pytest.mark.usefixtures("as_users")

STEPS = ["--updates", "30", "--batch", "8", "--ema", "0.5"]


def test_a_configuration_survives_the_file(tmp_path):
    for config in (
        configs.Train(
            run="r", data=configs.Data("x.npz", size=16), network=configs.UNet(16, (1, 2, 2))
        ),
        configs.Distill(teacher="t", run="r", method="consistency_training"),
    ):
        config_file.save(config, tmp_path)
        assert config_file.load(tmp_path) == config
        assert [p.name for p in tmp_path.iterdir()] == ["config.json"]


def test_damaged_configurations_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="not a run"):
        config_file.load(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match="damaged"):
        config_file.load(tmp_path)
    with pytest.raises(ValueError, match=r"no field 'update' in Train; 'updates'\?"):
        config_file.from_dict(configs.Train, {"run": "r", "update": 3})
    with pytest.raises(ValueError, match="run"):
        config_file.from_dict(configs.Train, {"updates": 3})


def test_help_and_unknown_commands(capsys):
    assert cli.main([]) == 0
    assert "jaxdiff demo" in capsys.readouterr().out
    assert cli.main(["--version"]) == 0
    out = capsys.readouterr().out
    assert f"jaxdiff {__version__}\n" in out and f"jax {jax.__version__}\n" in out
    assert cli.main(["trian"]) == 2
    assert "did you mean 'train'?" in capsys.readouterr().err
    for command in cli.COMMANDS:
        with pytest.raises(SystemExit) as left:
            cli.main([command, "--help"])
        assert left.value.code == 0
    out = capsys.readouterr().out
    assert "Classifier-free guidance weight" in out and "--distill-updates" in out
    with pytest.raises(SystemExit) as left:
        cli.main(["sample", "--run", "x", "--solvr", "euler"])
    assert left.value.code == 2
    assert "--solver" in capsys.readouterr().err


def test_a_student_goes_on_with_its_teacher_and_data_alone(folder, tmp_path, capsys):
    """Wherever they lie; a teacher that was trained anew is another one, also when all is done."""
    import shutil

    from jaxdiff.training import checkpoint

    teacher, student = tmp_path / "moved", tmp_path / "student"
    shutil.copytree(folder / "teacher", teacher)
    shutil.copytree(folder / "student", student)
    data = shutil.copy(folder / "data.npz", tmp_path / "data.npz")
    model = load_model(teacher)
    gone = model.metadata | {"data": model.metadata["data"] | {"path": str(tmp_path / "gone.npz")}}
    checkpoint.save_params(teacher / "model.npz", model.params, gone)
    distil = ["distill", "--teacher", str(teacher), "--run", str(student), *STEPS]
    assert cli.main(distil) == 2
    assert "if they have been moved, give --data.path" in capsys.readouterr().err
    distil += ["--data.path", str(data)]
    assert cli.main(distil) == 0
    finished = load_model(student)
    (student / "model.npz").unlink()  # then it is that of its newest checkpoint
    newest = load_model(student)
    assert newest.metadata["samplers"] == finished.metadata["samplers"]
    assert jax.tree.all(jax.tree.map(np.array_equal, newest.params, finished.params))
    other = jax.tree.map(lambda p: p + 0.01, model.params)
    checkpoint.save_params(teacher / "model.npz", other, gone)
    assert cli.main(distil) == 2
    assert "begun with other parameters of its --teacher" in capsys.readouterr().err
    with np.load(data) as file:
        np.savez(data, **{**file, "images": 255 - file["images"]})
    assert cli.main(distil) == 2
    assert "does not hold what the run was trained on (images: " in capsys.readouterr().err


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small data set, a teacher trained on it and its student, by the command line."""
    folder = tmp_path_factory.mktemp("runs")
    random = np.random.default_rng(0)
    labels = np.arange(48) % 3
    images = np.clip(60.0 * labels[:, None, None] + random.normal(60, 20, (48, 8, 8)), 0, 255)
    np.savez(folder / "data.npz", images=images.astype(np.uint8), labels=labels)
    small = ["--network.channels", "8", "--network.multipliers", "1", "--network.embedding", "16"]
    data = ["--data.path", str(folder / "data.npz")]
    teacher, student = str(folder / "teacher"), str(folder / "student")
    assert cli.main(["train", "images", "--run", teacher, *data, *small, *STEPS]) == 0
    assert cli.main(["distill", "--teacher", teacher, "--run", student, *STEPS]) == 0
    return folder


def test_runs_hold_what_they_need(folder):
    for name, kind in (("teacher", configs.Train), ("student", configs.Distill)):
        assert isinstance(config_file.load(folder / name), kind)
        assert (folder / name / "model.npz").exists()
        assert [row["step"] for row in history(folder / name)][-1] == 30


@pytest.mark.slow
def test_sampling_is_independent_of_the_batch(folder, capsys):
    def sample(*more):
        out = folder / "samples"
        command = [
            "sample",
            "--run",
            str(folder / "teacher"),
            "--out",
            str(out),
            "--count",
            "6",
            *more,
        ]
        assert cli.main(command if "--table" in more else [*command, *ddim]) == 0
        return np.load(out / "samples.npz")["images"]

    ddim = ["--solver", "ddim", "--num-steps", "3"]  # a table has its own
    whole = sample("--batch", "6")
    assert whole.shape == (6, 8, 8, 1) and np.abs(whole).max() <= 1
    np.testing.assert_allclose(sample("--batch", "4"), whole, atol=2e-6)
    assert "ddim" in capsys.readouterr().out
    saved = ["--table", str(folder / "samples" / "sampler.json")]
    np.testing.assert_allclose(sample("--batch", "6", *saved), whole, atol=2e-6)
    one = sample("--batch", "6", "--label", "1", "--guidance", "2.0")
    assert np.abs(one - whole).max() > 1e-3


@pytest.mark.slow
def test_students_sample_and_are_scored(folder, capsys):
    run = str(folder / "student")
    assert (
        cli.main(
            [
                "sample",
                "--run",
                run,
                "--out",
                str(folder / "s1"),
                "--count",
                "4",
                "--num-steps",
                "2",
            ]
        )
        == 0
    )
    assert "consistency" in capsys.readouterr().out
    command = [
        "evaluate",
        "--run",
        run,
        "--count",
        "24",
        "--num-steps",
        "1",
        "--features",
        "pixels",
    ]
    assert cli.main(command) == 0
    out = capsys.readouterr().out
    assert "Frechet distance" in out and "real images" in out
    numbers = json.loads((folder / "student" / "evaluation.json").read_text())
    (scores,) = numbers["scores"].values()
    assert scores["nfe"] == 1 and scores["Frechet distance"]["real_data"]["samples"] == 16


def test_errors_come_before_work_and_say_what_to_do(folder, tmp_path, capsys):
    def fails(*arguments):
        assert cli.main([str(a) for a in arguments]) == 2
        return capsys.readouterr().err

    teacher, student = folder / "teacher", folder / "student"
    assert "not a run" in fails("sample", "--run", tmp_path / "none")
    assert "another configuration (updates: 30 there, 7 here)" in fails(
        "train", "images", "--run", teacher, "--data.path", folder / "data.npz", "--updates", "7",
        "--batch", "8", "--ema", "0.5", "--network.channels", "8", "--network.multipliers", "1",
        "--network.embedding", "16",
    )  # fmt: skip
    assert "is itself a student" in fails("distill", "--teacher", student, "--run", tmp_path / "x")
    assert "label 3 is not one of 0..2" in fails(
        "sample", "--run", teacher, "--label", 3, "--out", tmp_path
    )
    assert "low < high" in fails(
        "sample", "--run", teacher, "--low", 5, "--high", 1, "--out", tmp_path
    )
    missing = fails(
        "train", "images", "--run", tmp_path / "y", "--data.path", tmp_path / "nothing.npz"
    )
    assert "nothing.npz" in missing and not (tmp_path / "y").exists()
    unfinished = tmp_path / "unfinished"
    config_file.save(configs.Train(run=str(unfinished)), unfinished)
    assert "not finished" in fails("sample", "--run", unfinished)
    (tmp_path / "file").write_text("")
    assert "file" in fails("train", "digits", "--run", tmp_path / "file" / "run", "--updates", "1")


def test_names_of_grids_are_those_that_are_chosen_from():
    import typing

    assert set(typing.get_args(configs.GridName)) == set(GRIDS)


def test_presets_build_their_networks():
    """Every preset's network takes an image of the size its data have."""
    from jaxdiff.app.presets import PRESETS
    from jaxdiff.app.text import words
    from jaxdiff.data.words import words_of
    from jaxdiff.networks.parameters import count_parameters, init

    sizes = {
        "digits": (8, 8, 1), "images": (8, 8, 3), "mnist-small": (28, 28, 1), "mnist": (32, 32, 1),
        "cifar10": (32, 32, 3), "text": (16, 16, 3), "super": (8, 8, 1), "deblur": (8, 8, 1),
        "inpaint": (8, 8, 1), "colour": (8, 8, 3), "latent": (4, 4, 4),
    }  # fmt: skip
    assert set(sizes) == set(PRESETS)
    said = words(words_of(["a red seven"]))
    for name, (_, preset) in PRESETS.items():
        own = said if name == "text" else None
        classes = 0 if preset.measure or own else 10
        module, _ = build_network(preset.network, classes, preset.measure, sizes[name], own)
        shapes = jax.eval_shape(lambda m=module, s=sizes[name]: init(m, jax.random.key(0), s))
        assert count_parameters(shapes) > 1e5


@pytest.mark.slow
@pytest.mark.parametrize(
    "method",
    ["mean_flow", "sfd_v", "trajectory_operator", "knowledge_distillation", "guided_distillation"],
)
def test_students_of_every_kind_are_saved_and_sampled(folder, tmp_path, method):
    """Two labels, conditioning numbers, layers between blocks, stored pairs with labels, stages:
    what was trained is what is sampled, whatever it is made of.
    """
    run, out = str(tmp_path / "student"), tmp_path / "samples"
    steps = ["--updates", "12", "--batch", "8", "--ema", "0.5"]
    distil = ["distill", "--teacher", str(folder / "teacher"), "--run", run, "--method", method]
    assert cli.main([*distil, *steps]) == 0
    sample = ["sample", "--run", run, "--out", str(out), "--count", "4", "--num-steps", "1"]
    assert cli.main(sample) == 0
    images = np.load(out / "samples.npz")["images"]
    assert images.shape == (4, 8, 8, 1) and np.isfinite(images).all()
    given = "guidance" in load_model(run).metadata["samplers"]["1"]
    assert cli.main([*sample, "--guidance", "2.0"]) == (0 if given else 2)
    if not given:  # it has not learnt what it is without a class
        return
    guided = np.load(out / "samples.npz")["images"]
    assert np.abs(guided - images).max() > 1e-6


def test_the_demo_refuses_a_student_that_it_could_not_score(tmp_path, capsys):
    out = tmp_path / "demo"
    assert cli.main(["demo", "--out", str(out), "--method", "ddgan"]) == 2
    assert "one by ddgan takes at least 4: choose another --method" in capsys.readouterr().err
    assert not out.exists()


def test_choices_are_those_of_the_recipe(folder, tmp_path, capsys):
    distil = ["distill", "--teacher", str(folder / "teacher"), "--run", str(tmp_path / "student")]
    assert cli.main([*distil, "--choices", "stagess", "8"]) == 2
    assert "has no choice 'stagess'; it has: stages, q, c" in capsys.readouterr().err
    assert not (tmp_path / "student").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "factors"), [("diff_instruct", ("0.0", "5.0")), ("sim", ("5.0",))]
)
def test_a_reward_is_a_classifiers(folder, tmp_path, method, factors, capsys):
    """Its metric is logged, and it moves the student; a factor below 0 is refused."""
    made = []
    for factor in factors:
        run = str(tmp_path / factor)
        distil = ["distill", "--teacher", str(folder / "teacher"), "--run", run]
        distil += ["--method", method, "--updates", "6", "--batch", "8", "--ema", "0.5"]
        assert cli.main([*distil, "--choices", "reward", factor]) == 0, capsys.readouterr().err
        made.append(load_model(run).params)
        logged = any("reward" in key for row in history(run) for key in row)
        assert logged == (factor == "5.0")
    leaves = [jax.tree.leaves(params) for params in made]
    assert len(made) == 1 or not all(map(np.array_equal, *leaves))
    capsys.readouterr()
    assert (
        cli.main([*distil[:4], str(tmp_path / "x"), *distil[5:], "--choices", "reward", "-1"]) == 2
    )
    assert f"reward of {method} should be float at least 0" in capsys.readouterr().err


def test_a_reward_is_the_log_probability_of_the_class():
    from jaxdiff.data.dataset import to_float
    from jaxdiff.data.digits import load_digits

    data = load_digits("train", limit=400)
    reward = class_reward(data, 0)
    x, right = to_float(data.images[:64]), np.asarray(data.labels[:64])
    each = np.stack([np.asarray(reward(x, np.full(64, c))) for c in range(10)])
    np.testing.assert_allclose(np.exp(each).sum(0), 1.0, rtol=1e-5)
    assert (each.argmax(0) == right).mean() > 0.9


def test_a_run_is_exported(folder, tmp_path, capsys):
    from jaxdiff.sampling.export import load_sampler

    out = str(tmp_path / "s.npz")
    command = ["export", "--run", str(folder / "teacher"), "--out", out, "--platforms", "cpu"]
    assert cli.main([*command, "--solver", "dpmpp", "--num-steps", "2"]) == 0
    assert "for cpu" in capsys.readouterr().out
    read = load_sampler(out)
    assert read.metadata["nfe"] == 2 and read.metadata["clip"] == [-1.0, 1.0]
    model = load_model(folder / "teacher")
    sampler = make_sampler(model, configs.Export("r", solver="dpmpp", num_steps=2))
    labels = np.array([0, 1])
    same = generate(sampler, 2, model.shape, labels, progress=False)
    np.testing.assert_allclose(read.run(0, 2, labels), same, atol=1e-5)
    assert cli.main([*command, "--table", str(tmp_path / "none.json")]) == 2


def test_compiled_programs_are_kept(tmp_path):
    code = (
        "import jax, jax.numpy as jnp; from jaxdiff.app.environment import use_cache; use_cache();"
        "jax.jit(lambda x: jnp.sin(x) @ x)(jnp.ones((4, 4)))"
    )
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path), "JAXDIFF_CACHE": ""}
    environment["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)
    command = [sys.executable, "-W", "error", "-c", code]
    subprocess.run(command, env=environment, check=True)
    assert any((tmp_path / "jaxdiff").rglob("*-cache"))


def test_compiled_programs_are_not_kept_where_the_user_says_so(monkeypatch):
    name = "jax_compilation_cache_dir"
    of_tests = jax.config.jax_compilation_cache_dir
    monkeypatch.setenv("JAXDIFF_CACHE", "off")
    jax.config.update(name, None)
    try:
        cli.use_cache()
        assert jax.config.jax_compilation_cache_dir is None
    finally:
        jax.config.update(name, of_tests)


def tune(folder, out, *more):
    command = ["tune", "--run", str(folder / "teacher"), "--out", str(out), "--pairs", "16"]
    return cli.main([*command, "--teacher-steps", "6", *more])


@pytest.mark.slow
def test_a_tuned_table_samples_its_run_and_warns_of_others(folder, tmp_path, capsys):
    assert tune(folder, tmp_path, "--nfe", "3", "--method", "dmn", "--solver", "dpmpp") == 0
    out = capsys.readouterr().out
    assert "best baseline" in out and "dpmpp on" in out and "next: jaxdiff sample" in out
    table = tmp_path / "nfe-3" / "table.json"
    metadata = json.loads(table.read_text())["metadata"]
    assert metadata["source"] == str(folder / "teacher") and metadata["method"] == "dmn"
    assert metadata["held_out"] <= metadata["baseline_held_out"] and metadata["guidance"] is None
    assert (tmp_path / "nfe-3" / "table.png").exists()
    sample = ["sample", "--table", str(table), "--out", str(tmp_path), "--count", "2"]
    assert cli.main([*sample, "--run", str(folder / "teacher")]) == 0
    assert "nfe=3" in capsys.readouterr().out
    score = ["evaluate", "--table", str(table), "--count", "24", "--features", "pixels"]
    assert cli.main([*score, "--run", str(folder / "teacher")]) == 0
    assert "dpmpp" in capsys.readouterr().out
    assert cli.main([*sample, "--run", str(folder / "teacher"), "--guidance", "1"]) == 0
    with pytest.warns(UserWarning, match="tuned with guidance weight None, not 2.0"):
        assert cli.main([*sample, "--run", str(folder / "teacher"), "--guidance", "2.0"]) == 0
    with pytest.warns(UserWarning, match="was tuned for the model"):
        assert cli.main([*sample, "--run", str(folder / "student")]) == 0


@pytest.mark.slow
@pytest.mark.parametrize("more", [[], ["--distance", "features", "--remat", "--guidance", "2"]])
def test_a_run_is_tuned_by_gradient(folder, tmp_path, more, capsys):
    budgets, few = ["2"], ("--batch", "8", "--updates", "4")
    files = []
    for _ in range(2):  # the second time it has ended
        assert tune(folder, tmp_path, *few, "--method", "gs", "--nfe", *budgets, *more) == 0
        assert "gs's" in capsys.readouterr().out
        files.append((tmp_path / "nfe-2" / "table.json").read_text())
    assert files[0] == files[1]
    assert tune(folder, tmp_path, *few, "--method", "gs", "--nfe", "2", *more, "--rate", "0.1") == 2
    assert "rate: 0.005 there, 0.1 here" in capsys.readouterr().err
    for nfe in budgets:
        metadata = json.loads((tmp_path / f"nfe-{nfe}" / "table.json").read_text())["metadata"]
        assert metadata["nfe"] == int(nfe) and metadata["held_out"] <= metadata["baseline_held_out"]


def test_tuning_says_what_it_needs(folder, tmp_path, capsys):
    def fails(*arguments):
        assert cli.main(["tune", "--out", str(tmp_path / "t"), *map(str, arguments)]) == 2
        return capsys.readouterr().err

    assert "either a run" in fails()
    assert "no problem 'mixture'" in fails("--problem", "mixture")
    assert "is a student" in fails("--run", folder / "student")
    assert "neither guidance nor" in fails("--problem", "gaussian", "--guidance", "2")
    assert "give --solver" in fails("--problem", "gaussian", "--order", "2")
    huber = ("--problem", "gaussian", "--method", "ggdm", "--distance", "huber")
    assert "kernel distance to data" in fails(*huber)
    epd = ("--problem", "gaussian", "--method", "epd", "--nfe", "4", "5")
    assert "epd cannot have 5 evaluations" in fails(*epd)
    few = ("--problem", "gaussian", "--pairs", "4")
    assert "at least 16 pairs of samples; there are 4" in fails(*few)
    assert "--nfe must be at least 1, not 0" in fails("--problem", "gaussian", "--nfe", "0")
    assert not (tmp_path / "t").exists()


def test_the_quick_demo_trains_no_teacher(tmp_path, capsys):
    out = tmp_path / "demo"
    assert cli.main(["demo", "--quick", "--train-updates", "10", "--out", str(out)]) == 2
    assert "--train-updates would have no effect" in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.slow
def test_the_quick_demo_starts_from_the_model_of_the_package(tmp_path):
    out = tmp_path / "demo"
    options = ["--distill-updates", "5", "--nfe", "3", "--count", "40"]
    assert cli.main(["demo", "--quick", "--out", str(out), *options]) == 0
    numbers = json.loads((out / "report.json").read_text())
    assert numbers["experiment"]["teacher"] == "comes with the package"
    assert "--distill-updates 5 --count 40 --nfe 3" in numbers["experiment"]["command"]
    assert {row["solver"] for row in numbers["sweep"]} == {
        "euler",
        "ipndm",
        "deis",
        "dpmpp",
        "heun",
    }
    assert numbers["student"]["teacher"] < numbers["student"]["Euler at 1"]
    assert "comes with the package" in (out / "report.html").read_text()
    assert not (out / "teacher").exists()
