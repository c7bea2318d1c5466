"""The study of the geometry of sampling: what follows of a claim, and its page on a few images."""

import json
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from experiments.geometry import closed, memory
from experiments.geometry.__main__ import main
from experiments.geometry.claims import (
    CLAIMS,
    NEEDS,
    NETWORK,
    RECALLS,
    SUFFICES,
    Claim,
    apart,
    below,
    like_the_network,
    moved,
    shape_apart,
    verdict,
)
from experiments.geometry.report import page
from jaxdiff.files import read_json


def test_a_claim_needs_a_network_where_it_holds_of_no_null_model_on_every_data_set():
    claim = Claim("G0", "said", "how", lambda numbers, name: None, below(2.0))
    assert verdict(claim, [(1.0, 1.9, 3.0), (0.5, 0.5, 2.0)]) == SUFFICES
    assert verdict(claim, [(1.0, 1.1, 1.1), (0.5, 3.0, 1.0)]) == RECALLS
    assert verdict(claim, [(1.0, 1.1, 3.0), (0.5, 3.0, 2.0)]) == NEEDS
    assert verdict(claim, [(None, 1.0, 1.0), (0.5, 0.55, None)]) == SUFFICES
    assert verdict(claim, [(None, 1.0, 1.0)]) == "not measured of a network"
    assert verdict(claim, [(1.0, None, None)]) == NEEDS
    assert (
        verdict(claim, [(3.0, 1.0, 1.0)])
        == "does not hold of every network here, but of the Gaussian"
    )
    assert apart([(2.0, 3.0, None), (None, 9.0, 9.0), (1.0, 0.9, None)]) == pytest.approx(0.5)
    level = Claim("G0", "said", "how", lambda numbers, name: None, like_the_network)
    assert verdict(level, [(2.0, 2.5, 9.0)]) == SUFFICES
    assert verdict(level, [(2.0, 3.5, 2.0)]) == RECALLS


def test_claims_are_one_to_fifteen():
    names = [claim.name for claim in CLAIMS if claim.name != "G6b"]
    assert names == [f"G{n}" for n in range(1, 16)]


def test_curves_of_one_shape_are_no_distance_apart_whatever_their_size():
    curve = {"deviation": {"mean": [0.0, 2.0, 1.0, 0.0]}}
    larger = {"deviation": {"mean": [0.0, 20.0, 10.0, 0.0]}}
    other = {"deviation": {"mean": [0.0, 1.0, 2.0, 0.0]}}
    numbers = {"paths": {"model": curve, "Gaussian": larger, "finite data set": other}}
    assert shape_apart(numbers, "Gaussian") == 0
    assert shape_apart(numbers, "finite data set") == pytest.approx(np.sqrt(0.5 / 4))


def test_options_that_go_together_are_asked_for(capsys, tmp_path):
    for given, said in (
        (["--weights", "w"], "is of a model of --mnist"),
        (["--students", "s"], "are of a --run"),
    ):
        with pytest.raises(SystemExit):
            main(["--json", str(tmp_path / "g.json"), *given])
        assert said in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_few_images_without_a_network_from_end_to_end(tmp_path):
    random = np.random.default_rng(0)
    images = random.integers(0, 255, (40, 2, 2, 1)).astype(np.uint8)
    np.savez(tmp_path / "d.npz", train_images=images, test_images=images[:2])
    with jax.enable_x64(False), jax.numpy_dtype_promotion("standard"):
        with jax.numpy_rank_promotion("allow"):
            given = ["--data", str(tmp_path / "d.npz"), "--count", "16"]
            assert main([*given, "--json", str(tmp_path / "g.json")]) == 0
    found = json.loads((tmp_path / "g.json").read_text())["images"]
    assert found["data"]["points"] == 40
    assert found["nearest"][closed.FINITE] < 0.01 < found["nearest"][closed.GAUSSIAN]
    assert found["interpolation"]["Gaussian"]["square root"]["end"] == pytest.approx(1.0, abs=0.3)
    assert found["interpolation"]["finite data set"]["linear"]["norm"] < 0.9
    assert list(found["gits"]["of a few"]) == ["1", "4", "16", "256"]
    assert found["gits"]["of a few"]["256"] == found["gits"]["found"]["1.15"]
    assert found["likelihood"]["finite data set"]["jump"] == 1.0  # of the optimal denoiser itself
    assert "torsion" not in found["paths"]["finite data set"]
    assert found["optimal"]["effective neighbours"][-1] == pytest.approx(1.0, abs=1e-3)
    exact, euler = (found["paths"][n]["summary"] for n in (closed.EXACT, closed.GAUSSIAN))
    assert exact["peak deviation of x"] == pytest.approx(euler["peak deviation of x"], rel=0.3)
    gaussian, finite = (found["lipschitz"][n] for n in ("Gaussian", "finite data set"))
    most, levels = found["data"]["eigenvalues"][0], np.array(found["lipschitz"]["levels"])
    np.testing.assert_allclose(gaussian, most / (most + levels**2), rtol=1e-4)
    assert 0 < finite[0] < 1 and finite[0] == pytest.approx(gaussian[0], rel=0.5)
    page = (tmp_path / "g.md").read_text()
    assert "| Euler | 100 % | 0.00 |" in page and "| DPM-Solver++ 2M | 10 % |" in page
    assert "| G1 |" in page and "without a network" in page
    assert (tmp_path / "g.png").exists()


def test_the_page_is_made_of_the_numbers_beside_it():
    results = Path(__file__).parents[2] / "experiments/results"
    written = (results / "geometry.md").read_text(encoding="utf-8")
    assert page(read_json(results / "geometry.json")) == written


def test_students_that_follow_the_flow_are_what_distillation_is_judged_by():
    models = {
        "teacher": {"share": 1.0}, "a": {"share": 0.2, "follows": True},
        "b": {"share": 0.4, "follows": True}, "c": {"share": 0.9, "follows": False},
    }  # fmt: skip
    numbers = {"distillation": {"models": models}}
    assert moved(numbers, NETWORK) == pytest.approx(0.3)
    assert moved(numbers, "Gaussian") is None and moved({}, NETWORK) is None


@pytest.mark.slow
def test_the_denoiser_of_a_data_set_of_the_size_of_cifar10_stays_within_2_gb():
    command = [sys.executable, "-m", "experiments.geometry.memory", "finite", "--count", "4"]
    made = subprocess.run(command, check=True, capture_output=True, text=True)
    assert json.loads(made.stdout)["peak GB"] < 2


def test_memory_is_measured_of_what_is_right():
    with jax.enable_x64(False), jax.numpy_dtype_promotion("standard"):
        with jax.numpy_rank_promotion("allow"):
            streamed, finite = memory.streamed(512, 4, 256), memory.finite(20, 4, 4)
    assert streamed["sum of variances"] == pytest.approx(streamed["in closed form"], rel=0.15)
    assert finite["largest distance to the nearest"] < 0.02  # a few of the lowest level, 0.002
    assert finite["neighbours last"] == pytest.approx(1.0) and finite["neighbours first"] > 19
    assert finite["largest |r(x*) - r*(x*)|"] > 0.1
    assert 0 < streamed["GB before"] <= streamed["peak GB"]
