"""The README's code, run as it stands."""

import json
import pathlib
import re

import jax
import pytest

from jaxdiff.pretrained.cards import SHIPPED

README = (pathlib.Path(__file__).parents[1] / "README.md").read_text()


@pytest.mark.slow
def test_all_code_runs_in_order_as_pasted(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", README, re.S)
    assert len(blocks[0].strip().splitlines()) <= 13 and "load_pretrained" in blocks[0]
    known = {}
    with (
        jax.enable_x64(False),
        jax.numpy_dtype_promotion("standard"),
        jax.numpy_rank_promotion("allow"),
    ):
        for block in blocks:
            exec(block, known)
    assert known["found"].score < known["found"].before / 3
    assert {p.name for p in tmp_path.iterdir()} == {"digits.png", "unipc-10.json", "tuned-4.json"}
    out = capsys.readouterr().out
    assert "Pretrained(mnist; 28x28x1" in out and "Table(unipc(order=3), nfe=10" in out


def test_its_numbers_are_those_of_the_results():
    text = README.replace("\n", " ")
    row = json.loads((SHIPPED / "mnist.json").read_text())["scores"][0]
    said = re.search(
        r"reads ([\d.]+%) of its samples as their class so \((\d+) steps, (\d+) eval", text
    )
    steps = int(row["sampler"].split()[1])
    assert said.groups() == (f"{row['class_agreement']:.1%}", str(steps), str(row["nfe"]))
    assert f"{row['classifier_accuracy']:.1%} of real test images" in text
    prose = re.sub(r"```.*?```", "", README, flags=re.S)
    shares = re.findall(r"\d+(?:\.\d+)? ?%", prose)
    assert len(shares) == 2, f"numbers without a test: {shares}"


def test_what_the_readme_names_exists():
    import jaxdiff as jd

    for path in set(re.findall(r"`jd\.([a-zA-Z_.]+)", README)):
        found = jd
        for name in path.split("."):
            found = getattr(found, name)
    root = pathlib.Path(__file__).parents[1]
    for file in re.findall(r"\]\(([^)]+\.(?:png|md))\)", README):
        assert (root / file).exists(), file


def test_the_page_on_conditional_synthesis_runs():
    page = (pathlib.Path(__file__).parents[1] / "docs/conditional_synthesis.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, re.S)
    made = {}
    with (
        jax.enable_x64(False),
        jax.numpy_dtype_promotion("standard"),
        jax.numpy_rank_promotion("allow"),
    ):
        exec(code, made)
        for way in ("by_guidance", "by_correction", "by_resampling"):
            apart = abs(made[way] - made["truth"])
            assert apart[:, :, :4].mean() < 0.15 and 0.15 < apart[:, :, 4:].mean() < 0.45
