"""Names and shapes of the tensors of published models, which are beside the project."""

import json

import pytest
from helpers.golden_numbers import SHARED

FOLDER = SHARED.parent / "specs" / "published_keys"


def published(name):
    """Shapes by name, and the config.json ({} without); skipped where the folder is not there."""
    path = FOLDER / f"{name}.json"
    if not path.exists():
        pytest.skip(f"the names of published models ({path.name}) are not beside this checkout")
    config = path.with_suffix(".config.json")
    shapes = {name: tuple(shape) for name, shape in json.loads(path.read_text()).items()}
    return shapes, json.loads(config.read_text()) if config.exists() else {}
