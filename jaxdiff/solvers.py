"""Every solver, deterministic and stochastic, under its name."""

from jaxdiff.sampling.ancestral import ddim as ddim
from jaxdiff.sampling.ancestral import ddpm as ddpm
from jaxdiff.sampling.ancestral import dpm2_ancestral as dpm2_ancestral
from jaxdiff.sampling.ancestral import dpmpp_2s_ancestral as dpmpp_2s_ancestral
from jaxdiff.sampling.churn import churn as churn
from jaxdiff.sampling.consistency import consistency as consistency
from jaxdiff.sampling.exponential import dpmpp as dpmpp
from jaxdiff.sampling.exponential import unipc as unipc
from jaxdiff.sampling.multistep import deis as deis
from jaxdiff.sampling.multistep import ipndm as ipndm
from jaxdiff.sampling.multistep import ipndm_v as ipndm_v
from jaxdiff.sampling.multistep import lms as lms
from jaxdiff.sampling.sde import sde_dpmpp as sde_dpmpp
from jaxdiff.sampling.sde import sde_dpmpp_2s as sde_dpmpp_2s
from jaxdiff.sampling.singlestep import dpm2 as dpm2
from jaxdiff.sampling.singlestep import dpm2_step as dpm2_step
from jaxdiff.sampling.singlestep import euler as euler
from jaxdiff.sampling.singlestep import euler_step as euler_step
from jaxdiff.sampling.singlestep import heun as heun
from jaxdiff.sampling.singlestep import heun_step as heun_step
from jaxdiff.sampling.singlestep import unit_first as unit_first
