"""The documentation site, built as it is: no warning, nothing asked of other servers."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    for module in ("sphinx", "myst_nb", "sphinx_book_theme", "sphinx_design", "sphinx_copybutton"):
        pytest.importorskip(module, reason="needs pip install -e '.[docs]'")
    folder = tmp_path_factory.mktemp("site")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment.pop("JAX_DISABLE_MOST_OPTIMIZATIONS", None)
    done = subprocess.run(
        [sys.executable, "-m", "docs", "--notebooks", "off",
         "--out", str(folder / "site"), "--work", str(folder / "work")],
        cwd=ROOT, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    return folder / "site"


@pytest.mark.slow
def test_the_site_is_whole_and_asks_no_other_server_for_anything(site):
    pages = list(site.rglob("*.html"))
    assert len(pages) > 80
    for page in pages:
        text = page.read_text()
        for tag in re.findall(r"<(?:script|link|img|iframe|source)\b[^>]*>", text):
            assert not re.search(r"""(?:src|href)=["'](?:https?:)?//""", tag), f"{page.name}: {tag}"
    assert (site / "_static/mathjax/tex-svg.js").stat().st_size > 1e6
    assert "x_t = " in (site / "concepts/frame.html").read_text()
    assert 'id="jaxdiff.solvers.unipc"' in (site / "api/solvers.html").read_text()
