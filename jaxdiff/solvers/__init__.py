"""Every solver, as it stands in its paper: textbook functions that :func:`jaxdiff.table` traces.

The modules are by kind: singlestep, multistep, exponential, flow, own_time, taylor, v3, reversible,
adjusted (deterministic); intermediate, bespoke (with numbers to be learned); ancestral, analytic,
sde, stochastic_adams, extended_sde, excursions, langevin (stochastic); consistency_models,
flow_maps (for networks that jump).
"""

# deterministic
from jaxdiff.solvers.bespoke import bespoke as bespoke
from jaxdiff.solvers.exponential import dpmpp as dpmpp
from jaxdiff.solvers.exponential import unipc as unipc
from jaxdiff.solvers.flow import flow_heun as flow_heun
from jaxdiff.solvers.flow import flow_lms as flow_lms
from jaxdiff.solvers.flow import flow_midpoint as flow_midpoint
from jaxdiff.solvers.flow_maps import jump as jump
from jaxdiff.solvers.intermediate import amed as amed
from jaxdiff.solvers.intermediate import amed_dpm2 as amed_dpm2
from jaxdiff.solvers.intermediate import amed_dpmpp as amed_dpmpp
from jaxdiff.solvers.intermediate import amed_ipndm as amed_ipndm
from jaxdiff.solvers.intermediate import epd as epd
from jaxdiff.solvers.multistep import deis as deis
from jaxdiff.solvers.multistep import ipndm as ipndm
from jaxdiff.solvers.multistep import ipndm_v as ipndm_v
from jaxdiff.solvers.multistep import lms as lms
from jaxdiff.solvers.multistep import pndm as pndm
from jaxdiff.solvers.own_time import probability_flow as probability_flow
from jaxdiff.solvers.reversible import bdia as bdia
from jaxdiff.solvers.reversible import edict as edict
from jaxdiff.solvers.singlestep import dpm2 as dpm2
from jaxdiff.solvers.singlestep import dpm_solver as dpm_solver
from jaxdiff.solvers.singlestep import euler as euler
from jaxdiff.solvers.singlestep import heun as heun

# stochastic
from jaxdiff.solvers.analytic import analytic_dpm as analytic_dpm
from jaxdiff.solvers.ancestral import ddim as ddim
from jaxdiff.solvers.ancestral import ddpm as ddpm
from jaxdiff.solvers.ancestral import dpm2_ancestral as dpm2_ancestral
from jaxdiff.solvers.ancestral import dpmpp_2s_ancestral as dpmpp_2s_ancestral
from jaxdiff.solvers.consistency_models import consistency as consistency
from jaxdiff.solvers.consistency_models import tcd as tcd
from jaxdiff.solvers.excursions import churn as churn
from jaxdiff.solvers.excursions import restart as restart
from jaxdiff.solvers.extended_sde import er_sde as er_sde
from jaxdiff.solvers.flow_maps import gamma_sampling as gamma_sampling
from jaxdiff.solvers.langevin import predictor_corrector as predictor_corrector
from jaxdiff.solvers.sde import sde_dpmpp as sde_dpmpp
from jaxdiff.solvers.sde import sde_dpmpp_2s as sde_dpmpp_2s
from jaxdiff.solvers.stochastic_adams import sa_solver as sa_solver

# not linear in their states: run by jaxdiff.direct
from jaxdiff.solvers.adjusted import adjusted_ddim as adjusted_ddim
from jaxdiff.solvers.adjusted import adjusted_ddim_step as adjusted_ddim_step
from jaxdiff.solvers.analytic import ddpm_learned as ddpm_learned
from jaxdiff.solvers.analytic import extended_analytic_dpm as extended_analytic_dpm
from jaxdiff.solvers.taylor import genie as genie
from jaxdiff.solvers.v3 import dpm_v3 as dpm_v3

# what goes with them: plans, statistics, single steps, an analytic first step
from jaxdiff.solvers.analytic import second_moments as second_moments
from jaxdiff.solvers.consistency_models import earlier_levels as earlier_levels
from jaxdiff.solvers.consistency_models import latent_consistency as latent_consistency
from jaxdiff.solvers.extended_sde import er_scale as er_scale
from jaxdiff.solvers.extended_sde import ode_scale as ode_scale
from jaxdiff.solvers.extended_sde import sde_scale as sde_scale
from jaxdiff.solvers.model_statistics import estimate_statistics as estimate_statistics
from jaxdiff.solvers.model_statistics import gaussian_statistics as gaussian_statistics
from jaxdiff.solvers.intermediate import amed_dpm2_step as amed_dpm2_step
from jaxdiff.solvers.intermediate import amed_dpmpp_step as amed_dpmpp_step
from jaxdiff.solvers.intermediate import amed_ipndm_step as amed_ipndm_step
from jaxdiff.solvers.intermediate import amed_step as amed_step
from jaxdiff.solvers.planning import plan as plan
from jaxdiff.solvers.planning import plan_orders as plan_orders
from jaxdiff.solvers.singlestep import dpm2_step as dpm2_step
from jaxdiff.solvers.singlestep import dpm_step as dpm_step
from jaxdiff.solvers.singlestep import euler_step as euler_step
from jaxdiff.solvers.singlestep import heun_step as heun_step
from jaxdiff.solvers.singlestep import unit_first as unit_first
