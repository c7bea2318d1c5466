"""Learned steps that are no table: tuned by name, saved, loaded, and sampled in a table's place."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import grids, solvers
from jaxdiff.app import main as cli
from jaxdiff.app import tune as tuned
from jaxdiff.app.generate import generate
from jaxdiff.exact import GaussianMixture
from jaxdiff.files import read_json
from jaxdiff.noise import start_noise
from jaxdiff.recipes.tuning.samplewise import teacher_states
from jaxdiff.recipes.tuning.solve import solve
from jaxdiff.recipes.tuning.task import Task
from jaxdiff.sampling.pairs import make_pairs
from jaxdiff.sampling.sample import sample
from jaxdiff.sampling.sampler import Sampler
from jaxdiff.sampling.table import Label
from jaxdiff.sampling.trace import table
from jaxdiff.tuning.learned.amed import Predicted, PredictedSampler, Solve
from jaxdiff.tuning.learned.amed_network import Predictor, init
from jaxdiff.tuning.learned.pas import pas, uncorrected
from jaxdiff.tuning.learned.steps import Learned, load_steps

MIXTURE = GaussianMixture([0.3, 0.7], [[-1.0, 0.0], [1.0, 0.5]], [0.02, 0.05])
D = MIXTURE.denoiser
KEY = jax.random.key(0)


def predicted():
    solve = Solve((80.0, 1.0, 0.0), Predictor(None, 0.05, 0.2))
    params = jax.tree.map(lambda x: x + 0.1, init(KEY, solve.predictor))
    return Learned(Predicted(params, solve), Label("amed_predictor"))


def corrected():
    return Learned(uncorrected([80.0, 2.0, 0.0], order=2), Label("pas", {"order": 2}))


@pytest.mark.parametrize("make", [predicted, corrected])
def test_a_file_holds_all(make, tmp_path):
    """What is loaded samples bit for bit as what was saved, and says the same of itself."""
    learned, path = make().with_metadata(model="abc"), tmp_path / "table.json"
    learned.save(path)
    read = load_steps(path)
    assert isinstance(read, Learned)
    assert read.to_dict() == learned.to_dict() and read.metadata == {"model": "abc"}
    assert read.nfe == learned.nfe and read.name == learned.name
    x = 80.0 * start_noise(KEY, 3, (2,))
    np.testing.assert_array_equal(read.sample(D, x), learned.sample(D, x))


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "table"}, {"nfe": 9}, {"metadata": 3}, {"steps": {}}, {"steps": None},
        {"format": "jaxdiff-steps-0"},
    ],
    ids=str,
)  # fmt: skip
def test_damaged_files_are_refused(change, tmp_path):
    path = tmp_path / "table.json"
    for made in (predicted(), corrected()):
        path.write_text(json.dumps(made.to_dict() | change))
        with pytest.raises(ValueError, match=str(path)):
            load_steps(path)


def test_a_predictor_has_its_own_parameters(tmp_path):
    path, text = tmp_path / "table.json", predicted().to_dict()
    text["steps"]["params"]["ratio"]["kernel"].pop()
    path.write_text(json.dumps(text))
    with pytest.raises(ValueError, match="are not those of Predictor"):
        load_steps(path)
    solve = Solve((80.0, 0.0), Predictor(), step=lambda *given: given)
    with pytest.raises(ValueError, match="a file names amed"):
        Learned(Predicted(init(KEY, solve.predictor), solve)).to_dict()


def test_a_sampler_takes_them_in_a_tables_place():
    """Sample i is the same picture by hand, by the sampler, and in any batch."""
    learned = predicted()
    x = 80.0 * start_noise(KEY, 5, (2,))
    by_hand = PredictedSampler(D, learned.steps.params, learned.steps.solve).sample(x)
    sampler = Sampler(D, learned)
    np.testing.assert_array_equal(sampler(KEY, 5, (2,)), by_hand)
    made = generate(sampler, 5, (2,), batch=2, progress=False)
    np.testing.assert_allclose(made, np.clip(by_hand, -1, 1), atol=1e-5)
    with pytest.raises(ValueError, match="takes no options of a table: \\['remat'\\]"):
        sampler(KEY, 5, (2,), remat=True)
    with pytest.raises(ValueError, match="pairs are made by a table, not by Learned"):
        make_pairs(sampler, 4, (2,), KEY, progress=False)


def task(nfe, **options):
    def pairs(number):
        start = 80.0 * start_noise(jax.random.key(number), 32, (2,), jnp.float64)
        return {"start": np.asarray(start), "image": np.asarray(sample(D, FINE, start))}

    none = np.zeros((0, 2))
    return Task(D, nfe, pairs(0), pairs(1), none, num_updates=40, batch=16, **options)


FINE = table(solvers.unipc, grids.log_snr(60))


def test_the_teachers_states_end_where_the_pairs_do():
    made = teacher_states(task(3), grids.karras(3, 0.05), 60)
    assert made.shape == (32, 4, 2)
    np.testing.assert_array_equal(made[:, 0], task(3).pairs["start"])
    np.testing.assert_allclose(made[:, -1], task(3).pairs["image"], atol=2e-3)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "choices"),
    [
        ("pas", {"order": 1, "num_updates": 200, "relative": True}),
        ("amed_predictor", {"bottleneck": False, "direction": 0.05}),
    ],
)
def test_they_are_tuned_by_name(method, choices, tmp_path):
    """The file of what was found samples with the score that is stated."""
    found = solve(
        task(4), method, choices=choices, folder=tmp_path, progress=False, metadata={"model": "m"}
    )
    made = found.tuned.table
    assert isinstance(made, Learned) and made.nfe == 4 and made.metadata["choices"] == choices
    tuned.write(found, tmp_path / "out", {"method": method})
    made.save(tmp_path / "own.json")
    read = load_steps(tmp_path / "own.json")
    pairs = task(4).held
    ends = read.sample(D, jnp.asarray(pairs["start"]))
    score = np.sqrt(np.mean((np.asarray(ends) - pairs["image"]) ** 2))
    assert score == pytest.approx(found.tuned.score, rel=1e-4)
    plain = uncorrected(made.levels)
    if method == "pas":
        apart = pas(D, plain, jnp.asarray(pairs["start"])) - pairs["image"]
        assert score < 0.9 * float(jnp.sqrt(jnp.mean(apart**2)))
    else:
        assert found.tuned.score < found.tuned.before
        assert load_steps(tmp_path / "table.json").metadata["finished"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two tiny teachers of the digits."""
    place = tmp_path_factory.mktemp("runs")
    for seed in ("0", "1"):
        small = ["--network.channels", "8", "--network.multipliers", "1", "--updates", "4"]
        command = ["train", "digits", "--run", str(place / seed), "--seed", seed, "--batch", "8"]
        with jax.enable_x64(False):
            assert cli.main([*command, *small]) == 0
    return place


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "choices"), [("pas", ["num_updates", "5"]), ("amed_predictor", ["fine", "12"])]
)
def test_by_the_command_line(method, choices, folder, tmp_path, capsys):
    """Tuned, sampled from the file, refused with another model."""
    run, out = str(folder / "0"), str(tmp_path / "tuned")
    tune = ["tune", "--run", run, "--method", method, "--nfe", "3", "--pairs", "16", "--out", out]
    tune += ["--teacher-steps", "12", "--choices", *choices]
    tune += [] if method == "pas" else ["--updates", "2", "--batch", "8"]
    with jax.enable_x64(False):
        assert cli.main(tune) == 0, capsys.readouterr().err
        text = read_json(f"{out}/nfe-3/table.json")
        own = tmp_path / "own.json"
        learned = load_steps(f"{out}/nfe-3/run/table.json") if method != "pas" else None
        if learned is None:
            learned = corrected().with_metadata(model=text["metadata"]["model"], source=run)
        learned.save(own)
        sample = ["sample", "--table", str(own), "--count", "3", "--out", str(tmp_path / "s")]
        assert cli.main([*sample, "--run", run]) == 0, capsys.readouterr().err
        images = np.load(tmp_path / "s" / "samples.npz")["images"]
        assert images.shape == (3, 8, 8, 1) and np.isfinite(images).all()
        assert load_steps(tmp_path / "s" / "sampler.json").to_dict() == learned.to_dict()
        capsys.readouterr()
        assert cli.main([*sample, "--run", str(folder / "1")]) == 2
        assert "is of no use with another" in capsys.readouterr().err


def test_a_predictor_needs_features(capsys):
    command = ["tune", "--problem", "gaussian", "--method", "amed_predictor"]
    assert cli.main(command) == 2
    assert "--choices bottleneck false" in capsys.readouterr().err
