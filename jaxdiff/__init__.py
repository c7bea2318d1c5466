"""jaxdiff: fast sampling, sampler tuning and distillation of diffusion models in JAX.

    import jaxdiff as jd

    D = jd.exact.Gaussian(mean, variances).denoiser            # or jd.denoiser(network, params)
    table = jd.table(jd.solvers.unipc, jd.grids.karras(10))    # trace a textbook solver once
    start = jd.start(jax.random.key(0), table, 16, shape)      # level * noise
    x = jd.sample(D, table, start)                             # jit, vmap, grad, pmap at will

What needs optax, orbax or flax (``adapt``, ``classify``, ``distill``, ``tuning``, ``networks``,
``pretrained``, ``training``, ``metrics``, ``fit``, ``tune``, ``load_pretrained``) is imported when
first used, and so is ``analysis``.
"""

import importlib
from typing import Any

from jaxdiff import denoisers as denoisers
from jaxdiff import exact as exact
from jaxdiff import grids as grids
from jaxdiff import prediction as prediction
from jaxdiff import process as process
from jaxdiff import solvers as solvers
from jaxdiff.arrays import expand as expand
from jaxdiff.brief import public_names as _public_names
from jaxdiff.conditioning import guidance as guidance
from jaxdiff.conditioning import operators as operators
from jaxdiff.conditioning import posterior as posterior
from jaxdiff.conditioning import threshold as threshold
from jaxdiff.denoisers import denoiser as denoiser
from jaxdiff.noise import start_noise as start_noise
from jaxdiff.sampling import gaussian_start as gaussian_start
from jaxdiff.sampling.adaptive.dpm_solver import dpm_adaptive as dpm_adaptive
from jaxdiff.sampling.adaptive.gotta_go_fast import gotta_go_fast as gotta_go_fast
from jaxdiff.sampling.adaptive.probability_flow import adaptive as adaptive
from jaxdiff.sampling.adaptive.reverse_sde import reverse_sde as reverse_sde
from jaxdiff.sampling.dequantisation import bits_per_dimension as bits_per_dimension
from jaxdiff.sampling.dequantisation import dequantise as dequantise
from jaxdiff.sampling.direct import direct as direct
from jaxdiff.sampling.inversion import decode as decode
from jaxdiff.sampling.inversion import encode as encode
from jaxdiff.sampling.inversion import invert as invert
from jaxdiff.sampling.likelihood import log_likelihood as log_likelihood
from jaxdiff.sampling.parallel import sample_in_stages as sample_in_stages
from jaxdiff.sampling.parallel import stages as stages
from jaxdiff.sampling.picard import picard as picard
from jaxdiff.sampling.sample import Trajectory as Trajectory
from jaxdiff.sampling.sample import sample as sample
from jaxdiff.sampling.sample import trajectory as trajectory
from jaxdiff.sampling.sampler import Sampler as Sampler
from jaxdiff.sampling.start import start as start
from jaxdiff.sampling.table import Table as Table
from jaxdiff.sampling.table import load_table as load_table
from jaxdiff.sampling.table import pad as pad
from jaxdiff.sampling.trace import table as table

__version__ = "0.1.0"

_LATER = {
    "adapt": "jaxdiff.adapt",
    "analysis": "jaxdiff.analysis",
    "attention": "jaxdiff.conditioning.attention",
    "autoencoding": "jaxdiff.autoencoding",
    "blending": "jaxdiff.conditioning.blending",
    "cascade": "jaxdiff.conditioning.cascade:cascade",
    "CascadeStage": "jaxdiff.conditioning.cascade:CascadeStage",
    "cite": "jaxdiff.citing:cite",
    "classify": "jaxdiff.classify",
    "corrections": "jaxdiff.conditioning.corrections",
    "data": "jaxdiff.data",
    "distill": "jaxdiff.distill",
    "metrics": "jaxdiff.metrics",
    "networks": "jaxdiff.networks",
    "pretrained": "jaxdiff.pretrained",
    "processes": "jaxdiff.conditioning.processes",
    "load_pretrained": "jaxdiff.pretrained.opening:load_pretrained",
    "load_run": "jaxdiff.app.load_run:load_run",
    "report": "jaxdiff.report",
    "training": "jaxdiff.training",
    "tuning": "jaxdiff.tuning",
    "tune": "jaxdiff.training.tune:tune",
    "editing": "jaxdiff.conditioning.editing",
    "held_out": "jaxdiff.training.tune:held_out",
    "Context": "jaxdiff.method:Context",
    "Method": "jaxdiff.method:Method",
    "Player": "jaxdiff.method:Player",
    "fit": "jaxdiff.training.loop:fit",
    "sinks": "jaxdiff.training.sinks",
}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module 'jaxdiff' has no attribute {name!r}")
    module, _, attribute = _LATER[name].partition(":")
    found = importlib.import_module(module)
    return getattr(found, attribute) if attribute else found


_MODULES = {
    "denoisers", "exact", "gaussian_start", "grids", "guidance", "operators", "posterior",
    "prediction", "process", "solvers", "threshold",
}  # fmt: skip


def __dir__() -> list[str]:
    private = {"Any", "importlib"}
    return sorted({*_public_names(globals()), *_MODULES, *_LATER, "__version__"} - private)
