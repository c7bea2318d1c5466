r"""Gaussian processes: how data turn into noise.

A process is two functions of its own time t, with t = 0 data and t = ``t_max`` noise,

    x_t = alpha(t) x0 + sigma(t) eps,        eps ~ N(0, I),

each elementwise in t. Everything else follows from the two and is written once, for all processes:

    noise level         s(t)  = sigma / alpha                     increasing in t
    log-SNR                     2 log(alpha / sigma)              lambda = -log s is half of it
    rates                       d alpha/dt, d sigma/dt            forward-mode derivatives
    SDE  dx = f x dt + g dw:    f = alpha'/alpha,  g^2 = 2 sigma (sigma' - f sigma)
    inverse                     t(s), one search; differentiated as an implicit function

A process is a frozen dataclass and a pytree whose numbers are leaves, so gradients with respect
to, say, ``VP.beta_min`` are one ``jax.grad`` away. Results have the floating dtype of ``t``.

Sources: Song et al. 2011.13456 (VP, sub-VP, VE), Karras et al. 2206.00364 (the level, EDM),
Nichol and Dhariwal 2102.09672 (cosine), Liu et al. 2209.03003 (rectified flow), Lu and Song
2410.11081 (TrigFlow), Ho et al. 2006.11239 (tables of betas), Lin et al. 2305.08891 (zero
terminal SNR).
"""

from jaxdiff.process.calculus import Number as Number
from jaxdiff.process.calculus import Process as Process
from jaxdiff.process.calculus import diffusion as diffusion
from jaxdiff.process.calculus import drift as drift
from jaxdiff.process.calculus import level as level
from jaxdiff.process.calculus import log_snr as log_snr
from jaxdiff.process.calculus import max_level as max_level
from jaxdiff.process.calculus import rates as rates
from jaxdiff.process.calculus import time as time
from jaxdiff.process.discrete import Discrete as Discrete
from jaxdiff.process.discrete import cosine_betas as cosine_betas
from jaxdiff.process.discrete import discrete_label as discrete_label
from jaxdiff.process.discrete import linear_betas as linear_betas
from jaxdiff.process.discrete import scaled_linear_betas as scaled_linear_betas
from jaxdiff.process.discrete import zero_terminal_snr as zero_terminal_snr
from jaxdiff.process.families import EDM as EDM
from jaxdiff.process.families import VE as VE
from jaxdiff.process.families import VP as VP
from jaxdiff.process.families import Cosine as Cosine
from jaxdiff.process.families import RectifiedFlow as RectifiedFlow
from jaxdiff.process.families import SubVP as SubVP
from jaxdiff.process.families import TrigFlow as TrigFlow
