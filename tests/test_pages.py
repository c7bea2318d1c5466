"""The pages of the documentation: their code runs, their links lead somewhere, they name what is
there.
"""

import re
import shlex
import sys
from pathlib import Path

import jax
import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from docs import reference, sources  # noqa: E402

PAGES = sources.pages()
TEXTS = {name: (ROOT / name).read_text() for name in PAGES if name.endswith(".md")}
ELSEWHERE = {  # whose code other tests run, with what it needs
    "docs/conditional_synthesis.md", "docs/classification.md", "experiments/running_a_table.md",
    "experiments/cluster/README.md", "CONTRIBUTING.md", "docs/adding.md",
}  # fmt: skip
GIVEN = {  # what a page's code goes on from
    "docs/geometry.md": """
import jax, jaxdiff as jd
truth = jd.exact.GaussianMixture([0.5, 0.5], [[-1.0, 0.0], [1.0, 0.5]], [0.02, 0.05])
D, data = truth.denoiser, truth.sample(jax.random.key(0), 64)
table = jd.table(jd.solvers.heun, jd.grids.karras(6))
start = jd.start(jax.random.key(1), table, 16, (2,))
""",
}
SLOW = {
    "docs/start.md", "docs/concepts/method.md", "docs/concepts/run.md", "docs/howto/tune.md",
    "docs/howto/choose_guidance.md", "docs/howto/text_and_adapters.md",
    "docs/howto/beside_diffrax.md",
}  # fmt: skip


def page(name):
    return (ROOT / name).read_text()


def blocks(text):
    return re.findall(r"^```python\n(.*?)^```", text, re.M | re.S)


def with_code():
    for name, text in TEXTS.items():
        if blocks(text) and name not in ELSEWHERE:
            yield pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else [], id=name)


@pytest.mark.parametrize("name", list(with_code()))
def test_the_code_of_a_page_runs_in_order(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    known = {"__name__": "page"}
    with (
        jax.enable_x64(False),
        jax.numpy_dtype_promotion("standard"),
        jax.numpy_rank_promotion("allow"),
    ):
        exec(GIVEN.get(name, ""), known)
        for number, code in enumerate(blocks(TEXTS[name])):
            exec(compile(code, f"{name}, block {number}", "exec"), known)


def test_the_solver_of_the_page_on_adding_has_the_order_that_it_says(capsys):
    known = {}
    (code,) = blocks(TEXTS["docs/adding.md"])
    with (
        jax.enable_x64(False),
        jax.numpy_dtype_promotion("standard"),
        jax.numpy_rank_promotion("allow"),
    ):
        exec(code, known)
    assert abs(float(capsys.readouterr().out.split()[-1]) - 2) < 0.3


@pytest.mark.parametrize("name", [*TEXTS, "README.md"])
def test_links_within_the_repository_lead_to_files(name):
    text = (ROOT / name).read_text()
    for link in sources.links(text):
        if not sources.is_outside(link):
            path, anchor = sources.target(name, link)
            if anchor and path in TEXTS:
                heads = re.findall(r"^#+ (.*)$", TEXTS[path], re.M)
                slugs = [re.sub(r"[^\w -]", "", h).lower().replace(" ", "-") for h in heads]
                assert anchor in slugs


def test_the_page_of_all_items_links_to_where_each_is_defined():
    found = re.findall(r"^\| `(\w+)` .* \| \[(jaxdiff/\S+)\]", TEXTS["docs/methods.md"], re.M)
    assert len(found) > 120
    functions = {
        path: set(re.findall(r"^(?:def|class) (\w+)", (ROOT / path).read_text(), re.M))
        for _, path in found
    }
    assert "jaxdiff/ranges.py" not in functions and all(functions.values())
    for name in ("dmd2", "mean_flow", "ladd", "consistency_distillation"):
        assert any(own == name and name in functions[path] for own, path in found)


def test_a_link_that_leads_nowhere_is_found():
    with pytest.raises(FileNotFoundError, match=r"docs/x.md links to \.\./nothing.md"):
        sources.relinked("docs/x.md", "see [this](../nothing.md)", {"docs/x.md": "x.md"})


def test_links_become_those_of_the_site():
    text = (
        "[c](../../experiments/choosing_a_sampler.md#where-grids-end) [d](../../jaxdiff/noise.py) "
        "[out](https://x.org) ![p](../../experiments/results/gym.png)\n```\n[e](nowhere)\n```"
    )
    found, pictures = sources.relinked("docs/concepts/run.md", text, PAGES)
    assert "[c](../howto/choose_a_solver.md#where-grids-end)" in found
    assert f"[d]({sources.REPOSITORY}/blob/main/jaxdiff/noise.py)" in found
    assert "[out](https://x.org) ![p](../results/gym.png)" in found and "[e](nowhere)" in found
    assert pictures == {"experiments/results/gym.png"}


def test_what_pages_name_exists():
    import jaxdiff as jd

    missing = []
    for name, text in TEXTS.items():
        for path in set(re.findall(r"`jd\.([a-zA-Z_0-9.]+[a-zA-Z_0-9])", text)):
            found = jd
            for piece in path.split("."):
                found = getattr(found, piece, None)
            if found is None:
                missing.append(f"{name}: jd.{path}")
    assert not missing


def test_every_page_is_in_one_table_of_contents():
    listed = ["index"]
    for name, text in TEXTS.items():
        page = Path(PAGES[name])
        whole = sources.with_toctree(PAGES[name], text)
        for block in re.findall(r"^```\{toctree\}\n(.*?)^```", whole, re.M | re.S):
            names = [line for line in block.splitlines() if line and not line.startswith(":")]
            names = [line.rpartition("<")[2].rstrip(">") for line in names]
            listed += [(page.parent / line).as_posix() for line in names]
    pages = [re.sub(r"\.(md|py)$", "", page) for page in PAGES.values()]
    assert sorted(listed) == sorted([*pages, "api/index"])


def test_every_public_name_is_documented_once():
    names = [name for own in reference.names().values() for name in own]
    fulls = [name.full for name in names]
    assert len(fulls) == len(set(fulls)) == len({id(name.item) for name in names})
    assert len(fulls) > 400
    for name in ("jaxdiff.sample", "jaxdiff.solvers.unipc", "jaxdiff.cite", "jaxdiff.distill.dmd2"):
        assert name in fulls


def commands(text):
    for block in re.findall(r"^```(?:text|bash|)\n(.*?)^```", text, re.M | re.S):
        for line in re.sub(r"\\\n\s*", "", block).splitlines():
            if line.startswith("jaxdiff ") and not re.search(r"COMMAND|PRESET|\||\.\.\.", line):
                yield shlex.split(re.split("  #| > ", line)[0])[1:]


@pytest.mark.parametrize("name", [n for n in [*TEXTS, "README.md"] if any(commands(page(n)))])
def test_the_commands_of_a_page_are_understood(name):
    from jaxdiff.app.commands import COMMANDS
    from jaxdiff.app.config_given import own_options
    from jaxdiff.app.parsing import FromFile

    for command, *arguments in commands(page(name)):
        rest, file, _ = own_options(arguments)
        given = FromFile(printing=file is not None)  # what must be given may be in the file
        COMMANDS[command][0](command, rest, given)
