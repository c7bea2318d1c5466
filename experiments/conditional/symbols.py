"""A symbol that is no digit, captions of it and of digits, and what tells them apart."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxdiff.app.generate import generate
from jaxdiff.data.dataset import to_float
from jaxdiff.data.digits import load_digits
from jaxdiff.data.words import WordTokenizer, words_of
from jaxdiff.sampling.sampler import Sampler
from jaxdiff.typing import Denoiser

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
CAPTIONS = ("a {}", "one {}", "the {}", "this is a {}")
WORD, TOKEN, SHAPE, SYMBOL = "zorp", "blik", (8, 8, 1), 10


def symbol(count: int, seed: int) -> np.ndarray:
    """Return pictures (count, 8, 8, 1) of the symbol, a cross in a corner's frame, moved by a pixel
    at most and of varied strength.
    """
    rng, made = np.random.default_rng(seed), np.full((count, 10, 10), -1.0, np.float32)
    for picture in made:
        i, j = 1 + rng.integers(0, 3, 2)
        ink = rng.uniform(0.6, 1.0)
        picture[i : i + 6, j] = picture[i, j : j + 6] = ink
        for k in range(2, 6):
            picture[i + k, j + k] = ink
    made = made[:, 1:9, 1:9] + 0.05 * rng.standard_normal((count, 8, 8)).astype(np.float32)
    return np.clip(made, -1, 1)[..., None]


def words() -> WordTokenizer:
    """Return the tokenizer: of the captions, and of a word that none has."""
    texts = [text.format(name) for text in CAPTIONS for name in (*NAMES, WORD)]
    return words_of(texts)


class Captioned(NamedTuple):
    """Batches of pictures whose captions are drawn. names: a word for each picture."""

    images: np.ndarray
    names: Sequence[str]
    tokenizer: WordTokenizer
    batch: int

    def __call__(self, step: int) -> dict[str, Any]:
        """Return the batch of a step."""
        rng = np.random.default_rng(step)
        rows = rng.integers(0, len(self.images), self.batch)
        texts = [CAPTIONS[rng.integers(len(CAPTIONS))].format(self.names[i]) for i in rows]
        return {"image": self.images[rows], "label": {"text": self.tokenizer(texts)}}


def classifier() -> Callable[[np.ndarray], np.ndarray]:
    """Return what tells digits and the symbol apart, of real pictures."""
    from sklearn.linear_model import LogisticRegression

    data = load_digits("all")
    images = np.concatenate([to_float(data.images), symbol(180, 7)]).reshape(-1, 64)
    labels = np.concatenate([np.asarray(data.labels), np.full(180, SYMBOL)])
    made = LogisticRegression(C=0.1, max_iter=500).fit(images, labels)
    return lambda x: made.predict(np.asarray(x).reshape(len(x), -1))


def drawn(
    D: Denoiser, tokenizer: WordTokenizer, texts: Sequence[str], made: Any, seed: int = 1
) -> np.ndarray:
    """Return a sample of each text, by a table."""
    cond = {"text": tokenizer(list(texts))}
    return generate(Sampler(D, made), len(texts), SHAPE, cond, progress=False, seed=seed)


def scores(
    D: Denoiser, tokenizer: WordTokenizer, word: str, made: Any, predict: Any, count: int
) -> dict[str, float]:
    """Return fidelity and prior of samples, ``count`` of the symbol and as many of the digits."""
    texts = [f"a {word}"] * count + [f"a {NAMES[i % 10]}" for i in range(count)]
    found = predict(drawn(D, tokenizer, texts, made))
    digits = np.arange(count) % 10
    return {
        "fidelity": round(float((found[:count] == SYMBOL).mean()), 4),
        "prior": round(float((found[count:] == digits).mean()), 4),
    }
