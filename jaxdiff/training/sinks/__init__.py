"""Places where training writes what it measures: TensorBoard, Weights & Biases, trackio, or one's
own.

A sink is any object with the four functions of :class:`Sink`. Each opens at the first thing that is
written, so that one that is made and not used leaves nothing:

    jd.fit(method, data, num_updates=1000, sinks=[jd.sinks.tensorboard("runs/a/tensorboard")])

Every row has the metrics of the players ("player/loss", "player/gradient_norm", ...), the learning
rate of those whose optimiser says it (:func:`jaxdiff.training.measures.rated`),
"samples_per_second" and "memory_gb". With several processes, the main one alone writes.
"""

from jaxdiff.training.sinks.protocol import Sink
from jaxdiff.training.sinks.tensorboard import tensorboard
from jaxdiff.training.sinks.tracker import trackio, wandb

__all__ = ["Sink", "tensorboard", "trackio", "wandb"]
