"""BibTeX of solvers, tables, methods and recipes."""

import pathlib
import re
from typing import get_args

import jax
import pytest

import jaxdiff as jd
from jaxdiff.app import config as configs
from jaxdiff.app.citations import ADAPTERS
from jaxdiff.app.main import main
from jaxdiff.citing import known_papers, papers
from jaxdiff.recipes import RECIPES
from jaxdiff.recipes.tuning import TUNERS
from jaxdiff.solvers import SOLVERS

PAPERS = pathlib.Path(jd.__file__).parent / "papers.tsv"
SCORE_MATCHING = papers(jd.distill.score_matching)
LISTED = [*SOLVERS, *RECIPES.values(), *TUNERS.values()]


def eprints(text):
    return re.findall(r"eprint = \{(.*?)\}", text)


def test_an_entry_is_bibtex_of_the_paper():
    text = jd.cite(jd.solvers.unipc)
    assert text.startswith("@misc{zhao2023unipc,\n") and text.endswith("\n}")
    assert "author = {Zhao, Wenliang and others}" in text and "year = {2023}" in text
    assert "title = {{UniPC: A Unified Predictor-Corrector Framework" in text
    assert text.count("{") == text.count("}")


def test_an_entry_leaves_out_what_is_not_known():
    text = jd.cite("1908.08845")  # sources differ on its first author
    assert text.startswith("@misc{arxiv1908-08845,\n  title = {{Accelerating proximal")
    assert "author" not in text and "year = {2019}" in text
    assert "title" not in jd.cite("0704.0001")  # of which the list has nothing


def test_every_solver_recipe_and_tuner_names_papers_whose_titles_are_known():
    for listed in LISTED:
        numbers = papers(listed)
        assert numbers, listed
        for number in numbers:
            assert all(known_papers().get(number, ("", ""))), f"papers.tsv lacks {number}"


def test_the_list_of_papers_is_in_order_and_has_each_once():
    numbers = list(known_papers())
    lines = [line.split("\t")[0] for line in PAPERS.read_text().splitlines()]
    assert lines == numbers == sorted(set(lines), key=lambda n: [float(x) for x in n.split(".")])


def test_no_two_papers_have_one_key():
    keys = [jd.cite(number).partition(",")[0] for number in known_papers()]
    assert len(set(keys)) == len(keys)
    assert jd.cite("2211.01095").startswith("@misc{lu2022dpmsolverpp,")


def test_items_of_every_kind_are_cited():
    grid = jd.grids.karras(4)
    table = jd.table(jd.solvers.heun, grid)
    D = jd.exact.Gaussian([0.0], [1.0]).denoiser
    guided = jd.guidance.classifier_free(D, 2.0)
    network = jd.networks.from_linen(jd.networks.MLP(width=4, depth=1))
    student = jd.distill.Student(network, {})
    edm = "2206.00364"
    assert eprints(jd.cite(table)) == eprints(jd.cite(jd.Sampler(D, table))) == [edm]
    assert eprints(jd.cite(guided)) == ["2207.12598"]
    assert eprints(jd.cite("classifier_free")) == ["2207.12598"]
    assert eprints(jd.cite("custom_diffusion")) == ["2212.04488"]
    assert eprints(jd.cite("gits", "dmd2")) == ["2405.11326", "2405.14867"]
    assert eprints(jd.cite(jd.distill.easy_consistency(student))) == ["2406.14548"]
    assert eprints(jd.cite(jd.distill.score_matching(student))) == SCORE_MATCHING
    assert eprints(jd.cite("2302.04867", jd.solvers.unipc)) == ["2302.04867"]  # once
    assert eprints(jd.cite(jd.process.EDM())) == [edm]
    assert {"2302.04867", "2310.13268", edm} < set(eprints(jd.cite(jd.solvers)))  # a module: all


def test_what_says_nothing_of_itself_is_an_error():
    for wrong in ("unipcc", "UniPC"):
        with pytest.raises(ValueError, match=f"is called '{wrong}'; did you mean 'unipc'"):
            jd.cite(wrong)
    with pytest.raises(ValueError, match=r"is called 'quite else' \(jaxdiff list solvers"):
        jd.cite("quite else")
    with pytest.raises(TypeError, match="at least one"):
        jd.cite()
    with pytest.raises(TypeError, match="not int"):
        jd.cite(3)
    with pytest.raises(ValueError, match="names no paper"):
        jd.cite(jax.numpy.linalg.norm)


@pytest.mark.parametrize(
    "command, numbers",
    [
        ("train digits --run r", ["2206.00364"]),
        ("distill --teacher t --run r --method dmd2", ["2405.14867"]),
        ("tune --run r --method gits", ["2405.11326"]),
        ("sample --run r --solver unipc --guidance 2", ["2302.04867", "2207.12598"]),
        ("sample --run r --table {table}", ["2206.00364"]),
        ("adapt --run r --kind svdiff", ["2303.11305"]),
        ("demo --method sid", ["2404.04057", "2302.04867"]),
    ],
)
def test_commands_print_the_papers_and_do_nothing(command, numbers, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    table = tmp_path / "heun.json"
    jd.table(jd.solvers.heun, [1.0, 0.5, 0.0]).save(table)
    assert main([*command.format(table=table).split(), "--cite"]) == 0
    assert set(numbers) <= set(eprints(capsys.readouterr().out))
    assert list(tmp_path.iterdir()) == [table]


def test_every_kind_of_adapter_has_its_papers():
    assert set(ADAPTERS) == set(get_args(configs.AdapterKind))


def test_commands_without_papers_say_so(capsys):
    assert main(["adapt", "--run", "r", "--kind", "whole", "--cite"]) == 2
    assert "of no paper" in capsys.readouterr().err
    assert main(["inspect", "somewhere", "--cite"]) == 2
    assert "--cite goes with train" in capsys.readouterr().err
