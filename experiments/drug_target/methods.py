"""The methods of the study, by name, with their defaults; and the same in NumPy, fold by fold."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from jaxdiff.classify import interactions as dti
from jaxdiff.classify.interactions import Problem
from jaxdiff.classify.interactions.cross_validation import Predictor


class Entry(NamedTuple):
    """A method. title: of its row. at_once: folds vectorised, None for all, or one on a CPU.
    affinities: whether it takes numbers other than 0 and 1. error: whether its scores are
    affinities themselves. dtype: of its arithmetic.
    """

    title: str
    predict: Predictor
    at_once: int | None = None
    affinities: bool = False
    error: bool = False
    dtype: Any = np.float32


def _keyless(method: Callable[..., Any], **options: Any) -> Predictor:
    return lambda problem, key: method(problem, **options)


METHODS = {
    "netlaprls": Entry("NetLapRLS", _keyless(dti.netlaprls), affinities=True),
    "blm": Entry("BLM (least squares)", _keyless(dti.blm), affinities=True, error=True),
    "blm_toolbox": Entry("BLM, as a toolbox has it", _keyless(dti.blm, reference=True)),
    "blm_nii": Entry("BLM-NII", _keyless(dti.blm_nii)),
    "blm_nii_toolbox": Entry("BLM-NII, as a toolbox has it", _keyless(dti.blm_nii, reference=True)),
    "rls_avg": Entry("RLS-avg", _keyless(dti.rls_avg), affinities=True, error=True),
    "rls_kron_profile": Entry("RLS-Kron, profiles only", _keyless(dti.rls_kron, alpha=0.0)),
    "rls_kron_similarity": Entry(
        "RLS-Kron, similarities only",
        _keyless(dti.rls_kron, alpha=1.0),
        affinities=True,
        error=True,
    ),
    "rls_kron": Entry("RLS-Kron", _keyless(dti.rls_kron), affinities=True, error=True),
    "wnn_gip": Entry("WNN-GIP", _keyless(dti.wnn_gip), affinities=True, error=True),
    "wnn_gip_next": Entry("WNN-GIP, weights from T", _keyless(dti.wnn_gip, first=0.8)),
    "wnn_gip_mean": Entry(
        "WNN-GIP, means of neighbours",
        _keyless(dti.wnn_gip, first=0.2),
        affinities=True,
        error=True,
    ),
    "pairwise_svm": Entry("pairwise-kernel SVM", _keyless(dti.pairwise_svm)),
    "cmf": Entry("CMF", dti.cmf, at_once=10, affinities=True, error=True),
    "kbmf2k": Entry("KBMF2K", dti.kbmf2k, dtype=np.float64),
    "nrlmf": Entry("NRLMF", dti.nrlmf, at_once=10),
}

WEIGHTED = ("wnn_gip", "wnn_gip_next")  # the latter is what that implementation has
# Areas of an independent NumPy implementation with the same folds: (AUC, AUPR) by data set.
KNOWN = {
    "netlaprls": {"nr": (0.850, 0.465), "gpcr": (0.915, 0.615), "ic": (0.960, 0.823)},
    "blm_toolbox": {"nr": (0.886, 0.675), "gpcr": (0.950, 0.604), "ic": (0.982, 0.883)},
    "blm_nii_toolbox": {"nr": (0.905, 0.659), "gpcr": (0.944, 0.515), "ic": (0.981, 0.821)},
    "rls_avg": {"nr": (0.906, 0.640), "gpcr": (0.942, 0.732), "ic": (0.978, 0.914)},
    "rls_kron_profile": {"nr": (0.863, 0.509), "gpcr": (0.925, 0.635), "ic": (0.982, 0.901)},
    "rls_kron_similarity": {"nr": (0.857, 0.518), "gpcr": (0.942, 0.617), "ic": (0.968, 0.757)},
    "rls_kron": {"nr": (0.904, 0.654), "gpcr": (0.947, 0.750), "ic": (0.982, 0.931)},
    **dict.fromkeys(WEIGHTED, {"nr": (0.956, 0.668), "gpcr": (0.968, 0.591), "ic": (0.984, 0.766)}),
    "cmf": {"nr": (0.864, 0.584), "gpcr": (0.930, 0.632), "ic": (0.863, 0.598)},
    "nrlmf": {"nr": (0.949, 0.721), "gpcr": (0.961, 0.703), "ic": (0.984, 0.862)},
}
KNOWN_NEW = {
    "drugs": {
        "rls_kron_similarity": {"nr": (0.820, 0.492), "gpcr": (0.820, 0.401), "ic": (0.800, 0.336)},
        **dict.fromkeys(
            WEIGHTED, {"nr": (0.890, 0.484), "gpcr": (0.897, 0.357), "ic": (0.808, 0.312)}
        ),
        "nrlmf": {"nr": (0.896, 0.548)},
    },
    "targets": {
        "rls_kron_similarity": {"nr": (0.548, 0.351), "gpcr": (0.819, 0.507), "ic": (0.928, 0.759)},
        **dict.fromkeys(
            WEIGHTED, {"nr": (0.923, 0.552), "gpcr": (0.933, 0.495), "ic": (0.959, 0.697)}
        ),
        "nrlmf": {"nr": (0.847, 0.454)},
    },
}


def plain_rls_kron(whole: Problem, held_out: np.ndarray) -> np.ndarray:
    """RLS-Kron of every fold in a loop, in NumPy: (folds, m, n)."""
    made = []
    for mask in held_out:
        Y = np.where(mask, 0, whole.known)
        kernels = []
        for S, rows in ((whole.drugs, Y), (whole.targets, Y.T)):
            norms = (rows**2).sum(1)
            apart = norms[:, None] + norms - 2 * rows @ rows.T
            kernels.append((S + np.exp(-apart / norms.mean())) / 2)
        (l, U), (m, V) = (np.linalg.eigh(K) for K in kernels)
        product = np.outer(l, m)
        made.append(U @ (U.T @ Y @ V * product / (product + 1)) @ V.T)
    return np.stack(made)
