"""The geometry of sampling: functions over denoisers, tables and trajectories.

    path = jd.trajectory(D, table, start)                   # states (points, batch, *shape)
    outputs = jd.analysis.denoising_trajectory(D, path)     # D at every state
    bend = jd.analysis.deviation(path.states)               # (points, batch)
    model = jd.analysis.gaussian_of(data)                   # what mean and covariance alone explain

Points come first and the batch second, as in a trajectory; a function of a batch for
:func:`jaxdiff.training.devices.over_batch` moves the batch to the front of what it returns.
"""

from jaxdiff.analysis.components import (
    Components,
    principal_components,
    reconstruction_error,
    shares_per_sample,
    streamed_components,
)
from jaxdiff.analysis.convex_weights import ConvexWeights, convex_weights
from jaxdiff.analysis.denoising import (
    Convergence,
    JumpCurve,
    convergence,
    denoised_derivative,
    denoising_trajectory,
    flow_derivatives,
    jump_curve,
    nfe_of_states,
)
from jaxdiff.analysis.deviation import (
    Coupled,
    Neighbours,
    coupled,
    effective_neighbours,
    nearest,
    score_deviation,
)
from jaxdiff.analysis.frenet import Frenet, curvatures, fitted_frenet, frenet
from jaxdiff.analysis.jacobian import Asymmetry, jacobian_asymmetry, jacobian_trace, singular_values
from jaxdiff.analysis.latent import (
    coefficients,
    combine,
    interpolate,
    relative_norm,
    variance_factor,
)
from jaxdiff.analysis.local_error import (
    LocalErrors,
    local_errors,
    reference_states,
    refined,
    truncation_errors,
)
from jaxdiff.analysis.mean_shift import MeanShift, log_likelihood_profile, mean_shift
from jaxdiff.analysis.null_models import (
    as_denoiser,
    finite_data_set,
    flow_trajectory,
    gaussian_of,
    isotropic_of,
    mixture_of_classes,
)
from jaxdiff.analysis.projection import boomerang, overlay
from jaxdiff.analysis.regularity import (
    Regularity,
    SearchedGrids,
    regularity,
    searched_grids,
)
from jaxdiff.analysis.trajectory import (
    Norms,
    chord_complement,
    chord_cosine,
    chord_deviation,
    chord_length,
    deviation,
    distance_to_end,
    effective_noise_dimension,
    eps_of,
    norms,
    path_length,
)

__all__ = [
    "Asymmetry",
    "Components",
    "Convergence",
    "ConvexWeights",
    "Coupled",
    "Frenet",
    "JumpCurve",
    "LocalErrors",
    "MeanShift",
    "Neighbours",
    "Norms",
    "Regularity",
    "SearchedGrids",
    "as_denoiser",
    "boomerang",
    "chord_complement",
    "chord_cosine",
    "chord_deviation",
    "chord_length",
    "coefficients",
    "combine",
    "convergence",
    "convex_weights",
    "coupled",
    "curvatures",
    "denoised_derivative",
    "denoising_trajectory",
    "deviation",
    "distance_to_end",
    "effective_neighbours",
    "effective_noise_dimension",
    "eps_of",
    "finite_data_set",
    "fitted_frenet",
    "flow_derivatives",
    "flow_trajectory",
    "frenet",
    "gaussian_of",
    "interpolate",
    "isotropic_of",
    "jacobian_asymmetry",
    "jacobian_trace",
    "jump_curve",
    "local_errors",
    "log_likelihood_profile",
    "mean_shift",
    "mixture_of_classes",
    "nearest",
    "nfe_of_states",
    "norms",
    "overlay",
    "path_length",
    "principal_components",
    "reconstruction_error",
    "reference_states",
    "refined",
    "regularity",
    "relative_norm",
    "score_deviation",
    "searched_grids",
    "shares_per_sample",
    "singular_values",
    "streamed_components",
    "truncation_errors",
    "variance_factor",
]
