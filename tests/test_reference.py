"""The reference of the site: docstrings as reStructuredText, names led to where they stand."""

import importlib.util
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from docs import reference  # noqa: E402

spec = importlib.util.spec_from_file_location("docstrings", ROOT / "docs/_ext/docstrings.py")
docstrings = importlib.util.module_from_spec(spec)
spec.loader.exec_module(docstrings)


def test_signs_stand_for_themselves_outside_of_literals():
    line = r"(batch, *shape) of |x| and x_ in ``*args`` by :func:`a_b`"
    assert (
        reference.escape(line) == r"(batch, \*shape) of \|x\| and x\_ in ``*args`` by :func:`a_b`"
    )


def test_blocks_are_literal_and_sections_are_left_to_napoleon():
    lines = ["A sum.", "", "    x = a * b", "", "Args:", "    x: a *b*.", "", "Returns:", "    It."]
    text = docstrings.shown(lines)
    assert text[text.index("::") :][:3] == ["::", "", "    x = a * b"]
    assert r"    x: a \*b\*." in text and text.count("::") == 1


def test_fields_of_a_record_are_a_list():
    lines = [
        "A record.",
        "",
        "low: the lowest",
        "    of all.",
        "high: the highest.",
        "",
        "The end.",
    ]
    text = docstrings.shown(lines, frozenset({"low", "high"}))
    assert "* ``low``: the lowest" in text and "  of all." in text
    assert "* ``high``: the highest." in text
    assert text.index("* ``high``: the highest.") < text.index("The end.") - 1


def test_names_of_a_module_get_whole_paths():
    from jaxdiff import denoisers

    text = "As :func:`denoiser` and :func:`jax.jit`.\n\nRaises:\n    ValueError: never."
    found = reference.qualified(text, denoisers)
    assert ":func:`denoiser <jaxdiff.denoisers.denoiser>` and :func:`jax.jit`" in found
    assert "    ValueError: never." in found


def test_paths_are_found_behind_functions_of_the_same_name():
    import jaxdiff as jd

    assert reference.imported("jaxdiff.solvers.unipc") is jd.solvers.unipc
    assert reference.imported("jaxdiff.solvers.amed.amed") is jd.solvers.amed
    assert reference.public_name(jd.table) == "jaxdiff.table"
    with pytest.raises(AttributeError, match="there is no jaxdiff.nothing"):
        reference.imported("jaxdiff.nothing")


def test_summaries_are_one_sentence():
    def f():
        """DDIM (arXiv 2010.02502, eq. 12), with :func:`jaxdiff.a.b`. And more."""

    assert reference.summary(f) == "DDIM (arXiv 2010.02502, eq. 12), with ``b``"


def test_types_have_the_names_that_they_have_in_the_code():
    array = "~jax.jaxlib._jax.Array"
    like = f"{array} | ~numpy.ndarray | ~numpy.bool | ~numpy.number | bool | int | float | complex"
    text = f"(y: {array}, level: {like}, dtype=<class 'jax.numpy.float32'>)"
    assert docstrings.shortened(text) == "(y: Array, level: ArrayLike, dtype=float32)"
    assert (
        docstrings.shortened("~jaxtyping.Float[jaxlib._jax.Array, 'b d']") == "Float[Array, 'b d']"
    )
    assert docstrings.shortened(None) is None
