"""Docstrings of what is public: each says what its arguments are and what it returns."""

import importlib
import inspect

from jaxdiff.recipes.choices import documented

PACKAGES = (  # of which everything that is exported is public
    "jaxdiff", "jaxdiff.solvers", "jaxdiff.grids", "jaxdiff.process", "jaxdiff.exact",
    "jaxdiff.distill", "jaxdiff.tuning", "jaxdiff.networks", "jaxdiff.pretrained",
    "jaxdiff.training", "jaxdiff.metrics", "jaxdiff.data", "jaxdiff.analysis", "jaxdiff.adapt",
    "jaxdiff.autoencoding",
)  # fmt: skip
MODULES = (  # of which what they define is
    "jaxdiff.prediction", "jaxdiff.denoisers", "jaxdiff.conditioning.guidance",
    "jaxdiff.conditioning.threshold", "jaxdiff.sampling.gaussian_start",
)  # fmt: skip
OF_PACKAGES = {"T"}  # names of types, which say nothing


def public():
    """Public functions and classes by the name that they are found at, each once."""
    found = {}
    for package in (*PACKAGES, *MODULES):
        module = importlib.import_module(package)
        for name in sorted(n for n in dir(module) if not n.startswith("_")):
            item = getattr(module, name)
            home = getattr(item, "__module__", None) or ""
            own = home.startswith("jaxdiff") if package in PACKAGES else home == package
            if own and name not in OF_PACKAGES and not inspect.ismodule(item):
                found.setdefault(id(item), (f"{package}.{name}", item))
    return found.values()


def wrong(name, item):
    """Return what a docstring lacks, if anything."""
    text = inspect.getdoc(item)
    if not text or inspect.isclass(item) and item.__doc__ is None:
        return f"{name} has no docstring"
    if inspect.isclass(item) or not inspect.isroutine(inspect.unwrap(item)):
        return None
    lacking = set(inspect.signature(item).parameters) - set(documented(item))
    if lacking:
        return f"{name} does not say what {', '.join(sorted(lacking))} is"
    if "\nReturns:\n" not in text and "\nYields:\n" not in text:
        return f"{name} does not say what it returns"
    return None


def test_docstrings_name_every_argument_and_what_is_returned():
    assert not [w for name, item in public() if (w := wrong(name, item))]


def test_what_is_lacking_is_found():
    def good(x):
        """Return x.

        Args:
            x: a number.

        Returns:
            The number.
        """

    def silent(x): ...

    def other(x, y):
        """Return x.

        Args:
            x: a number.

        Returns:
            The number.
        """

    def mute(x):
        """Return x.

        Args:
            x: a number.
        """

    assert wrong("good", good) is None
    assert wrong("silent", silent) == "silent has no docstring"
    assert wrong("other", other) == "other does not say what y is"
    assert wrong("mute", mute) == "mute does not say what it returns"


def test_the_public_names_are_many():
    names = [name for name, _ in public()]
    for name in ("sample", "solvers.unipc", "distill.dmd2", "tuning.gits", "networks.UNet"):
        assert f"jaxdiff.{name}" in names
    assert len(names) > 350
