"""Tuning samplers: schedules by search, tables by gradient descent.

A table is optimised, so one harness serves everything: a *family* says which numbers make a
table, an *objective* is its loss, :func:`tuning` makes a method of both, and
:func:`jaxdiff.tune` runs it.
"""

from jaxdiff.brief import public_names as _public_names

# schedules by search
from jaxdiff.tuning.search.align import align as align
from jaxdiff.tuning.search.align import align_costs as align_costs
from jaxdiff.grids.dynamic import best_grids as best_grids
from jaxdiff.grids.dynamic import shortest as shortest
from jaxdiff.tuning.search.elbo import best_elbo as best_elbo
from jaxdiff.tuning.search.elbo import elbo_costs as elbo_costs
from jaxdiff.tuning.search.gits import gits as gits
from jaxdiff.tuning.search.gits import insert_analytic as insert_analytic
from jaxdiff.tuning.search.gits import jump_costs as jump_costs
from jaxdiff.tuning.search.optimised_steps import optimised_steps as optimised_steps

# tables by gradient: families, objectives, the method
from jaxdiff.tuning.learned.family import Family as Family
from jaxdiff.tuning.learned.family import concrete as concrete
from jaxdiff.tuning.learned.family import of_grid as of_grid
from jaxdiff.tuning.learned.family import of_weights as of_weights
from jaxdiff.tuning.learned.family import of_options as of_options
from jaxdiff.tuning.learned.flatten import flatten as flatten
from jaxdiff.tuning.learned.flatten import unflatten as unflatten
from jaxdiff.tuning.baselines import baselines as baselines
from jaxdiff.tuning.learned.levels import moving as moving
from jaxdiff.tuning.learned.levels import snapped as snapped
from jaxdiff.tuning.learned.method import Ball as Ball
from jaxdiff.tuning.learned.method import Turns as Turns
from jaxdiff.tuning.learned.method import tuning as tuning
from jaxdiff.tuning.learned.objective import end_point as end_point
from jaxdiff.tuning.learned.objective import every_state as every_state
from jaxdiff.tuning.learned.objective import kernel_distance as kernel_distance
from jaxdiff.tuning.learned.path import Path as Path
from jaxdiff.tuning.learned.path import follow as follow

# what is no table: per-sample predictions, and steps in the basis of the trajectory so far
from jaxdiff.tuning.learned.amed import PredictedSampler as PredictedSampler
from jaxdiff.tuning.learned.amed_network import Predictor as Predictor
from jaxdiff.tuning.learned.amed import amed_predictor as amed_predictor
from jaxdiff.tuning.learned.amed_network import bottleneck_size as bottleneck_size
from jaxdiff.tuning.learned.bespoke import bespoke_tuning as bespoke_tuning
from jaxdiff.tuning.learned.bespoke import of_bespoke as of_bespoke
from jaxdiff.tuning.learned.pas import Corrections as Corrections
from jaxdiff.tuning.learned.pas_search import pas_errors as pas_errors
from jaxdiff.tuning.learned.pas import load_corrections as load_corrections
from jaxdiff.tuning.learned.pas import pas as pas
from jaxdiff.tuning.learned.pas_search import pas_search as pas_search
from jaxdiff.tuning.learned.pas import uncorrected as uncorrected


def __dir__() -> list[str]:
    return _public_names(globals())
