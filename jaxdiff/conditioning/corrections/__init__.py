"""Corrections: what is known of a sample, put into every state that a sampler accepts.

``correct(y, level, key) -> y``, an optional argument of every solve
(:mod:`jaxdiff.sampling.correction`); and paths that go up in noise again, after which corrections
agree with the rest of the sample.

    correct = corrections.replacement(known, mask)
    table = corrections.travel_table(jd.solvers.ddpm, levels, corrections.resampling_path(250))
    x = jd.sample(D, table, start, key=key, correct=correct)              # RePaint
"""

from jaxdiff.conditioning.corrections.null_space import ddnm as ddnm
from jaxdiff.conditioning.corrections.null_space import ddnm_plus as ddnm_plus
from jaxdiff.conditioning.corrections.projection import ilvr as ilvr
from jaxdiff.conditioning.corrections.projection import projection as projection
from jaxdiff.conditioning.corrections.replacement import follow as follow
from jaxdiff.conditioning.corrections.replacement import replacement as replacement
from jaxdiff.conditioning.corrections.travel import resampling_path as resampling_path
from jaxdiff.conditioning.corrections.travel import travel_table as travel_table
