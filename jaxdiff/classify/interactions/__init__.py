"""Drug-target prediction: which pairs of a bipartite graph are its missing edges.

Each method is a function of a :class:`Problem` (and of a key, if it starts at random) to scores
(m, n), and opens with its formula:

    rls_avg, rls_kron   regularised least squares, a side at a time or all pairs at once
    blm, blm_nii        a model for every drug and every target, with inferred profiles
    wnn_gip             profiles by weighted neighbours, then least squares of all pairs
    netlaprls           Laplacian regularisation on similarity and network
    kbmf2k, cmf, nrlmf  factorisations: Bayesian with kernels, collaborative, logistic
    pairwise_svm        a support vector machine over pairs

``problem`` checks matrices, ``held_out`` makes the folds of the literature, ``cross_validate`` runs
a method on all of them at once, ``new_interactions`` lists what it predicts.
"""

from jaxdiff.classify.interactions.cmf import cmf as cmf
from jaxdiff.classify.interactions.cross_validation import cross_validate as cross_validate
from jaxdiff.classify.interactions.cross_validation import predict_folds as predict_folds
from jaxdiff.classify.interactions.folds import held_out as held_out
from jaxdiff.classify.interactions.kbmf import kbmf2k as kbmf2k
from jaxdiff.classify.interactions.local_models import blm as blm
from jaxdiff.classify.interactions.local_models import blm_nii as blm_nii
from jaxdiff.classify.interactions.netlaprls import netlaprls as netlaprls
from jaxdiff.classify.interactions.new_interactions import new_interactions as new_interactions
from jaxdiff.classify.interactions.new_interactions import read_matrix as read_matrix
from jaxdiff.classify.interactions.nrlmf import nrlmf as nrlmf
from jaxdiff.classify.interactions.pairwise_svm import pairwise_svm as pairwise_svm
from jaxdiff.classify.interactions.problem import Problem as Problem
from jaxdiff.classify.interactions.problem import hide as hide
from jaxdiff.classify.interactions.problem import problem as problem
from jaxdiff.classify.interactions.regularised_least_squares import rls_avg as rls_avg
from jaxdiff.classify.interactions.regularised_least_squares import rls_kron as rls_kron
from jaxdiff.classify.interactions.wnn_gip import wnn_gip as wnn_gip
