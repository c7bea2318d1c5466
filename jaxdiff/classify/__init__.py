"""Distilling classifiers: methods for the one training loop, and what they are made of.

    teacher = jd.classify.Trained(*jd.pretrained.load_cifar_resnet("resnet56.th"))
    student = jd.classify.ImageClassifier(jd.networks.ResNetCIFAR(3), (32, 32, 3))
    method = jd.classify.simkd(teacher, student, recipe=jd.classify.Recipe(num_updates=10_000))
    state = jd.fit(method, data, num_updates=10_000)            # batches of "image" and "label"
    jd.classify.accuracy(method.sampler(state), images, labels)
    jd.classify.save_classifier("student.safetensors", method.sampler(state))   # projector and all

A teacher for pictures of any kind is ``load_efficientnet_lite(side=...)``, of ImageNet's classes.
``OFFLINE`` has the methods of a trained teacher by name, ``ONLINE_METHODS`` those without one.
``diffusion_classifier`` classifies by the errors of a conditional denoiser.
``jaxdiff.classify.interactions`` is another subject: drug-target prediction by kernels and
factorisations.
"""

from jaxdiff.classify.diffusion_classifier import diffusion_classifier
from jaxdiff.classify.diverse_peers import okddip
from jaxdiff.classify.factor_transfer import factor_transfer, feature_overhaul
from jaxdiff.classify.feature_methods import (
    activation_boundaries,
    attention_transfer,
    fitnet,
    flow_of_procedure,
    neuron_selectivity,
    review_kd,
    similarity_preserving,
    variational_information,
)
from jaxdiff.classify.files import load_classifier, save_classifier
from jaxdiff.classify.frame import Recipe, Shares, Term, distilled
from jaxdiff.classify.group import Group
from jaxdiff.classify.logit_methods import dist, dkd, kd, standardised_kd, vanilla
from jaxdiff.classify.online import (
    ONLINE,
    collaborative_learning,
    mutual_learning,
    native_ensemble,
)
from jaxdiff.classify.relation_methods import (
    contrastive_distillation,
    correlation_congruence,
    probabilistic_transfer,
    regression_of_representation,
    relational_kd,
)
from jaxdiff.classify.reused_classifier import simkd
from jaxdiff.classify.semantic_calibration import semckd
from jaxdiff.classify.trained import Ensemble, Trained, accuracy, predictions
from jaxdiff.networks.image_classifier import ImageClassifier

OFFLINE = {
    "kd": kd,
    "fitnet": fitnet,
    "at": attention_transfer,
    "sp": similarity_preserving,
    "vid": variational_information,
    "pkt": probabilistic_transfer,
    "rkd": relational_kd,
    "cc": correlation_congruence,
    "crd": contrastive_distillation,
    "srrl": regression_of_representation,
    "ab": activation_boundaries,
    "ft": factor_transfer,
    "nst": neuron_selectivity,
    "fsp": flow_of_procedure,
    "dkd": dkd,
    "reviewkd": review_kd,
    "ofd": feature_overhaul,
    "dist": dist,
    "standardised": standardised_kd,
    "semckd": semckd,
    "simkd": simkd,
}
ONLINE_METHODS = {
    "dml": mutual_learning,
    "cl-ilr": collaborative_learning,
    "one": native_ensemble,
    "okddip": okddip,
}

__all__ = [
    "OFFLINE",
    "ONLINE",
    "ONLINE_METHODS",
    "Ensemble",
    "Group",
    "ImageClassifier",
    "Recipe",
    "Shares",
    "Term",
    "Trained",
    "accuracy",
    "activation_boundaries",
    "attention_transfer",
    "collaborative_learning",
    "contrastive_distillation",
    "correlation_congruence",
    "diffusion_classifier",
    "dist",
    "distilled",
    "dkd",
    "factor_transfer",
    "feature_overhaul",
    "fitnet",
    "flow_of_procedure",
    "kd",
    "load_classifier",
    "mutual_learning",
    "native_ensemble",
    "neuron_selectivity",
    "okddip",
    "predictions",
    "probabilistic_transfer",
    "regression_of_representation",
    "relational_kd",
    "review_kd",
    "save_classifier",
    "semckd",
    "similarity_preserving",
    "simkd",
    "standardised_kd",
    "vanilla",
    "variational_information",
]
