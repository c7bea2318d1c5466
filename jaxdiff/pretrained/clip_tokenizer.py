"""CLIP's tokenizer: byte pairs of lower-case words (2103.00020, section 2.4; 1508.07909).

A text is composed (NFC), its white space made single blanks, its letters lower case. It falls into
words: runs of letters, single digits, runs of other signs, and the English endings 's, 't, 're,
've, 'm, 'll, 'd. The UTF-8 bytes of a word, each written as one printable character, the last with
"</w>", are joined pair by pair, the pair that comes first in the list of merges first. Tokens that
were added to the vocabulary, the special ones among them, are cut out before.
"""

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxdiff.data.words import rows
from jaxdiff.files import LARGEST_TEXT, read_json
from jaxdiff.pretrained.clip_words import normal, words

END_OF_WORD = "</w>"


def _signs() -> list[str]:
    """One printable character for every byte: itself if it is one, else those from 256 on."""
    plain = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = iter(range(256, 512))
    return [chr(b if b in plain else next(others)) for b in range(256)]


SIGNS = _signs()


@dataclasses.dataclass(frozen=True)
class ClipTokenizer:
    """Texts to numbers.

    Attributes:
        vocabulary: number of every token.
        ranks: of every pair that is joined, its place in the list of merges.
        start, end, pad, unknown: numbers of the special tokens.
        added: numbers of tokens that are cut out of a text, and whether they are looked for after
            it has become lower case.
        length: the longest text, start and end included.
        runs: numbers of added tokens that stand for several, and how many, from their own number
            on.
    """

    vocabulary: Mapping[str, int]
    ranks: Mapping[tuple[str, str], int]
    start: int
    end: int
    pad: int
    unknown: int
    added: Mapping[str, tuple[int, bool]] = dataclasses.field(default_factory=dict)
    length: int = 77
    runs: Mapping[int, int] = dataclasses.field(default_factory=dict)
    _known: dict[str, list[int]] = dataclasses.field(default_factory=dict, repr=False)

    def __repr__(self) -> str:
        """Return one short line."""
        return f"ClipTokenizer({len(self)} tokens, up to {self.length} in a text)"

    def __len__(self) -> int:
        """Return the number of tokens, added ones included."""
        return 1 + max([*self.vocabulary.values(), *(number for number, _ in self.added.values())])

    def __call__(self, texts: str | Sequence[str]) -> np.ndarray:
        """Return the numbers of texts, (batch, length) in int32: start, as much of the text as
        there is room for, end, and padding. A warning names texts that are cut.
        """
        given = [texts] if isinstance(texts, str) else list(texts)
        return rows(given, self.encode, self.start, self.end, self.pad, self.length)

    def encode(self, text: str) -> list[int]:
        """Return the numbers of a text, without start, end and limit."""
        found: list[int] = []
        for part in self._cut(text, False):
            if isinstance(part, int):
                found += self._run(part)
                continue
            for piece in self._cut(normal(part), True):
                if isinstance(piece, int):
                    found += self._run(piece)
                else:
                    found += [number for word in words(piece) for number in self._word(word)]
        return found

    def with_tokens(self, names: Sequence[str]) -> "ClipTokenizer":
        """Return a tokenizer with new tokens, whose numbers follow the last one's.

        Raises:
            ValueError: for one that there is.
        """
        count, added = len(self), dict(self.added)
        for i, name in enumerate(names):
            if not name or name in added or name in self.vocabulary:
                raise ValueError(f"the token {name!r} is empty, or there already")
            added[name] = count + i, True
        return dataclasses.replace(self, added=added, _known={})

    def with_token(self, name: str, count: int = 1) -> "ClipTokenizer":
        """Return a tokenizer with a new token that stands for ``count`` of them, "name name_1 ...".

        Raises:
            ValueError: for one that there is, or a count below 1.
        """
        if count < 1:
            raise ValueError(f"a token stands for at least one vector, not {count}")
        first = len(self)
        more = self.with_tokens([name, *(f"{name}_{i}" for i in range(1, count))])
        return dataclasses.replace(more, runs={**self.runs, first: count})

    def _run(self, number: int) -> range:
        return range(number, number + self.runs.get(number, 1))

    def _cut(self, text: str, normed: bool) -> Iterator[str | int]:
        """Yield the pieces of a text between tokens that were added, and the numbers of these."""
        numbers = {
            normal(name) if normed else name: number
            for name, (number, late) in self.added.items()
            if late == normed
        }
        if not numbers:
            yield text
            return
        longest = sorted(numbers, key=len, reverse=True)
        for piece in re.split(f"({'|'.join(map(re.escape, longest))})", text):
            if piece:
                yield numbers.get(piece, piece)

    def _word(self, word: str) -> list[int]:
        """Return the numbers of a word."""
        if word not in self._known:
            signs = [SIGNS[b] for b in word.encode()]
            parts = joined([*signs[:-1], signs[-1] + END_OF_WORD], self.ranks)
            self._known[word] = [self.vocabulary.get(part, self.unknown) for part in parts]
        return self._known[word]


def joined(parts: list[str], ranks: Mapping[tuple[str, str], int]) -> list[str]:
    """Join neighbours, everywhere the pair of the lowest rank, until there is none with a rank."""
    while len(parts) > 1:
        pairs = set(zip(parts[:-1], parts[1:], strict=True))
        best = min(pairs, key=lambda pair: ranks.get(pair, len(ranks)))
        if best not in ranks:
            break
        made, i = [], 0
        while i < len(parts):
            both = tuple(parts[i : i + 2]) == best
            made.append("".join(best) if both else parts[i])
            i += 2 if both else 1
        parts = made
    return parts


def read_tokenizer(folder: Path) -> ClipTokenizer:
    """Return the tokenizer of a folder with vocab.json and merges.txt, or with tokenizer.json.

    Read are, too, special_tokens_map.json, tokenizer_config.json and added_tokens.json.

    Raises:
        OSError: if there is none.
        ValueError: naming the file, if it is damaged or not a tokenizer of CLIP's kind.
    """
    folder = Path(folder)
    config = _optional(folder / "tokenizer_config.json")
    if (folder / "vocab.json").exists():
        vocabulary, pairs, added = (
            _checked(read_json(folder / "vocab.json"), folder / "vocab.json"),
            _merges(folder),
            {},
        )
    else:
        vocabulary, pairs, added = _whole(folder / "tokenizer.json")
    special = {**config, **_optional(folder / "special_tokens_map.json")}
    names = {
        key: _content(special.get(f"{key}_token"), default)
        for key, default in (
            ("bos", "<|startoftext|>"), ("eos", "<|endoftext|>"),
            ("unk", "<|endoftext|>"), ("pad", "<|endoftext|>"),
        )
    }  # fmt: skip
    for name, number in _optional(folder / "added_tokens.json").items():
        added |= _added({"content": name}, number, folder)
    listed = config.get("added_tokens_decoder", {})
    for number, entry in listed.items() if isinstance(listed, dict) else ():
        added |= _added(entry, number, folder)
    for key, name in names.items():
        if name not in vocabulary and name not in added:
            raise ValueError(f"{folder}: the token {name!r} ({key}) is not in the vocabulary")
        entry = special.get(f"{key}_token")
        late = entry.get("normalized", True) if isinstance(entry, dict) else False
        number = vocabulary[name] if name in vocabulary else added[name][0]
        added.setdefault(name, (number, bool(late)))
    ranks = {pair: i for i, pair in enumerate(pairs)}
    length = config.get("model_max_length", 77)
    if not isinstance(length, int) or not 2 < length < 10**6:
        length = 77  # transformers writes 10^30 for "none"
    start, end, pad, unknown = (added[names[key]][0] for key in ("bos", "eos", "pad", "unk"))
    return ClipTokenizer(vocabulary, ranks, start, end, pad, unknown, added, length)


def _optional(path: Path) -> dict[str, Any]:
    made = read_json(path) if path.exists() else {}
    if not isinstance(made, dict):
        raise ValueError(f"{path} is not a dictionary")
    return made


def _added(entry: Any, number: Any, where: Path) -> dict[str, tuple[int, bool]]:
    """Return an added token, by name its number and whether it is looked for in normal text."""
    name = _content(entry, "") if isinstance(entry, dict) else ""
    if not name or not str(number).isdecimal() or len(str(number)) > 9:
        raise ValueError(
            f"{where}: an added token is a text and a number; got {entry!r}, {number!r}"
        )
    return {name: (int(number), bool(entry.get("normalized", True)))}


def _content(entry: Any, default: str) -> str:
    """Return the text of a special token, which is written as it is or as a dictionary."""
    if isinstance(entry, dict):
        if entry.get("single_word"):
            raise ValueError(f"the token {entry.get('content')!r} is for single words only")
        entry = entry.get("content")
    return default if entry is None else str(entry)


def _checked(made: Any, path: Path) -> dict[str, int]:
    """Return a vocabulary. ValueError, naming the file, if it is none."""
    whole = isinstance(made, dict) and all(type(n) is int and n >= 0 for n in made.values())
    if not whole or not made:
        raise ValueError(f"{path} is no vocabulary: a dictionary of tokens and their numbers")
    return made


def _merges(folder: Path) -> list[tuple[str, str]]:
    path = folder / "merges.txt"
    if path.stat().st_size > LARGEST_TEXT:
        raise ValueError(f"{path} is larger than any list of merges")
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not a text: {error}") from error
    lines = lines[1:] if lines[0].startswith("#version") else lines
    return [_pair(line.split(" "), path) for line in lines if line.strip()]


def _pair(parts: Any, path: Path) -> tuple[str, str]:
    if (
        not isinstance(parts, list)
        or len(parts) != 2
        or not all(isinstance(p, str) and p for p in parts)
    ):
        raise ValueError(f"{path}: {parts!r} is not a pair of tokens")
    return parts[0], parts[1]


def _whole(path: Path) -> tuple[dict[str, int], list[tuple[str, str]], dict[str, Any]]:
    """Return vocabulary, merges and added tokens of a tokenizer.json."""
    made = read_json(path)
    model = made.get("model") if isinstance(made, dict) else None
    if (
        not isinstance(model, dict)
        or model.get("type", "BPE") != "BPE"
        or model.get("end_of_word_suffix") != END_OF_WORD
    ):
        raise ValueError(f"{path} is not a tokenizer of CLIP's kind: byte pairs of words")
    pairs, listed = model.get("merges"), made.get("added_tokens", [])
    if not isinstance(pairs, list) or not isinstance(listed, list):
        raise ValueError(f"{path} has no list of merges, or of added tokens")
    merges = [_pair(m.split(" ") if isinstance(m, str) else m, path) for m in pairs]
    added: dict[str, Any] = {}
    for entry in listed:
        added |= _added(entry, entry.get("id") if isinstance(entry, dict) else None, path)
    return _checked(model.get("vocab"), path), merges, added
