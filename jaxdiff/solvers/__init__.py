"""Every solver, as it stands in its paper: a textbook function in a file named after its method.

A solver is a generator ``solver(D, y, levels, **options)`` that yields the state at every level
after the first; a stochastic one takes ``noise`` too, each call of which is a new standard normal
vector. D and y may be arrays, on which it simply runs (:func:`jaxdiff.direct`), or the symbolic
vectors of :mod:`jaxdiff.sampling.trace`, by which it becomes a table (:func:`jaxdiff.table`).

Deterministic
    Euler, DDIM                    euler                   euler.py                  2010.02502
    EDM, Heun's method             heun                    heun.py                   2206.00364
    DPM-Solver-2                   dpm2                    dpm_solver.py             2206.00927
    DPM-Solver, DPM-Solver++ S     dpm_solver              dpm_solver.py             2206.00927
    linear multistep               lms                     lms.py                    2204.13902
    PNDM, PLMS                     pndm                    pndm.py                   2202.09778
    iPNDM                          ipndm                   pndm.py                   2204.13902
    iPNDM_v                        ipndm_v                 pndm.py                   2204.13902
    DEIS                           deis                    deis.py                   2204.13902
    DPM-Solver++ M                 dpmpp                   dpmpp.py                  2211.01095
    UniPC                          unipc                   unipc.py                  2302.04867
    rectified flow, Heun           flow_heun               flow.py                   2209.03003
    rectified flow, midpoint       flow_midpoint           flow.py                   2209.03003
    rectified flow, multistep      flow_lms                flow.py                   2209.03003
    probability flow in any time   probability_flow        probability_flow.py       2206.00364
    EDICT                          edict                   edict.py                  2211.12446
    BDIA                           bdia                    bdia.py                   2307.10829
Deterministic, with numbers to be learned
    AMED-Solver                    amed                    amed.py                   2312.00094
    AMED-Plugin on DPM-Solver-2    amed_dpm2               amed.py                   2312.00094
    AMED-Plugin on DPM-Solver++    amed_dpmpp              amed_plugin.py            2312.00094
    AMED-Plugin on iPNDM           amed_ipndm              amed_plugin.py            2312.00094
    EPD-Solver                     epd                     epd.py                    2507.14797
    Bespoke                        bespoke                 bespoke.py                2310.19075
Stochastic
    DDIM with noise                ddim                    ddim.py                   2010.02502
    DDPM                           ddpm                    ddpm.py                   2006.11239
    DPM-Solver-2 ancestral         dpm2_ancestral          ancestral.py              2206.00927
    DPM-Solver++ 2S ancestral      dpmpp_2s_ancestral      ancestral.py              2211.01095
    SDE-DPM-Solver++ M             sde_dpmpp               sde_dpmpp.py              2211.01095
    SDE-DPM-Solver++ S             sde_dpmpp_2s            sde_dpmpp.py              2211.01095
    SA-Solver                      sa_solver               sa_solver.py              2309.05019
    ER-SDE-Solver                  er_sde                  er_sde.py                 2309.06169
    EDM, stochastic                churn                   churn.py                  2206.00364
    Restart                        restart                 restart.py                2306.14878
    predictor-corrector            predictor_corrector     predictor_corrector.py    2011.13456
    Analytic-DPM                   analytic_dpm            analytic_dpm.py           2201.06503
Of networks that jump
    consistency models             consistency             consistency.py            2303.01469
    trajectory consistency         tcd                     tcd.py                    2402.19159
    flow maps                      jump                    gamma_sampling.py         2310.02279
    CTM's gamma-sampling           gamma_sampling          gamma_sampling.py         2310.02279
Not linear in their states: no tables, run by :func:`jaxdiff.direct`
    GENIE                          genie                   genie.py                  2210.05475
    DPM-Solver-v3                  dpm_v3                  dpm_solver_v3.py          2310.13268
    adjusted DDIM                  adjusted_ddim           adjusted_ddim.py          2403.06807
    Improved DDPM                  ddpm_learned            improved_ddpm.py          2102.09672
    Extended Analytic-DPM          extended_analytic_dpm   extended_analytic_dpm.py  2206.07309

To add one: its file, and here its row, its import and its place in the list ``SOLVERS``, which
everything else that goes through solvers is made of.

What goes with them is in modules of its own: single steps and the analytic first step in ``steps``,
numbers of evaluations spread over orders in ``planning``, statistics of the model that some solvers
need in ``model_statistics``. A module that bears its solver's name gives names by ``from
jaxdiff.solvers.amed import amed_step``: ``jaxdiff.solvers.amed`` is the solver.
"""

from jaxdiff.process import VP
from jaxdiff.solvers import model_statistics as model_statistics
from jaxdiff.solvers import planning as planning
from jaxdiff.solvers import steps as steps
from jaxdiff.solvers.adjusted_ddim import adjusted_ddim as adjusted_ddim
from jaxdiff.solvers.amed import amed as amed
from jaxdiff.solvers.amed import amed_dpm2 as amed_dpm2
from jaxdiff.solvers.amed_plugin import amed_dpmpp as amed_dpmpp
from jaxdiff.solvers.amed_plugin import amed_ipndm as amed_ipndm
from jaxdiff.solvers.analytic_dpm import analytic_dpm as analytic_dpm
from jaxdiff.solvers.ancestral import dpm2_ancestral as dpm2_ancestral
from jaxdiff.solvers.ancestral import dpmpp_2s_ancestral as dpmpp_2s_ancestral
from jaxdiff.solvers.bdia import bdia as bdia
from jaxdiff.solvers.bespoke import bespoke as bespoke
from jaxdiff.solvers.churn import churn as churn
from jaxdiff.solvers.consistency import consistency as consistency
from jaxdiff.solvers.ddim import ddim as ddim
from jaxdiff.solvers.ddpm import ddpm as ddpm
from jaxdiff.solvers.deis import deis as deis
from jaxdiff.solvers.dpm_solver import dpm2 as dpm2
from jaxdiff.solvers.dpm_solver import dpm_solver as dpm_solver
from jaxdiff.solvers.dpm_solver_v3 import dpm_v3 as dpm_v3
from jaxdiff.solvers.dpmpp import dpmpp as dpmpp
from jaxdiff.solvers.edict import edict as edict
from jaxdiff.solvers.epd import epd as epd
from jaxdiff.solvers.er_sde import er_sde as er_sde
from jaxdiff.solvers.euler import euler as euler
from jaxdiff.solvers.extended_analytic_dpm import extended_analytic_dpm as extended_analytic_dpm
from jaxdiff.solvers.flow import flow_heun as flow_heun
from jaxdiff.solvers.flow import flow_lms as flow_lms
from jaxdiff.solvers.flow import flow_midpoint as flow_midpoint
from jaxdiff.solvers.gamma_sampling import gamma_sampling as gamma_sampling
from jaxdiff.solvers.gamma_sampling import jump as jump
from jaxdiff.solvers.genie import genie as genie
from jaxdiff.solvers.heun import heun as heun
from jaxdiff.solvers.improved_ddpm import ddpm_learned as ddpm_learned
from jaxdiff.solvers.lms import lms as lms
from jaxdiff.solvers.pndm import ipndm as ipndm
from jaxdiff.solvers.pndm import ipndm_v as ipndm_v
from jaxdiff.solvers.pndm import pndm as pndm
from jaxdiff.solvers.predictor_corrector import predictor_corrector as predictor_corrector
from jaxdiff.solvers.probability_flow import probability_flow as probability_flow
from jaxdiff.solvers.restart import restart as restart
from jaxdiff.solvers.sa_solver import sa_solver as sa_solver
from jaxdiff.solvers.sde_dpmpp import sde_dpmpp as sde_dpmpp
from jaxdiff.solvers.sde_dpmpp import sde_dpmpp_2s as sde_dpmpp_2s
from jaxdiff.solvers.tcd import tcd as tcd
from jaxdiff.solvers.unipc import unipc as unipc
from jaxdiff.solvers.er_sde import sde_scale
from jaxdiff.solvers.listing import ANY_ORDER, KnownOrder, SolverEntry, each_order
from jaxdiff.solvers.model_statistics import unit_moment

# The one place that describes a solver to the rest: its names on the command line, the
# baselines, the sweeps, the table of all samplers and the tests are made of this list.
SOLVERS: list[SolverEntry] = [
    # one evaluation per step
    SolverEntry(euler, 1, demo={}, baselines=({},), sweep=({},), measured=(KnownOrder({}, 1),)),
    SolverEntry(
        lms, 1, ANY_ORDER, demo={}, sweep=each_order(4), checked=each_order(3),
        measured=tuple(KnownOrder({"order": k}, k, k - 1) for k in (2, 3, 4)),
    ),
    SolverEntry(
        ipndm, 1, range(1, 5), demo={}, baselines=each_order(2, 3, 4), sweep=each_order(4),
        checked=each_order(4),
        measured=tuple(KnownOrder({"order": k}, 2, k - 1) for k in (2, 3, 4)),
    ),
    SolverEntry(
        ipndm_v, 1, range(1, 5), demo={"reference": True},  # without it is lms
        checked=each_order(4, reference=True),
        measured=(KnownOrder({"order": 3, "reference": True}, 3, 2, finer=4),),
    ),
    SolverEntry(
        pndm, 1, range(1, 5), checked=({"order": 4}, {"warm_up": "heun"}),
        measured=(KnownOrder({}, 2, 3), KnownOrder({"warm_up": "heun"}, 2, 3)),
    ),
    SolverEntry(
        dpmpp, 1, range(1, 4), demo={}, baselines=each_order(2, 3), sweep=each_order(2, 3),
        checked=(
            *each_order(1, 2, 3), {"order": 2, "second": "exact"},
            {"order": 3, "prediction": "noise", "lower_final": False},
        ),
        measured=(
            *[KnownOrder(o, o["order"], o["order"] - 1, "log SNR")
              for p in ("data", "noise") for o in each_order(2, 3, prediction=p)],
            KnownOrder({"order": 3, "reference": True}, 2, 2, "log SNR"),
        ),
    ),
    SolverEntry(
        unipc, 1, range(1, 4), demo={}, baselines=each_order(2, 3),
        sweep=({"order": 2, "variant": "bh1"}, {"order": 3}),
        checked=(
            *each_order(1, 3), {"order": 2, "variant": "bh1"}, {"order": 3, "prediction": "noise"},
            {"order": 3, "variant": "vary"}, {"order": 3, "corrector": False},
            {"order": 3, "variant": "vary", "reference": True},
        ),
        measured=(
            *[KnownOrder({"order": k}, k + 1, k, "log SNR") for k in (1, 2, 3)],
            KnownOrder({"order": 3, "variant": "vary"}, 4, 3, "log SNR"),
            KnownOrder({"order": 3, "corrector": False}, 3, 3, "log SNR"),
        ),
    ),
    SolverEntry(
        deis, 1, ANY_ORDER, demo={}, baselines=each_order(3), sweep=each_order(3),
        checked=({"order": 3}, {"order": 3, "variable": "log_level"}),
        measured=tuple(KnownOrder({"order": k}, k, k - 1, "VP time", finer=4) for k in (2, 3, 4)),
    ),
    SolverEntry(
        flow_lms, 1, ANY_ORDER, checked=each_order(3),
        measured=tuple(KnownOrder({"order": k}, k, k - 1) for k in (2, 3)),
    ),
    SolverEntry(
        bdia, 1, checked=({}, {"gamma": 0.8, "frame": "ve"}), measured=(KnownOrder({}, 2),)
    ),
    # several
    SolverEntry(
        heun, 2, demo={}, baselines=({},), sweep=({},), checked=({}, {"ratio": 2 / 3}),
        measured=(KnownOrder({}, 2),),
    ),
    SolverEntry(
        dpm2, 2, demo={}, baselines=({},), sweep=({},), checked=({}, {"ratio": 0.3}),
        measured=(KnownOrder({}, 2),),
    ),
    SolverEntry(
        dpm_solver, 3, range(1, 4), sweep=({"order": 2}, {"order": 3, "prediction": "data"}),
        checked=(
            {}, {"order": 1}, *each_order(2, 3, prediction="data"),
            {"order": 3, "variant": "taylor", "ratios": (0.25, 2 / 3)},
            {"order": 3, "prediction": "data", "reference": True},
        ),
        measured=tuple(
            KnownOrder(o, o["order"], grid="log SNR")
            for p in ("noise", "data") for o in each_order(2, 3, prediction=p)
        ),
    ),
    SolverEntry(flow_heun, 2, measured=(KnownOrder({}, 2),)),
    # of order 3 on Gaussians, 2 elsewhere
    SolverEntry(flow_midpoint, 2, sweep=({},), measured=(KnownOrder({}, 3),)),
    SolverEntry(
        probability_flow, 2, range(1, 3), command_line=False, checked=({"process": VP()},),
        measured=(KnownOrder({"process": VP()}, 2),),
    ),
    SolverEntry(edict, 2, sweep=({},), measured=(KnownOrder({}, 1),)),
    # with numbers to be learned
    SolverEntry(amed, 2, command_line=False, checked=({"ratios": 0.4},)),
    SolverEntry(amed_dpm2, 2, command_line=False, checked=({"ratios": 0.4},)),
    SolverEntry(amed_ipndm, 2, range(1, 5), command_line=False),
    SolverEntry(amed_dpmpp, 2, range(1, 4), command_line=False),
    SolverEntry(epd, 3, range(1, 5), command_line=False),
    SolverEntry(bespoke, 1, range(1, 3), command_line=False, checked=each_order(1)),
    # stochastic
    SolverEntry(
        ddim, 1, stochastic=True, demo={"eta": 0.5},  # with eta 1 it is ddpm, with 0 euler
        sweep=({"eta": 1.0},), checked=({"eta": 1.0}, {"eta": 0.5}),
        measured=(KnownOrder({"eta": 1.0}, 1), KnownOrder({"eta": 0.5}, 1)),
    ),
    SolverEntry(
        ddpm, 1, stochastic=True, demo={}, checked=({"variance": "small"}, {"variance": "large"}),
        measured=(KnownOrder({"variance": "large"}, 1),),
    ),
    SolverEntry(
        dpm2_ancestral, 2, stochastic=True, demo={}, checked=({"eta": 0.7},),
        measured=(KnownOrder({}, 2),),
    ),
    SolverEntry(
        dpmpp_2s_ancestral, 2, stochastic=True, demo={}, sweep=({},), measured=(KnownOrder({}, 2),)
    ),
    SolverEntry(
        sde_dpmpp, 1, range(1, 4), stochastic=True, demo={}, sweep=each_order(2),
        checked=({"order": 2}, {"order": 3, "eta": 0.5}, {"prediction": "noise"}),
        measured=(
            KnownOrder({"order": 1}, 1, grid="log SNR"),
            *[KnownOrder({"order": k}, 2, grid="log SNR", finer=2) for k in (2, 3)],
            *[KnownOrder(o, o["order"], grid="log SNR", finer=2)
              for o in each_order(1, 2, prediction="noise")],
        ),
    ),
    SolverEntry(
        sde_dpmpp_2s, 2, stochastic=True, demo={}, measured=(KnownOrder({}, 1, grid="log SNR"),)
    ),
    SolverEntry(
        sa_solver, 1, stochastic=True, sweep=({"low": 0.0, "high": 100.0},),
        checked=({"low": 0.0, "high": 100.0}, {"predictor": 2, "corrector": 2}),
        measured=(
            KnownOrder({}, 2, grid="log SNR", finer=2),
            KnownOrder({"low": 0.0, "high": 100.0}, 2, grid="log SNR", finer=2),
        ),
    ),
    SolverEntry(
        er_sde, 1, range(1, 4), stochastic=True, sweep=({},),
        checked=({}, {"order": 2, "scale": sde_scale}, {"reference": True}),
        measured=(
            *[KnownOrder({"order": k}, k) for k in (1, 2)], KnownOrder({"order": 3}, 2, finer=2)
        ),
    ),
    SolverEntry(
        churn, 2, stochastic=True, demo={"amount": 10.0}, sweep=({"amount": 10.0},),
        checked=({"amount": 10.0}, {"amount": 10.0, "step": steps.euler_step}),
        measured=(KnownOrder({"inflate": 1.0}, 2, finer=4),),
    ),
    SolverEntry(
        restart, 2, stochastic=True, checked=({"intervals": [(0.3, 2.0, 2, 2)]},),
        measured=(KnownOrder({}, 2, refined={"intervals": [(0.14, 0.3, 2, 32)]}),),
    ),
    SolverEntry(
        analytic_dpm, 1, stochastic=True, command_line=False, checked=({"moments": unit_moment},),
        measured=(KnownOrder({"moments": unit_moment}, 1, finer=2),),
    ),
    SolverEntry(
        predictor_corrector, 2, stochastic=True,
        checked=({}, {"predictor": "none", "corrector_steps": 2}),
        measured=(KnownOrder({}, 1, finer=4, refined={"snr": 0.01}),),
    ),
    # of networks that jump; those of two levels have tests of their own
    SolverEntry(consistency, 1, stochastic=True, command_line=False),
    SolverEntry(tcd, 1, stochastic=True, command_line=False),
    SolverEntry(jump, 1, command_line=False, checked=()),
    SolverEntry(gamma_sampling, 1, stochastic=True, command_line=False, checked=()),
    # not linear in their states
    SolverEntry(genie, 1, direct=True, command_line=False, measured=(KnownOrder({}, 2),)),
    SolverEntry(dpm_v3, 1, range(1, 4), direct=True, command_line=False),
    SolverEntry(adjusted_ddim, 1, direct=True, command_line=False),
    SolverEntry(ddpm_learned, 1, stochastic=True, direct=True, command_line=False),
    SolverEntry(extended_analytic_dpm, 1, stochastic=True, direct=True, command_line=False),
]  # fmt: skip
