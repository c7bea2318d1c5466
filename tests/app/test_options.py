"""Options without effect or meaning are refused by name, before any work."""

import dataclasses
import typing

import numpy as np
import pytest

from jaxdiff import solvers
from jaxdiff.app import config as configs
from jaxdiff.app import main as cli
from jaxdiff.app import options
from jaxdiff.app import sample as command
from jaxdiff.app import samplers as choosing
from jaxdiff.app.models import Model
from jaxdiff.exact import Gaussian
from jaxdiff.sampling.trace import table

KINDS = (
    configs.Train, configs.Distill, configs.Tune, configs.Sample, configs.Evaluate,
    configs.Export, configs.Demo, configs.Analyse,
)  # fmt: skip


def numeric(kind, prefix=""):
    """Every field with numbers of a configuration: its path, and its range if it has one."""
    for name, hint in typing.get_type_hints(kind, include_extras=True).items():
        kinds = [one for one in (hint, *typing.get_args(hint)) if dataclasses.is_dataclass(one)]
        if kinds:  # of several, the first is the default
            yield from numeric(kinds[0], f"{prefix}{name}.")
        else:
            yield from ((prefix + name, allowed) for allowed in _numbers(hint))


def _numbers(hint):
    of = typing.get_args(hint)
    if typing.get_origin(hint) is typing.Annotated:
        yield next(given for given in of[1:] if isinstance(given, options.Range))
    elif hint in (int, float):
        yield None
    elif typing.get_origin(hint) not in (typing.Literal, dict):
        for one in of:
            yield from _numbers(one)


@pytest.mark.parametrize("kind", KINDS)
def test_every_number_has_a_range_that_is_compared(kind):
    """The least number of every option is taken, and one below it is refused by its name."""
    required = {"run": "r", "teacher": "t"}
    names = {field.name for field in dataclasses.fields(kind)}
    base = kind(**{name: value for name, value in required.items() if name in names})
    options.check(base)
    seen = 0
    for path, allowed in numeric(kind):
        assert allowed is not None, f"{kind.__name__}.{path} has no range"
        names = path.split(".")
        for value in (allowed.low - 1, float("nan")):
            config = changed(base, names, value)
            with pytest.raises(ValueError, match=f"--{path.replace('_', '-')} must be "):
                options.check(config)
        if np.isfinite(allowed.low) and not allowed.above:
            options.check(changed(base, names, allowed.low))
        seen += 1
    assert seen > 2


def changed(config, names, value):
    first, *rest = names
    old = getattr(config, first)
    if rest:
        hints = typing.get_args(typing.get_type_hints(type(config))[first])
        old = old or next(kind for kind in hints if dataclasses.is_dataclass(kind))()
        return dataclasses.replace(config, **{first: changed(old, rest, value)})
    hint = typing.get_type_hints(type(config))[first]
    plural = typing.get_origin(hint) is tuple or "tuple" in str(hint)
    return dataclasses.replace(config, **{first: (value,) if plural else value})


@pytest.mark.parametrize(
    "config, name",
    [(configs.Train(run=""), "--run"), (configs.Sample(run="r", out=""), "--out"),
     (configs.Train(run="r", data=configs.Data(path="")), "--data.path"),
     (configs.Train(run="r", ema=()), "--ema")],
)  # fmt: skip
def test_what_is_empty_is_refused(config, name):
    """A run without a name was written into the folder that one stood in."""
    with pytest.raises(ValueError, match=f"{name} is empty: give a value, or leave it out"):
        options.check(config)


def test_noise_levels_are_the_grid_themselves():
    levels = (20.0, 5.0, 1.0, 0.0)
    made = choosing.make_sampler(MODEL, configs.Sample("r", noise_levels=levels, solver="euler"))
    np.testing.assert_array_equal(made.table.levels, levels)
    assert made.table.nfe == 3
    for more, said in (
        ({"num_steps": 3}, "--num-steps would have no effect: --noise-levels are the grid"),
        ({"grid": "cosine"}, "--grid would have no effect"),
        ({"noise_levels": (1.0, 2.0)}, "each below the one before"),
        ({"noise_levels": (1.0,)}, "two or more"),
        ({"noise_levels": (1.0, -1.0)}, "--noise-levels must be at least 0"),
    ):
        with pytest.raises(ValueError, match=said):
            choosing.make_sampler(MODEL, configs.Sample("r", **({"noise_levels": levels} | more)))


MODEL = Model(Gaussian([0.0], [1.0]).denoiser, {}, (1,), 0, False, {"method": "sct"})


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"solver": "heun", "order": 3}, "--order would have no effect: heun has one order only"),
        ({"order": 4}, "dpmpp has orders 1 to 3, not 4"),
        ({"num_steps": 0}, "--num-steps must be at least 1, not 0"),
        (
            {"table": "x.json", "num_steps": 3},
            "--num-steps would have no effect: a table has its own",
        ),
        ({"table": "x.json", "solver": "dpmpp"}, "--solver would have no effect: a table"),
        ({"table": "x.json", "low": 0.002, "high": 80.0}, "--low and --high would have no effect"),
        ({"guidance": 2.0}, "guidance needs a model with classes"),
        ({"count": 0}, "--count must be at least 1"),
        ({"batch": -3}, "--batch must be at least 1, not -3"),
    ],
)
def test_samplers_refuse_what_they_do_not_use(given, said):
    config = configs.Sample("r", **given)
    with pytest.raises(ValueError, match=said):
        choosing.make_sampler(MODEL, config, config.num_steps)


@pytest.mark.parametrize("given", [{"solver": "dpmpp"}, {"grid": "karras"}, {"end": "zero"},
                                   {"low": 0.002}, {"high": 80.0}, {"order": 2}])  # fmt: skip
def test_students_have_their_own_sampler(given):
    (name,) = given
    with pytest.raises(ValueError, match=f"--{name} would have no effect: a student has its own"):
        choosing.make_sampler(MODEL._replace(student=True), configs.Sample("r", **given))


def test_students_without_guidance_refuse_it():
    entry = {"table": table(solvers.euler, [2.0, 0.0]).to_dict(), "denoiser": {}}
    metadata = {"method": "sct", "samplers": {"1": entry}}
    model = MODEL._replace(student=True, classes=2, metadata=metadata)
    with pytest.raises(ValueError, match="--guidance would have no meaning: a student by sct"):
        choosing.make_sampler(model, configs.Sample("r", guidance=2.0))


def test_the_default_sampler_is_what_the_options_say():
    made = choosing.make_sampler(MODEL, configs.Sample("r")).table
    requested = configs.Sample("r", solver="dpmpp", grid="karras", end="zero", low=0.002, high=80.0)
    same = choosing.make_sampler(MODEL, requested, 10).table
    assert made.nfe == 10 and made.name == same.name
    np.testing.assert_array_equal(made.nodes, same.nodes)


def test_orders_that_there_are_not_are_wrong_values_of_any_solver():
    """Never another kind of error."""
    endless = ("lms", "deis", "flow_lms")
    for name in choosing.SOLVERS:
        for order in (0, -1, 7):
            config = configs.Sample("r", solver=name, order=order)
            if order == 7 and name in endless:
                choosing.make_sampler(MODEL, config, 3)
                continue
            with pytest.raises(ValueError, match="order"):
                choosing.make_sampler(MODEL, config, 3)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--method", "gits", "--updates", "9"], "--updates would have no effect: gits searches"),
        (["--method", "dmn", "--remat"], "--remat would have no effect"),
        (["--teacher-steps", "9"], "--teacher-steps would have no effect: an exact problem"),
        (["--data.path", "x"], "--data would have no effect"),
        (["--checkpoint", "3"], "--checkpoint would have no effect"),
        (["--solver", "heun", "--order", "3"], "--order would have no effect: heun has one"),
        (["--batch", "1"], "--batch must be at least 2, not 1"),
        (["--rate", "nan"], "--rate must be above 0, not nan"),
    ],
)
def test_tuning_refuses_what_it_does_not_use(arguments, said, tmp_path, capsys):
    command = ["tune", "--problem", "gaussian", "--out", str(tmp_path / "t")]
    assert cli.main([*command, *arguments]) == 2
    assert said in capsys.readouterr().err and not (tmp_path / "t").exists()


def test_no_mistake_ends_in_a_traceback(monkeypatch, capsys):
    def broken(config):
        raise TypeError("what a library said")

    monkeypatch.setitem(cli.COMMANDS, "sample", (cli.COMMANDS["sample"][0], broken))
    assert cli.main(["sample", "--run", "r"]) == 1
    assert "TypeError: what a library said\n--traceback" in capsys.readouterr().err
    with pytest.raises(TypeError):
        cli.main(["sample", "--run", "r", "--traceback"])


# numbers first


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_numbers_are_saved_before_the_picture(channels, tmp_path, monkeypatch, capsys):
    """Images of any number of channels have a picture; one that fails costs nothing else."""
    from jaxdiff.report import images

    shape = (2, 3, channels)
    model = MODEL._replace(shape=shape, metadata={"class_names": ()})
    model = model._replace(denoiser=lambda y, level, cond=None: 0.5 * y)
    monkeypatch.setattr(command, "load_model", lambda *a, **k: model)
    sample = [
        "sample",
        "--run",
        "r",
        "--count",
        "3",
        "--num-steps",
        "1",
        "--out",
        str(tmp_path / "s"),
    ]
    assert cli.main(sample) == 0
    assert {p.name for p in (tmp_path / "s").iterdir()} == {
        "samples.npz",
        "samples.png",
        "sampler.json",
    }

    def fails(*given, **more):
        raise RuntimeError("no fonts")

    monkeypatch.setattr(images, "image_grid", fails)
    with pytest.warns(UserWarning, match="samples.png could not be made: no fonts"):
        assert cli.main([*sample[:-1], str(tmp_path / "t")]) == 0
    assert "3 samples by" in capsys.readouterr().out
    with np.load(tmp_path / "s" / "samples.npz") as a, np.load(tmp_path / "t/samples.npz") as b:
        np.testing.assert_array_equal(a["images"], b["images"])
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(command, "generate", fails)  # not reached
    assert cli.main([*sample[:-1], str(tmp_path / "file")]) == 2
    assert "cannot write" in capsys.readouterr().err


def test_a_start_that_predicts_something_else_is_said_to(recwarn):
    """Parameters of an EDM model under another process, or another deviation of the data."""
    from jaxdiff.app import train
    from jaxdiff.denoisers import denoiser

    def look(**options):
        D = denoiser(lambda params, x, label, cond=None: x, {}, sigma_data=0.5)
        model = Model(D, {}, (2,), 0, False, {})
        train._warn_of_another_aim(configs.Train("r", init="other", **options), model)
        return [str(recwarn.pop().message)] if recwarn.list else []

    assert look() == []
    (said,) = look(process="vp")
    assert "--init other predicts edm with sigma_data 0.5, and this run eps of VP" in said
    assert "edm with sigma_data 0.7" in look(sigma_data=0.7)[0]


def test_levels_that_a_discriminator_cannot_be_trained_at_are_refused(tmp_path):
    from jaxdiff.app.discriminate import discriminate

    config = configs.Discriminate("nowhere", str(tmp_path / "d.npz"), low=5.0, high=1.0)
    with pytest.raises(ValueError, match="levels need 0 < low < high"):
        discriminate(config)
