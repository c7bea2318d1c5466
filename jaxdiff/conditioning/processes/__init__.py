"""Processes that are changed by what is known: restoration by a diffusion of its own.

| process | how |
|---|---|
| DDRM | :func:`ddrm` from :func:`ddrm_start`, by :func:`jaxdiff.direct` |
| SNIPS | :func:`snips`, by :func:`jaxdiff.direct` |
| I2SB, DDBM, IR-SDE, DriftRec, InDI, ResShift | :func:`restore` with a :class:`Bridge`, trained by :func:`bridge_matching` |
| SinSR, one evaluation of ResShift | :func:`restore` with a student that :func:`sinsr` trained |
| cold diffusion | :func:`cold`, by :func:`jaxdiff.direct` |

    direct(D, processes.ddrm, levels, processes.ddrm_start(start, levels[0], measurement),
           key=key, measurement=measurement)
    processes.restore(D, processes.i2sb(), numpy.linspace(1, 0, 21), degraded, key=key)
"""  # noqa: E501

from jaxdiff.conditioning.processes.bridge import Bridge as Bridge
from jaxdiff.conditioning.processes.bridge import ddbm as ddbm
from jaxdiff.conditioning.processes.bridge import driftrec as driftrec
from jaxdiff.conditioning.processes.bridge import i2sb as i2sb
from jaxdiff.conditioning.processes.bridge import indi as indi
from jaxdiff.conditioning.processes.bridge import ir_sde as ir_sde
from jaxdiff.conditioning.processes.bridge import resshift as resshift
from jaxdiff.conditioning.processes.ddrm import ddrm as ddrm
from jaxdiff.conditioning.processes.ddrm import ddrm_start as ddrm_start
from jaxdiff.conditioning.processes.one_step import sinsr as sinsr
from jaxdiff.conditioning.processes.restore import cold as cold
from jaxdiff.conditioning.processes.restore import posterior as posterior
from jaxdiff.conditioning.processes.restore import restore as restore
from jaxdiff.conditioning.processes.restore import restorer as restorer
from jaxdiff.conditioning.processes.snips import snips as snips
from jaxdiff.conditioning.processes.training import bridge_matching as bridge_matching
from jaxdiff.conditioning.processes.training import bridge_state as bridge_state
