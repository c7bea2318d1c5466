"""Processes that are changed by what is known: restoration by a diffusion of its own.

direct(processes.ddrm, D, levels, processes.ddrm_start(start, levels[0], measurement),
       key=key, measurement=measurement)
"""

from jaxdiff.conditioning.processes.ddrm import ddrm as ddrm
from jaxdiff.conditioning.processes.ddrm import ddrm_start as ddrm_start
from jaxdiff.conditioning.processes.snips import snips as snips
