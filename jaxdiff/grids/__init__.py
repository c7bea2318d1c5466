"""Grids of noise levels: strictly decreasing arrays, nothing else.

``num_steps`` counts intervals, so a grid has num_steps + 1 knots. Grids are made on the host in
float64.
Any list of levels is a grid: solvers and :func:`jaxdiff.sampling.trace.table` take sequences of
numbers as they are, and :func:`from_list` checks one first.

Where a grid ends is stated, never guessed, and numbers of different conventions are not comparable:

- ``zero=True``, the default: the last knot is 0 and the one before it is ``low``, as in EDM (arXiv
  2206.00364). A step to 0 returns the denoised output, for every solver.
- ``zero=False``: the grid ends at ``low``, as most papers on few-step solvers have it, and the
  sample keeps noise of that level.
- ``table(solver, grid, denoise=True)`` on a grid that ends at ``low``: the last state is denoised
  by one more evaluation. For solvers with one evaluation per step that is what ``zero=True`` does.
- :func:`end_in_zero` puts 0 in the place of the last level, so that the one before it is what is
  denoised: how lists such as :data:`AYS_SDXL`, and many grids in timesteps, are used.

Uniform in something of the level: :func:`karras`, :func:`log_snr` (:data:`exponential`),
:func:`poly_exponential`, :func:`arctan`, :func:`cosine`, :func:`vp_time`. In a process's own time:
:func:`of_process`, :func:`beta`, :func:`flow`, and the integer :func:`timesteps` of discrete models
by :func:`of_timesteps`; :func:`earlier_levels` for TCD. Of lists: :func:`from_list`,
:func:`resample`, :func:`snap`, :func:`shift`, and the published ``AYS_*`` and ``GITS_*``.
"""

from jaxdiff.grids.ends import Grid as Grid
from jaxdiff.grids.lists import AYS_DEEPFLOYD as AYS_DEEPFLOYD
from jaxdiff.grids.lists import AYS_SD15 as AYS_SD15
from jaxdiff.grids.lists import AYS_SDXL as AYS_SDXL
from jaxdiff.grids.lists import AYS_SVD as AYS_SVD
from jaxdiff.grids.lists import GITS_CIFAR10 as GITS_CIFAR10
from jaxdiff.grids.lists import GITS_SDXL as GITS_SDXL
from jaxdiff.grids.lists import end_in_zero as end_in_zero
from jaxdiff.grids.lists import from_list as from_list
from jaxdiff.grids.lists import resample as resample
from jaxdiff.grids.lists import shift as shift
from jaxdiff.grids.lists import snap as snap
from jaxdiff.grids.times import beta as beta
from jaxdiff.grids.times import earlier_levels as earlier_levels
from jaxdiff.grids.times import flow as flow
from jaxdiff.grids.times import of_process as of_process
from jaxdiff.grids.times import of_timesteps as of_timesteps
from jaxdiff.grids.times import resolution_shift as resolution_shift
from jaxdiff.grids.times import timesteps as timesteps
from jaxdiff.grids.uniform import arctan as arctan
from jaxdiff.grids.uniform import cosine as cosine
from jaxdiff.grids.uniform import exponential as exponential
from jaxdiff.grids.uniform import karras as karras
from jaxdiff.grids.uniform import log_snr as log_snr
from jaxdiff.grids.uniform import poly_exponential as poly_exponential
from jaxdiff.grids.uniform import vp_time as vp_time
