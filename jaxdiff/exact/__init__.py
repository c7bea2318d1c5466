r"""Models whose denoiser, score, density and posterior have closed forms.

In the frame y = x0 + s eps with noise level s, and for every model here,

    D(y, s) = E[x0 | y],     score = grad log p_s(y) = (D - y)/s^2      (Tweedie's formula)
    dD/dy   = Cov[x0 | y]/s^2,     div D = its trace.

Gaussian N(m, S) with S = V diag(l) V^T, in the coordinates z = V^T (y - m):

    D = m + V (l/(l + s^2) z),     dy/ds = (y - D)/s from s to r:  z -> sqrt((l + r^2)/(l + s^2)) z.

Mixture of N(m_k, S_k) with weights w_k, with D_k and score_k those of its components:

    r_k = softmax_k(log w_k + log N(y; m_k, S_k + s^2)),
    D = sum r_k D_k,     score = sum r_k score_k,
    dD/dy = sum r_k S_k (S_k + s^2)^-1 + sum r_k (D_k - D)(D_k - D)^T / s^2.

Finite data set: the mixture with S_k = 0 and equal weights.

States are batches (B, d), levels scalars or one per state (B,). Results have the dtype of the
states. Models are pytrees of arrays; numbers are checked when a model is made of concrete arrays,
and taken on trust when traced. Sources: Karras et al. 2206.00364, appendix B.3 (finite data
sets); Efron 2011, doi 10.1198/jasa.2011.tm11181 (Tweedie's formula); Bishop 2006, section 2.3
(conditioning).
"""

from jaxdiff.exact.empirical import Empirical as Empirical
from jaxdiff.exact.gaussian import Gaussian as Gaussian
from jaxdiff.exact.mixture import GaussianMixture as GaussianMixture
from jaxdiff.exact.parts import T as T
