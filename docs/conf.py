"""Sphinx's configuration; ``python -m docs`` builds the site with it."""

import importlib.metadata
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "docs/_ext")]

project = "jaxdiff"
author = "the jaxdiff developers"
copyright = f"{author}, Apache-2.0"
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx.ext.mathjax",
    "sphinx_copybutton",
    "sphinx_design",
    "docstrings",
]
root_doc = "index"
exclude_patterns: list[str] = []
nitpicky = True
# types in signatures are read, not followed: many are of other packages, whose pages are elsewhere
nitpick_ignore_regex = [(r"py:(class|data|obj)", r"(?!jaxdiff\.).*")]

myst_enable_extensions = ["dollarmath", "colon_fence", "deflist"]
myst_heading_anchors = 3
nb_custom_formats = {".py": ["notebooks.read", {}]}
nb_execution_timeout = 300
nb_execution_raise_on_error = True
nb_execution_in_temp = True
nb_merge_streams = True
nb_execution_show_tb = True

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 88
napoleon_numpy_docstring = False
napoleon_use_rtype = False

html_theme = "sphinx_book_theme"
html_title = "jaxdiff"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_favicon = "_static/icon.svg"
html_theme_options = {
    "show_toc_level": 2,
    "home_page_in_toc": True,
    "navbar_persistent": [],
    "use_download_button": False,
    "use_fullscreen_button": False,
}
html_context = {"default_mode": "auto"}  # light or dark as the system is
html_show_sourcelink = False
html_copy_source = False


def mathjax() -> Path:
    """Return MathJax (Apache-2.0), one file that needs no other, from its installed package."""
    for path in importlib.metadata.files("django-static-mathjax") or ():
        if path.as_posix().endswith("es5/tex-svg.js"):
            return Path(str(path.locate()))
    raise FileNotFoundError("django-static-mathjax has no es5/tex-svg.js: pip install -e '.[docs]'")


mathjax_path = "mathjax/tex-svg.js"
mathjax3_config = {"options": {"enableMenu": False}}


def add_mathjax(app, exception) -> None:  # noqa: ANN001
    """Put MathJax beside the site's other files, so that no page asks another server for it."""
    import shutil

    if exception is None and app.builder.format == "html":
        place = Path(app.outdir) / "_static" / mathjax_path
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(mathjax(), place)


def setup(app) -> None:  # noqa: ANN001
    """Connect what is done at the end of a build."""
    app.connect("build-finished", add_mathjax)
