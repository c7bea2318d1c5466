"""Guidance by a measurement: denoiser in, denoiser of (approximately) E[x0 | y, u] out.

| method | function | differentiates D | source (arXiv) |
|---|---|---|---|
| classifier guidance | :func:`classifier` | no | 2105.05233 |
| any energy; universal guidance forward; FreeDoM | :func:`energy` | yes | 2302.07121, 2303.09833 |
| universal guidance backward | :func:`backward` | no | 2302.07121 |
| MPGD | :func:`mpgd` | no | 2311.16424 |
| DPS, MCG | :func:`dps`, :func:`mcg` | yes | 2209.14687, 2206.00941 |
| PiGDM, with or without its Jacobian | :func:`pigdm` | either | ICLR 2023 |
| MMPS, TMPD | :func:`mmps`, :func:`tmpd` | yes | 2405.13712, 2310.06721 |
| Gaussian covariance | :func:`gaussian_covariance` | no | |
| LGD-MC | :func:`lgd_mc` | yes | ICML 2023 |
| DiffPIR, DDS | :func:`diffpir`, :func:`dds` | no | 2305.08995, 2303.05754 |
| PSLD, of latents | :func:`psld` | yes | 2307.00619 |
| annealed Langevin's likelihood, Score-SDE's | :func:`annealed_langevin`, :func:`score_sde` | no | 2108.01368, 2011.13456 |
| Langevin dynamics on a posterior: ULA, SK-ROCK | :func:`ula`, :func:`skrock` | no | 2103.04715, 1908.08845 |
| DAPS, ReSample, solvers for :func:`jaxdiff.direct` | :func:`daps`, :func:`resample` | no | 2407.01521, 2307.08123 |
| RED-diff, a regulariser | :func:`red_diff` | no | 2305.04391 |
| TDS, particles, right in the limit of many | :func:`tds` | yes | 2306.17775 |
| FPS-SMC, particles | :func:`fps_smc` | no | ICLR 2024 |

    seen = jd.operators.measure(operator, x0, 0.05, key)
    D = jd.posterior.mmps(denoiser, seen)
    x = jd.sample(D, jd.table(jd.solvers.heun, levels), start)
"""  # noqa: E501

from jaxdiff.conditioning.posterior.annealed import annealed_langevin as annealed_langevin
from jaxdiff.conditioning.posterior.annealed import score_sde as score_sde
from jaxdiff.conditioning.posterior.annealing import daps as daps
from jaxdiff.conditioning.posterior.annealing import resample as resample
from jaxdiff.conditioning.posterior.covariance import gaussian_covariance as gaussian_covariance
from jaxdiff.conditioning.posterior.dps import dps as dps
from jaxdiff.conditioning.posterior.dps import mcg as mcg
from jaxdiff.conditioning.posterior.energy import backward as backward
from jaxdiff.conditioning.posterior.energy import classifier as classifier
from jaxdiff.conditioning.posterior.energy import energy as energy
from jaxdiff.conditioning.posterior.energy import mpgd as mpgd
from jaxdiff.conditioning.posterior.fps_smc import fps_smc as fps_smc
from jaxdiff.conditioning.posterior.langevin import skrock as skrock
from jaxdiff.conditioning.posterior.langevin import ula as ula
from jaxdiff.conditioning.posterior.lgd import lgd_mc as lgd_mc
from jaxdiff.conditioning.posterior.mmps import mmps as mmps
from jaxdiff.conditioning.posterior.mmps import tmpd as tmpd
from jaxdiff.conditioning.posterior.particles import Particles as Particles
from jaxdiff.conditioning.posterior.particles import resampled as resampled
from jaxdiff.conditioning.posterior.parts import per_step as per_step
from jaxdiff.conditioning.posterior.pigdm import pigdm as pigdm
from jaxdiff.conditioning.posterior.proximal import dds as dds
from jaxdiff.conditioning.posterior.proximal import diffpir as diffpir
from jaxdiff.conditioning.posterior.psld import psld as psld
from jaxdiff.conditioning.posterior.red_diff import red_diff as red_diff
from jaxdiff.conditioning.posterior.tds import gaussian_twist as gaussian_twist
from jaxdiff.conditioning.posterior.tds import tds as tds
