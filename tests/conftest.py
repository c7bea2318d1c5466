"""Strict numerics for every test: float64, no silent promotion; compiled programs are kept.

Tests spend their time compiling, so that their programs are compiled in the quickest way, which
does the same operations in slower code. ``JAX_DISABLE_MOST_OPTIMIZATIONS=0`` compiles them as
users' programs are, and so does the fixture ``optimised``, which is for modules whose programs run
for longer than they take to compile, or hang on rounding.
"""

import gc
import itertools
import os
import tempfile

# of XLA's threads, of which decompositions of a batch occupy one each while they wait for others:
# two such in one program wait for ever on two cores; read when the first array is made
os.environ.setdefault("NPROC", "8")

import jax
import numpy as np
import pytest
from helpers.shapes import check_shapes

check_shapes()
jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
_cache = os.environ.get(
    "JAXDIFF_TEST_CACHE", os.path.join(tempfile.gettempdir(), f"jaxdiff-xla-{jax.__version__}")
)
if _cache:
    jax.config.update("jax_compilation_cache_dir", _cache)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)

# later versions stop at a flag they do not know
QUICKLY = "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
QUICKLY = QUICKLY if jax.__version_info__ < (0, 11) else ""


def pytest_configure(config):
    """Before anything is compiled, in every worker and for the processes that tests start."""
    given = os.environ.get("XLA_FLAGS", "")
    if QUICKLY not in given:
        os.environ["XLA_FLAGS"] = f"{QUICKLY} {given}"  # what is given comes last and counts
    if "JAX_DISABLE_MOST_OPTIMIZATIONS" not in os.environ:
        os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
        jax.config.update("jax_disable_most_optimizations", True)


def pytest_collection_finish(session):
    """What was imported stays: the collector of garbage need not look at it again and again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


@pytest.fixture(scope="module")
def optimised():
    """Programs compiled as users' are, for the tests of a module."""
    quickly = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", quickly)


def _memory_maps():
    """How many pieces of memory are mapped into this process; 0 where the system does not say."""
    try:
        with open("/proc/self/maps", "rb") as maps:
            return sum(1 for _ in maps)
    except OSError:
        return 0


_tests = itertools.count(1)


def pytest_runtest_teardown(item):
    """Drop compiled programs in time: one takes some ten maps, and Linux allows 65,530."""
    if next(_tests) % 10 == 0 and _memory_maps() > 25_000:
        jax.clear_caches()
        gc.collect()


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def key():
    return jax.random.key(0)
