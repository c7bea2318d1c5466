"""Parameters in a folder that a user's own training wrote with orbax."""

import os
from pathlib import Path
from typing import Any

from jaxdiff.typing import Params


def load_orbax(path: str | os.PathLike[str]) -> Params:
    """Return the tree in a folder of orbax's, as it was saved, in dictionaries and lists.

    path: of one checkpoint, as ``StandardCheckpointer`` and ``PyTreeCheckpointer`` write it; of
        ``CheckpointManager`` the item's folder, "run/1000/default".

    Raises:
        FileNotFoundError: if there is no folder.
        ValueError: naming the folder, if it is damaged or not of orbax.
    """
    import orbax.checkpoint as ocp

    path = Path(path).absolute()
    if not path.is_dir():
        raise FileNotFoundError(f"there is no folder {path}")
    try:
        made: Any = ocp.PyTreeCheckpointer().restore(path)
    except Exception as error:  # orbax and tensorstore have as many types as there are mistakes
        raise ValueError(f"{path} is not a checkpoint of orbax, or damaged: {error}") from error
    return made
