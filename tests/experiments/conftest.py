"""Programs are kept from test to test."""

import jax
import pytest


@pytest.fixture(scope="module", autouse=True)
def programs_are_kept():
    """A table forgets a row's programs, all there are in the process: the next tests' as well."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "clear_caches", lambda: None)
        yield
