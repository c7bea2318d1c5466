"""The README's code, run as it stands."""

import pathlib
import re

import jax

README = (pathlib.Path(__file__).parents[1] / "README.md").read_text()


def test_the_example_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", README, re.S)
    example = next(code for code in blocks if "jd.table" in code)
    more = next(code for code in blocks if "jd.log_likelihood" in code)
    tuning = next(code for code in blocks if "jd.tune(" in code)
    known = {}
    assert len(example.strip().splitlines()) <= 13
    with (
        jax.enable_x64(False),
        jax.numpy_dtype_promotion("standard"),
        jax.numpy_rank_promotion("allow"),
    ):
        exec(example + more + tuning, known)
    assert known["found"].score < known["found"].before / 3
    assert (tmp_path / "tuned-4.json").exists()
    assert "Table(unipc(order=3), nfe=10" in capsys.readouterr().out
    assert (tmp_path / "unipc-10.json").exists()


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
