"""Methods of training and distillation; each makes a :class:`jaxdiff.method.Method` for the one
loop.
"""

from jaxdiff.distill.consistency import consistency_distillation as consistency_distillation
from jaxdiff.distill.consistency import consistency_training as consistency_training
from jaxdiff.distill.consistency import easy_consistency as easy_consistency
from jaxdiff.distill.score_matching import score_matching as score_matching
from jaxdiff.distill.student import Student as Student
