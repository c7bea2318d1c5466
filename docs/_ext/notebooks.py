"""Reads percent-format scripts as notebooks of this Python."""

import re
from typing import Any

import jupytext

REMARKS = re.compile(r"  # (noqa|fmt:|type: ignore).*")  # of tools, which readers need not see


def read(text: str) -> Any:
    """Return the notebook of a script, with the kernel and the language that it is run by."""
    notebook = jupytext.reads(REMARKS.sub("", text), fmt="py:percent")
    notebook.metadata["kernelspec"] = {
        "name": "python3",
        "language": "python",
        "display_name": "Python 3",
    }
    notebook.metadata["language_info"] = {"name": "python", "pygments_lexer": "ipython3"}
    return notebook
