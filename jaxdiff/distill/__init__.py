"""Methods of training and distillation; each makes a :class:`jaxdiff.method.Method` for the one
loop, or, in stages, a list of :class:`jaxdiff.distill.stages.Stage`.

The modules by kind, each opening with its formula:

    what all share          student, primitives, levels, teacher, tangents, adversarial, stages
    teachers                score_matching
    pairs and grids         knowledge, trajectory_operator, progressive, classifier_features,
                            guided, tract, simple_fast, bootstrap
    paths                   rectified_flow, piecewise_flow
    consistency             consistency, improved_consistency, continuous_consistency,
                            truncated_consistency, latent_consistency, multistep_consistency
    maps of two levels      trajectory_consistency, shortcut, inductive_moments, mean_flow, flow_map

    what two players share  two_players, generator, lora
    score differences       diff_instruct, score_distillation, distribution_matching, f_distill,
                            moment_matching
    score losses            score_identity, score_implicit
    adversarial             adversarial_distillation, denoising_gan, truncated_diffusion,
                            discriminator
"""

# teachers
from jaxdiff.distill.score_matching import score_matching as score_matching

# pairs and grids
from jaxdiff.distill.bootstrap import boot as boot
from jaxdiff.distill.classifier_features import feature_distillation as feature_distillation
from jaxdiff.distill.classifier_features import feature_stages as feature_stages
from jaxdiff.distill.guided import guidance_distillation as guidance_distillation
from jaxdiff.distill.guided import (
    guided_progressive_distillation as guided_progressive_distillation,
)
from jaxdiff.distill.guided import guided_stages as guided_stages
from jaxdiff.distill.knowledge import knowledge_distillation as knowledge_distillation
from jaxdiff.distill.knowledge import path_distillation as path_distillation
from jaxdiff.distill.progressive import progressive_distillation as progressive_distillation
from jaxdiff.distill.progressive import progressive_stages as progressive_stages
from jaxdiff.distill.simple_fast import sfd as sfd
from jaxdiff.distill.simple_fast import sfd_stages as sfd_stages
from jaxdiff.distill.simple_fast import sfd_v as sfd_v
from jaxdiff.distill.tract import tract as tract
from jaxdiff.distill.tract import tract_stages as tract_stages
from jaxdiff.distill.trajectory_operator import trajectory_operator as trajectory_operator

# paths
from jaxdiff.distill.piecewise_flow import perflow as perflow
from jaxdiff.distill.piecewise_flow import perflow_stages as perflow_stages
from jaxdiff.distill.rectified_flow import rectified_flow as rectified_flow
from jaxdiff.distill.rectified_flow import reflow as reflow
from jaxdiff.distill.rectified_flow import reflow_distillation as reflow_distillation
from jaxdiff.distill.rectified_flow import reflow_stages as reflow_stages

# consistency
from jaxdiff.distill.consistency import consistency_distillation as consistency_distillation
from jaxdiff.distill.consistency import consistency_training as consistency_training
from jaxdiff.distill.consistency import easy_consistency as easy_consistency
from jaxdiff.distill.continuous_consistency import (
    continuous_distillation as continuous_distillation,
)
from jaxdiff.distill.continuous_consistency import continuous_training as continuous_training
from jaxdiff.distill.continuous_consistency import scd as scd
from jaxdiff.distill.continuous_consistency import sct as sct
from jaxdiff.distill.improved_consistency import improved_consistency as improved_consistency
from jaxdiff.distill.latent_consistency import latent_consistency as latent_consistency
from jaxdiff.distill.multistep_consistency import multistep_consistency as multistep_consistency
from jaxdiff.distill.truncated_consistency import truncated_consistency as truncated_consistency
from jaxdiff.distill.truncated_consistency import truncated_stages as truncated_stages

# maps of two levels
from jaxdiff.distill.flow_map import align_your_flow as align_your_flow
from jaxdiff.distill.flow_map import self_distilled_flow_map as self_distilled_flow_map
from jaxdiff.distill.inductive_moments import inductive_moments as inductive_moments
from jaxdiff.distill.mean_flow import improved_mean_flow as improved_mean_flow
from jaxdiff.distill.mean_flow import mean_flow as mean_flow
from jaxdiff.distill.shortcut import shortcut as shortcut
from jaxdiff.distill.trajectory_consistency import trajectory_consistency as trajectory_consistency

# score differences and score losses
from jaxdiff.distill.diff_instruct import diff_instruct as diff_instruct
from jaxdiff.distill.diff_instruct import swiftbrush as swiftbrush
from jaxdiff.distill.distribution_matching import decoupled_dmd as decoupled_dmd
from jaxdiff.distill.distribution_matching import dmd as dmd
from jaxdiff.distill.distribution_matching import dmd2 as dmd2
from jaxdiff.distill.f_distill import f_distill as f_distill
from jaxdiff.distill.moment_matching import moment_matching as moment_matching
from jaxdiff.distill.score_distillation import score_distillation as score_distillation
from jaxdiff.distill.score_distillation import (
    variational_score_distillation as variational_score_distillation,
)
from jaxdiff.distill.score_identity import sid as sid
from jaxdiff.distill.score_implicit import sim as sim

# adversarial
from jaxdiff.distill.adversarial_distillation import add as add
from jaxdiff.distill.adversarial_distillation import ladd as ladd
from jaxdiff.distill.denoising_gan import ddgan as ddgan
from jaxdiff.distill.denoising_gan import ufogen as ufogen
from jaxdiff.distill.discriminator import discriminator as discriminator
from jaxdiff.distill.truncated_diffusion import truncated_diffusion as truncated_diffusion

# what they are made of
from jaxdiff.distill.adversarial import Critic as Critic
from jaxdiff.distill.adversarial import Head as Head
from jaxdiff.distill.stages import Stage as Stage
from jaxdiff.distill.student import Student as Student
from jaxdiff.distill.two_players import Opponent as Opponent
from jaxdiff.sampling.pairs import make_pairs as make_pairs
from jaxdiff.sampling.pairs import pair_batches as pair_batches
