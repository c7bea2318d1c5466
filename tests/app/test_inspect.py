"""What ``jaxdiff inspect`` says of each kind of file, and that it runs nothing."""

import json
import pickle

import numpy as np
import pytest
from helpers.golden_numbers import SHARED
from safetensors.numpy import save_file

import jaxdiff as jd
from jaxdiff.app.config import Inspect
from jaxdiff.app.inspect import facts_of, inspect
from jaxdiff.app.main import main


def test_a_table_says_its_sampler(tmp_path, capsys):
    jd.table(jd.solvers.dpmpp, jd.grids.karras(5)).save(tmp_path / "sampler.json")
    assert main(["inspect", str(tmp_path / "sampler.json")]) == 0
    said = capsys.readouterr().out
    assert "kind         sampler" in said and "evaluations  5" in said
    text = json.loads(inspect(Inspect(str(tmp_path / "sampler.json"), json=True)))
    assert text["kind"] == "sampler" and text["evaluations"] == 5


def test_tensors_that_are_no_model_are_listed(tmp_path):
    tensors = {"a.weight": np.zeros((2, 3), np.float16), "a.bias": np.zeros(2, np.float32)}
    save_file(tensors, tmp_path / "some.safetensors", {"note": "mine"})
    facts = facts_of(tmp_path / "some.safetensors")
    assert (facts["kind"], facts["tensors"], facts["parameters"]) == ("tensors", 2, 8)
    assert facts["dtypes"] == "float16, float32" and facts["note"] == "mine"
    assert facts["first of them"]["a.weight"] == [2, 3]
    assert "none of the families" in facts["not read as a model"]


def test_a_scheduler_says_its_levels(tmp_path):
    path = tmp_path / "scheduler_config.json"
    path.write_text('{"_class_name": "EulerDiscreteScheduler"}')
    assert facts_of(path)["says"] == "Scheduler(EulerDiscreteScheduler: eps of Discrete)"


class Evil:
    def __reduce__(self):
        return print, ("this was run",)


@pytest.mark.parametrize("name", ["evil.pkl", "evil.pt", "missing.pt", "empty.safetensors", "."])
def test_what_is_damaged_or_would_run_is_refused_in_a_line(tmp_path, capfd, name):
    with open(tmp_path / "evil.pkl", "wb") as file:
        pickle.dump({"ema": Evil()}, file)
    (tmp_path / "evil.pt").write_bytes((tmp_path / "evil.pkl").read_bytes())
    (tmp_path / "empty.safetensors").write_bytes(b"\xff" * 9)
    assert main(["inspect", str(tmp_path / name)]) == 2
    said = capfd.readouterr()
    assert "this was run" not in said.out + said.err
    assert len(said.err.strip().splitlines()) == 1 and said.err.startswith("jaxdiff inspect: ")


@pytest.mark.skipif(not SHARED.exists(), reason=f"{SHARED} is not beside this checkout")
def test_weights_say_what_they_are():
    facts = facts_of(next((SHARED / "edm_pickles").glob("*.pkl")))
    assert facts["kind"] == "published model" and facts["classes"] == 10
    assert facts["shape"] == (16, 16, 3) and facts["parameters"] == 189523
    assert facts["levels"] == "0.002 to 80"
