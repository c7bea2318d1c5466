"""Every solver, deterministic and stochastic, under its name."""

from jaxdiff.sampling.ode import deis as deis
from jaxdiff.sampling.ode import dpm2 as dpm2
from jaxdiff.sampling.ode import dpmpp as dpmpp
from jaxdiff.sampling.ode import euler as euler
from jaxdiff.sampling.ode import heun as heun
from jaxdiff.sampling.ode import ipndm as ipndm
from jaxdiff.sampling.ode import ipndm_v as ipndm_v
from jaxdiff.sampling.ode import lms as lms
from jaxdiff.sampling.ode import unipc as unipc
from jaxdiff.sampling.ode import unit_first as unit_first
from jaxdiff.sampling.sde import churn as churn
from jaxdiff.sampling.sde import consistency as consistency
from jaxdiff.sampling.sde import ddim as ddim
from jaxdiff.sampling.sde import ddpm as ddpm
from jaxdiff.sampling.sde import dpm2_ancestral as dpm2_ancestral
from jaxdiff.sampling.sde import dpmpp_2s_ancestral as dpmpp_2s_ancestral
from jaxdiff.sampling.sde import sde_dpmpp as sde_dpmpp
from jaxdiff.sampling.sde import sde_dpmpp_2s as sde_dpmpp_2s
