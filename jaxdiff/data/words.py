r"""A tokenizer of whole words, made of the captions that a network is trained on.

A text is composed (NFC), in lower case, and cut into runs of letters and digits and runs of other
signs. Its numbers are

    <start> word word ... <end> <pad> <pad> ...

up to a fixed length; a word that no caption had is <unk>. The file is one of the package
``tokenizers``, a WordLevel model, which that package reads as well.
"""

import collections
import dataclasses
import re
import unicodedata
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxdiff.files import read_json, write_text

PAD, START, END, UNKNOWN = SPECIAL = ("<pad>", "<start>", "<end>", "<unk>")
WORD = re.compile(r"\w+|[^\w\s]+")
SHOWN = 5
LONG = 80
LONGEST = 10**5


@dataclasses.dataclass(frozen=True)
class WordTokenizer:
    """Texts to numbers, word by word.

    Attributes:
        vocabulary: the number of every word, from 0 on, the special ones <pad>, <start>, <end> and
            <unk> among them.
        length: the longest text, start and end included.
        runs: words that stand for several numbers, and how many, from their own number on.

    Raises ValueError for a vocabulary without these, or whose numbers are not 0, 1, 2, ...; and for
    a length below 3.
    """

    vocabulary: Mapping[str, int]
    length: int
    runs: Mapping[str, int] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check the vocabulary."""
        if missing := [name for name in SPECIAL if name not in self.vocabulary]:
            raise ValueError(f"the vocabulary has no {missing[0]}")
        if sorted(self.vocabulary.values()) != list(range(len(self.vocabulary))):
            raise ValueError("the numbers of a vocabulary's words must be 0, 1, 2, ...")
        if not 3 <= self.length <= LONGEST:
            raise ValueError(f"a text has at least 3 tokens, and at most {LONGEST}: {self.length}")

    def __repr__(self) -> str:
        """Return one short line."""
        return f"WordTokenizer({len(self)} words, up to {self.length} in a text)"

    def __len__(self) -> int:
        """Return the number of words, special ones included."""
        return len(self.vocabulary)

    def __call__(self, texts: str | Sequence[str]) -> np.ndarray:
        """Return the numbers of texts, (batch, length) in int32.

        Texts that are too long are cut, and words that are not known become <unk>, each with a
        warning that names them.
        """
        given = [texts] if isinstance(texts, str) else list(texts)
        strange = {w: None for text in given for w in split(text) if w not in self.vocabulary}
        if strange:
            warnings.warn(
                f"no caption in training had the word {listed(strange)}: read as {UNKNOWN}",
                stacklevel=2,
            )
        start, end, pad = (self.vocabulary[name] for name in (START, END, PAD))
        return rows(given, self.encode, start, end, pad, self.length)

    def encode(self, text: str) -> list[int]:
        """Return the numbers of a text, without start, end and limit."""
        unknown = self.vocabulary[UNKNOWN]
        firsts = [(self.vocabulary.get(word, unknown), word) for word in split(text)]
        return [n + i for n, word in firsts for i in range(self.runs.get(word, 1))]

    def with_token(self, name: str, count: int = 1) -> "WordTokenizer":
        """Return a tokenizer with a new word, which stands for ``count`` numbers after the last.

        Raises:
            ValueError: for a word that there is, or that is none; and for a count below 1.
        """
        names = [name, *(f"{name}_{i}" for i in range(1, count))]
        if count < 1 or split(name) != [name]:
            raise ValueError(
                f"a new word is letters and digits in lower case, for 1 or more: {name!r}"
            )
        if there := [word for word in names if word in self.vocabulary]:
            raise ValueError(f"the word {there[0]!r} is there already")
        more = {word: len(self) + i for i, word in enumerate(names)}
        runs = {**self.runs, name: count}
        return dataclasses.replace(self, vocabulary={**self.vocabulary, **more}, runs=runs)

    @property
    def empty(self) -> tuple[int, ...]:
        """Return the numbers of the text "", which stands for no text."""
        return tuple(self("")[0].tolist())

    def save(self, path: str | Path) -> None:
        """Write the file, whole or not at all. ValueError for words that stand for several
        numbers, which it has no place for.
        """
        import json

        if long := [word for word, count in self.runs.items() if count > 1]:
            raise ValueError(
                f"{long[0]!r} stands for {self.runs[long[0]]} numbers: no file says so"
            )

        write_text(path, json.dumps(_file(self), indent=1, ensure_ascii=False))


def words_of(
    captions: Iterable[str], *, length: int | None = None, least: int = 1
) -> WordTokenizer:
    """Return the tokenizer of the words that captions have, the most frequent first.

    Args:
        captions: texts.
        length: the longest text, start and end included; by default that of the longest caption.
        least: words that occur less often are left out.

    Returns:
        The tokenizer.

    Raises:
        ValueError: if no word is left, or for ``least`` below 1.

    >>> tokenizer = words_of(["a red seven", "a red one, small"])
    >>> tokenizer("a small seven").tolist()
    [[1, 4, 9, 8, 2, 0, 0]]
    """
    if least < 1:
        raise ValueError(f"least must be at least 1, not {least}")
    cut = [split(text) for text in captions]
    counts = collections.Counter(word for text in cut for word in text)
    kept = sorted((w for w, n in counts.items() if n >= least), key=lambda w: (-counts[w], w))
    if not kept:
        raise ValueError(f"no word of {len(cut)} captions occurs {least} times")
    longest = 2 + max(map(len, cut)) if length is None else length
    return WordTokenizer({word: i for i, word in enumerate((*SPECIAL, *kept))}, longest)


def read_words(path: str | Path) -> WordTokenizer:
    """Return the tokenizer in a file, tokenizer.json with a WordLevel model.

    Args:
        path: the file, as :meth:`WordTokenizer.save` writes it.

    Returns:
        The tokenizer.

    Raises:
        OSError: if it cannot be read.
        ValueError: naming the file, if it is damaged or of another kind.
    """
    made = read_json(path)
    try:
        return _read(made)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is no file of a tokenizer of words: {error}") from error


def split(text: str) -> list[str]:
    """Return the words of a text."""
    return WORD.findall(unicodedata.normalize("NFC", text).lower())


def rows(
    texts: Sequence[str], encode: Callable[[str], list[int]], start: int, end: int, pad: int,
    length: int,
) -> np.ndarray:  # fmt: skip
    """Return (batch, length) numbers in int32: start, as much of each text as there is room for,
    end, and padding. A warning names the texts that are cut.
    """
    made, long = np.full((len(texts), length), pad, np.int32), []
    for row, text in zip(made, texts, strict=True):
        ids = encode(text)
        if len(ids) > length - 2:
            long.append(text)
        ids = [start, *ids[: length - 2], end]
        row[: len(ids)] = ids
    if long:
        warnings.warn(
            f"longer than the {length - 2} tokens that a text may have, and cut: {listed(long)}",
            stacklevel=3,
        )
    return made


def listed(texts: Iterable[str]) -> str:
    """Return the first few of some texts, quoted, and how many more there are."""
    each = [t if len(t) <= LONG else f"{t[:LONG]}..." for t in texts]
    more = f" and {len(each) - SHOWN} more" if len(each) > SHOWN else ""
    return ", ".join(map(repr, each[:SHOWN])) + more


def _file(tokenizer: WordTokenizer) -> dict[str, Any]:
    """Return what the file says: how a text is cut, its words, its length."""
    known = tokenizer.vocabulary
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    special = lambda name: {"SpecialToken": {"id": name, "type_id": 0}}  # noqa: E731
    return {
        "version": "1.0",
        "truncation": {
            "direction": "Right", "max_length": tokenizer.length, "strategy": "LongestFirst",
            "stride": 0,
        },
        "padding": {
            "strategy": {"Fixed": tokenizer.length}, "direction": "Right",
            "pad_to_multiple_of": None, "pad_id": known[PAD], "pad_type_id": 0, "pad_token": PAD,
        },
        "added_tokens": [
            {"id": known[name], "content": name, **flags, "special": True} for name in SPECIAL
        ],
        "normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "Lowercase"}]},
        "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [special(START), {"Sequence": {"id": "A", "type_id": 0}}, special(END)],
            "pair": [
                special(START), {"Sequence": {"id": "A", "type_id": 0}},
                {"Sequence": {"id": "B", "type_id": 0}}, special(END),
            ],
            "special_tokens": {
                name: {"id": name, "ids": [known[name]], "tokens": [name]}
                for name in (START, END)
            },
        },
        "decoder": None,
        "model": {"type": "WordLevel", "vocab": dict(known), "unk_token": UNKNOWN},
    }  # fmt: skip


def _read(made: Any) -> WordTokenizer:
    model, cut = made["model"], made["truncation"]
    if model["type"] != "WordLevel" or model["unk_token"] != UNKNOWN:
        raise ValueError(f"its model is {model['type']}, not WordLevel with {UNKNOWN}")
    vocabulary, length = model["vocab"], cut["max_length"]
    whole = isinstance(vocabulary, dict) and all(type(n) is int for n in vocabulary.values())
    if not whole or type(length) is not int:
        raise ValueError("a vocabulary is words and their numbers, a length a whole number")
    own = WordTokenizer(vocabulary, length)
    if changed := [k for k, v in _file(own).items() if made.get(k) != v]:
        raise ValueError(f"its {changed[0]} is not that of a tokenizer of words")
    return own
