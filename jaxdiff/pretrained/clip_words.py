"""Words of a text as CLIP's tokenizer has them (2103.00020, section 2.4).

A text is composed (NFC), its white space made single blanks, its letters lower case. It falls into
runs of letters, single digits, runs of other signs, and the English endings 's, 't, 're, 've, 'm,
'll, 'd.
"""

import re
import unicodedata
from collections.abc import Iterator

BLANKS = frozenset(
    "\t\n\v\f\r \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u2028\u2029\u202f\u205f\u3000"
)
ENDINGS = ("'s", "'t", "'re", "'ve", "'m", "'ll", "'d")


def normal(text: str) -> str:
    """Return a text composed, with single blanks, in lower case letter by letter."""
    text = unicodedata.normalize("NFC", text)
    spaced = "".join(" " if c in BLANKS else c for c in text)
    return "".join(c.lower() for c in re.sub(" +", " ", spaced))


def words(text: str) -> Iterator[str]:
    """Yield the words of a normal text."""
    kinds, i = [_kind(c) for c in text], 0
    while i < len(text):
        ending = next((e for e in ENDINGS if text.startswith(e, i)), None)
        j = i + (len(ending) if ending else 1)
        if not ending and kinds[i] in "LO":
            while j < len(text) and kinds[j] == kinds[i]:
                j += 1
        if kinds[i] != " ":
            yield text[i:j]
        i = j


def _kind(c: str) -> str:
    """Return L for a letter, N for a number, a blank for white space, O for any other."""
    if c in BLANKS:
        return " "
    kind = unicodedata.category(c)[0]
    return kind if kind in "LN" else "O"
