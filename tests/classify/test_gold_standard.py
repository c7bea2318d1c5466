"""Areas on the nuclear receptors of Yamanishi et al., on the folds of the tables of 2016."""

import pathlib

import jax
import numpy as np
import pytest

from experiments.drug_target.data import davis, gold_standard
from experiments.drug_target.methods import KNOWN, METHODS
from jaxdiff.classify.interactions import cross_validate, held_out

DATA = pathlib.Path(__file__).parents[3] / "shared" / "data" / "dti"
needs_data = pytest.mark.skipif(
    not DATA.is_dir(), reason=f"the published interactions are not in {DATA}"
)
EXACT = ("netlaprls", "blm_toolbox", "blm_nii_toolbox", "rls_avg", "rls_kron")  # nothing random
CLOSE = dict.fromkeys(EXACT, 6e-4) | {"wnn_gip_next": 2.5e-3}  # of alike drugs the order differs


@needs_data
def test_the_data_are_of_the_sizes_that_their_papers_say():
    receptors = gold_standard(DATA, "nr")
    assert np.shape(receptors.known) == (54, 26) and np.sum(receptors.known) == 90
    kinases = davis(DATA, binary=True)
    assert np.shape(kinases.known) == (68, 442)
    np.testing.assert_allclose(np.diag(kinases.targets), 1, atol=0.05)


@pytest.mark.slow
@needs_data
@pytest.mark.parametrize("name", [*EXACT, "wnn_gip", "wnn_gip_next", "cmf", "nrlmf"])
def test_areas_on_nuclear_receptors_are_those_of_an_independent_implementation(name):
    whole = gold_standard(DATA, "nr")
    folds = held_out((54, 26), "pairs")
    found = cross_validate(METHODS[name].predict, whole, folds, jax.random.key(0))
    for area, known in zip(found.intervals, KNOWN[name]["nr"], strict=True):
        assert abs(area.mean - known) < CLOSE.get(name, area.half)


@pytest.mark.slow
@needs_data
def test_profiles_alone_are_near_chance_on_new_targets():
    whole = gold_standard(DATA, "nr")
    folds = held_out((54, 26), "targets")
    found = cross_validate(METHODS["rls_kron_profile"].predict, whole, folds, jax.random.key(0))
    assert abs(found.intervals[0].mean - 0.5) < 0.1
