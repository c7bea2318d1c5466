"""Methods of training and distillation; each makes a :class:`jaxdiff.method.Method` for the one
loop, or, in stages, a list of :class:`jaxdiff.distill.parts.stage.Stage`.

A folder per family, whose text says what the family does and where it stands in Luo's survey
(arXiv 2304.04262); each module opens with its formula:

    score_matching   the training of teachers
    trajectory       pairs, grids and paths of the teacher's trajectories
    consistency      the same output all along a trajectory
    flow_map         jumps between any two levels
    score            generators moved by the difference of two scores
    adversarial      generators against a discriminator
    compression      denoisers that are smaller than their teacher
    parts            what all of them are made of
"""

from jaxdiff.brief import public_names as _public_names

# the training of teachers
from jaxdiff.distill.score_matching import score_matching as score_matching

# trajectory: pairs, grids and paths
from jaxdiff.distill.trajectory.bootstrap import boot as boot
from jaxdiff.distill.trajectory.classifier_features import (
    feature_distillation as feature_distillation,
)
from jaxdiff.distill.trajectory.classifier_features import feature_stages as feature_stages
from jaxdiff.distill.trajectory.guided import guidance_distillation as guidance_distillation
from jaxdiff.distill.trajectory.guided import (
    guided_progressive_distillation as guided_progressive_distillation,
)
from jaxdiff.distill.trajectory.guided_rounds import guided_stages as guided_stages
from jaxdiff.distill.trajectory.knowledge import knowledge_distillation as knowledge_distillation
from jaxdiff.distill.trajectory.knowledge import path_distillation as path_distillation
from jaxdiff.distill.trajectory.piecewise_flow import perflow as perflow
from jaxdiff.distill.trajectory.piecewise_flow import perflow_stages as perflow_stages
from jaxdiff.distill.trajectory.progressive import (
    progressive_distillation as progressive_distillation,
)
from jaxdiff.distill.trajectory.progressive import progressive_stages as progressive_stages
from jaxdiff.distill.trajectory.rectified_flow import rectified_flow as rectified_flow
from jaxdiff.distill.trajectory.rectified_flow import reflow as reflow
from jaxdiff.distill.trajectory.rectified_flow import reflow_distillation as reflow_distillation
from jaxdiff.distill.trajectory.reflow_rounds import reflow_stages as reflow_stages
from jaxdiff.distill.trajectory.simple_fast import sfd as sfd
from jaxdiff.distill.trajectory.simple_fast import sfd_stages as sfd_stages
from jaxdiff.distill.trajectory.simple_fast_steps import sfd_v as sfd_v
from jaxdiff.distill.trajectory.tract import tract as tract
from jaxdiff.distill.trajectory.tract import tract_stages as tract_stages
from jaxdiff.distill.trajectory.trajectory_operator import (
    trajectory_operator as trajectory_operator,
)

# consistency models
from jaxdiff.distill.consistency.consistency import (
    consistency_distillation as consistency_distillation,
)
from jaxdiff.distill.consistency.consistency import consistency_training as consistency_training
from jaxdiff.distill.consistency.consistency import easy_consistency as easy_consistency
from jaxdiff.distill.consistency.continuous import (
    continuous_distillation as continuous_distillation,
)
from jaxdiff.distill.consistency.continuous import continuous_training as continuous_training
from jaxdiff.distill.consistency.continuous import scd as scd
from jaxdiff.distill.consistency.continuous import sct as sct
from jaxdiff.distill.consistency.improved import improved_consistency as improved_consistency
from jaxdiff.distill.consistency.latent import latent_consistency as latent_consistency
from jaxdiff.distill.consistency.multistep import multistep_consistency as multistep_consistency
from jaxdiff.distill.consistency.truncated import truncated_consistency as truncated_consistency
from jaxdiff.distill.consistency.truncated import truncated_stages as truncated_stages

# flow maps
from jaxdiff.distill.flow_map.flow_map import align_your_flow as align_your_flow
from jaxdiff.distill.flow_map.flow_map import self_distilled_flow_map as self_distilled_flow_map
from jaxdiff.distill.flow_map.inductive_moments import inductive_moments as inductive_moments
from jaxdiff.distill.flow_map.mean_flow import improved_mean_flow as improved_mean_flow
from jaxdiff.distill.flow_map.mean_flow import mean_flow as mean_flow
from jaxdiff.distill.flow_map.shortcut import shortcut as shortcut
from jaxdiff.distill.flow_map.trajectory_consistency import (
    trajectory_consistency as trajectory_consistency,
)

# score matching of generators
from jaxdiff.distill.score.diff_instruct import diff_instruct as diff_instruct
from jaxdiff.distill.score.decoupled_matching import decoupled_dmd as decoupled_dmd
from jaxdiff.distill.score.distribution_matching import dmd as dmd
from jaxdiff.distill.score.distribution_matching import dmd2 as dmd2
from jaxdiff.distill.score.f_distill import f_distill as f_distill
from jaxdiff.distill.score.moment_matching import moment_matching as moment_matching
from jaxdiff.distill.score.score_distillation import score_distillation as score_distillation
from jaxdiff.distill.score.score_distillation import (
    variational_score_distillation as variational_score_distillation,
)
from jaxdiff.distill.score.score_identity import sid as sid
from jaxdiff.distill.score.score_identity import sida as sida
from jaxdiff.distill.score.score_implicit import sim as sim
from jaxdiff.distill.score.swift_brush import swiftbrush as swiftbrush

# adversarial methods
from jaxdiff.distill.adversarial.adversarial_distillation import add as add
from jaxdiff.distill.adversarial.adversarial_distillation import ladd as ladd
from jaxdiff.distill.adversarial.denoising_gan import ddgan as ddgan
from jaxdiff.distill.adversarial.denoising_gan import ufogen as ufogen
from jaxdiff.distill.adversarial.discriminator import discriminator as discriminator
from jaxdiff.distill.adversarial.truncated_diffusion import (
    truncated_diffusion as truncated_diffusion,
)

# smaller denoisers
from jaxdiff.distill.compression.block_knowledge import block_knowledge as block_knowledge
from jaxdiff.distill.compression.calibrated import semckd as semckd
from jaxdiff.distill.compression.frame import Shares as Shares
from jaxdiff.distill.compression.peers import okddip as okddip
from jaxdiff.distill.compression.reused_decoder import simkd as simkd

# what all of them are made of
from jaxdiff.distill.parts.critic import Critic as Critic
from jaxdiff.distill.parts.critic import Head as Head
from jaxdiff.distill.parts.stage import Stage as Stage
from jaxdiff.distill.parts.student import Student as Student
from jaxdiff.distill.parts.two_players import FakeScore as FakeScore
from jaxdiff.sampling.pairs import make_pairs as make_pairs
from jaxdiff.sampling.pairs import pair_batches as pair_batches


def __dir__() -> list[str]:
    return _public_names(globals())
