"""Imagic, and a picture's encoder, beside the other methods of specialisation."""

import time
from argparse import Namespace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.conditional.symbols import (
    NAMES,
    SHAPE,
    SYMBOL,
    TOKEN,
    WORD,
    Captioned,
    symbol,
)
from jaxdiff.adapt import (
    adapter_only,
    domain_tuning,
    imagic_denoiser,
    imagic_stages,
    picture_words,
)
from jaxdiff.app.generate import generate
from jaxdiff.data.dataset import to_float
from jaxdiff.data.digits import load_digits
from jaxdiff.data.words import WordTokenizer
from jaxdiff.denoisers import description
from jaxdiff.distill import Student
from jaxdiff.networks import count_parameters
from jaxdiff.sampling.sampler import Sampler
from jaxdiff.training.checkpoint import save_params
from jaxdiff.training.fit_stages import fit_stages
from jaxdiff.training.loop import fit
from jaxdiff.typing import Array, Cond, Denoiser

ETA = 0.7  # of Imagic's mixture, as in the paper's figures
Row = dict[str, Any]


class Measure(NamedTuple):
    """What samples are made and read with: a table, a classifier, and how many."""

    table: Any
    predict: Any
    count: int

    def share(self, D: Denoiser, cond: Cond, labels: Any) -> float:
        """Return the share of samples that are called what they should be."""
        made = generate(Sampler(D, self.table), self.count, SHAPE, cond, progress=False, seed=1)
        return round(float((self.predict(made) == labels).mean()), 4)

    def prior(self, D: Denoiser, tokenizer: WordTokenizer) -> float:
        """Return the share of digits that are the digits of their captions."""
        digits = np.arange(self.count) % 10
        texts = [f"a {NAMES[i]}" for i in digits]
        return self.share(D, {"text": tokenizer(texts)}, digits)


def imagic_row(
    options: Namespace, D: Denoiser, tokenizer: WordTokenizer, measure: Measure, file: Path
) -> Row:
    """Return what Imagic makes of one picture: samples of the mixture of its condition and that of
    "a zorp", and digits by the network that it has changed.
    """
    begun, made = time.process_time(), description(D)
    assert made is not None
    encoder, own = made["network"].module.encoder, made["params"]["encoder"]
    target = {"tokens": encoder.apply({"params": own}, jnp.asarray(tokenizer([f"a {WORD}"])))[0]}
    stages = imagic_stages(D, target, embedding=optax.adam(3e-2), optimiser=optax.adam(3e-4))
    batch = {"image": np.repeat(symbol(5, 3)[:1], options.adapt_batch, axis=0)}
    _, state = fit_stages(
        stages, lambda step: batch, num_updates=options.updates, key=options.seed, progress=False
    )
    params = state.params["student"]
    save_params(file, params)
    seconds = round(time.process_time() - begun)
    changed = Student.of(D).denoiser(params["base"])
    mixture = imagic_denoiser(D, params, target, ETA)
    return {
        "trained": count_parameters(params), "bytes": file.stat().st_size,
        "processor_seconds": seconds, "fidelity": measure.share(mixture, None, SYMBOL),
        "prior": measure.prior(changed, tokenizer),
    }  # fmt: skip


def pixels(images: Array) -> Array:
    """Return features (batch, n) of pictures: their pixels."""
    return images.reshape(images.shape[0], -1)


class Pictured(NamedTuple):
    """Batches with each picture as its own condition, beside a caption of the new word."""

    captioned: Captioned

    def __call__(self, step: int) -> dict[str, Any]:
        """Return the batch of a step."""
        batch = self.captioned(step)
        return batch | {"label": batch["label"] | {"picture": batch["image"]}}


def encoder_rows(
    options: Namespace, D: Denoiser, tokenizer: WordTokenizer, measure: Measure, file: Path
) -> list[Row]:
    """Return what an encoder of pictures makes of the symbol: one that has been trained on the
    digits, and the same after updates on the symbol's five pictures.
    """
    begun, known = time.process_time(), tokenizer.with_token(TOKEN)
    words = picture_words(D, pixels, (tokenizer.vocabulary["seven"],), SHAPE)
    student = Student.of(words, optimiser=adapter_only(optax.adam(3e-3)))
    five, digits = symbol(5, 3), to_float(load_digits("train").images)
    rows = []
    for images, batch, updates in (
        (digits, options.batch, options.domain_updates),
        (five, options.adapt_batch, options.updates),
    ):
        data: Any = Pictured(Captioned(images, [TOKEN] * len(images), known, batch))
        state = fit(
            domain_tuning(student), data, num_updates=updates, key=options.seed, progress=False
        )
        params = state.params["student"]
        student = student._replace(params=jax.tree.map(jnp.asarray, params))
        save_params(file, params["adapter"])
        texts, shown = known([f"a {TOKEN}"] * measure.count), five[np.arange(measure.count) % 5]
        trained = student.denoiser(params)
        seconds = round(time.process_time() - begun)
        rows.append({
            "trained": count_parameters(params["adapter"]), "bytes": file.stat().st_size,
            "processor_seconds": seconds,
            "fidelity": measure.share(trained, {"text": texts, "picture": shown}, SYMBOL),
            "prior": measure.prior(trained, tokenizer),
        })  # fmt: skip
    return rows
