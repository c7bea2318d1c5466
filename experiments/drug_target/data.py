"""Data of drug-target prediction, read from a folder.

nr, gpcr, ic   nuclear receptors, G protein-coupled receptors, ion channels: interactions,
               SIMCOMP of drugs, normalised Smith-Waterman of targets (Yamanishi et al., 2008);
               files <name>_admat_dgc.txt (targets by drugs), <name>_simmat_dc.txt, _dg.txt
davis          68 kinase inhibitors, 442 kinases: dissociation constants in nM (Davis et al.,
               2011), in davis/Y, a pickled array, with similarities beside it
"""

import pickle
import warnings
from pathlib import Path
from typing import IO, Any

import numpy as np

from jaxdiff.classify.interactions import Problem, problem, read_matrix

GOLD = ("nr", "gpcr", "ic")
BINDS = 30.0  # nM: the threshold of Pahikkala et al. (Briefings in Bioinformatics 16, 2015, 325)
NOTHING = 5.0  # -log10 of 10 uM, which stands for no binding


def gold_standard(folder: Path, name: str) -> Problem:
    """Return a data set of Yamanishi et al., drugs by targets."""
    files = (f"{name}_admat_dgc.txt", f"{name}_simmat_dc.txt", f"{name}_simmat_dg.txt")
    known, drugs, targets = (read_matrix(folder / file).values for file in files)
    return _kernels(known.T, drugs, targets, binary=True)


def davis(folder: Path, *, binary: bool) -> Problem:
    """Return Davis et al.: whether Kd < 30 nM, or -log10 Kd above that of no binding."""
    with open(folder / "davis" / "Y", "rb") as file:
        constants = _OnlyArrays(file, encoding="latin1").load()  # (68, 442), nM
    drugs = read_matrix(folder / "davis" / "drug-drug_similarities_2D.txt").values
    scores = read_matrix(folder / "davis" / "target-target_similarities_WS.txt").values
    own = np.sqrt(np.diag(scores))
    known = constants < BINDS if binary else 9 - np.log10(constants) - NOTHING
    return _kernels(known.astype(float), drugs, scores / own[:, None] / own, binary=binary)


def _kernels(known: np.ndarray, drugs: np.ndarray, targets: np.ndarray, *, binary: bool) -> Problem:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".* is no kernel", category=UserWarning)
        return problem(known, drugs, targets, binary=binary)  # that they are none is known


class _OnlyArrays(pickle.Unpickler):
    """Unpickles arrays of NumPy and refuses everything else."""

    def __init__(self, file: IO[bytes], **options: Any) -> None:
        super().__init__(file, **options)

    def find_class(self, module: str, name: str) -> Any:
        """Return what an array is made of. Raises pickle.UnpicklingError for anything else."""
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name == "_reconstruct":
            from numpy._core.multiarray import _reconstruct  # type: ignore[attr-defined]

            return _reconstruct
        if module == "numpy" and name in ("ndarray", "dtype"):
            return getattr(np, name)
        raise pickle.UnpicklingError(f"this file should hold an array, and calls {module}.{name}")
