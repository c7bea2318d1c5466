"""A sampler with its network as one file that needs only jax and numpy to run (and flatbuffers, by
which jax reads such programs).

The whole sampling program (starting noise from a seed, every step of the table, the network) is
lowered to StableHLO for several kinds of device and any number of samples, by jax.export; the
network's parameters are arguments of it, not constants in it. The file is an npz:

    program    the serialised program, bytes
    metadata   JSON: shape, classes, evaluations, platforms, versions, the metadata of the table
               "clip": the two values that samples are clipped to, or null
    0, 1, ...  the parameters, in the program's order

and eight lines run it anywhere::

    import jax, numpy as np

    file = np.load("sampler.npz")
    program = jax.export.deserialize(bytearray(file["program"]))
    weights = [file[str(i)] for i in range(len(file.files) - 2)]
    index = np.arange(16, dtype=np.int32)   # which samples: the same number is the same sample
    labels = index % 10                     # or a tree of conditions; left out where there are none
    images = jax.jit(program.call)(weights, np.uint32(0), index, labels)

An older version of jax may not read what a newer one wrote: export with the older one.
"""

import json
import os
import re
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from jaxdiff.arrays import kind
from jaxdiff.brief import short
from jaxdiff.denoisers import as_partial
from jaxdiff.files import open_archive, parse_json, read_array, replacing, storable
from jaxdiff.sampling.correction import as_correction
from jaxdiff.sampling.sampler import Sampler
from jaxdiff.typing import Array, Cond, Correct

PLATFORMS = ("cpu", "cuda", "tpu")
# Functions outside of the program that it may call: what jax itself compiles to, and none that runs
# Python or machine code of the file's.
CALLS = re.compile(
    r"Sharding|SPMD\w+Shape|annotate_device_placement|shape_assertion|ApproxTopK|Eigh|Qr"
    r"|LuDecomposition|ProductOfElementaryHouseholderReflectors|stablehlo\.dynamic_\w+"
    r"|(lapack|cusolver|cusparse|hipsolver|cu|hip)_\w+"
)


class Exported(NamedTuple):
    """A sampler read back: ``run(seed, index, labels)``, compiled on first use for each number of
    samples, and its metadata.
    """

    __repr__ = short

    run: Callable[..., Array]
    metadata: dict[str, Any]


def export_sampler(
    path: str | os.PathLike[str],
    sampler: Sampler,
    shape: Sequence[int],
    *,
    classes: int = 0,
    cond: Cond = None,
    platforms: Sequence[str] = PLATFORMS,
    clip: tuple[float, float] | None = None,
    correct: Correct | None = None,
) -> None:
    """Write a sampler as a program, whole or not at all.

    Args:
        path: of the file, ending in ".npz".
        sampler: a denoiser with its table; its parameters become arrays of the file.
        shape: of one sample.
        classes: number of classes; the program then takes a label for each sample.
        cond: one sample's condition, the null for instance, where it is another than a class: a
            tree (dictionaries, tuples and lists) of arrays, of which shapes and dtypes count. The
            program then takes such a tree, batch first, in place of labels.
        platforms: kinds of device that it is to run on.
        clip: the program clips samples to these two values, as ``jaxdiff sample`` does to -1 and 1.
        correct: corrects every accepted state (:mod:`jaxdiff.sampling.correction`); its parameters
            become arrays of the file, too.

    Raises:
        ValueError: for another ending, a kind of device that jax does not know, classes with
            another condition, or a program that calls what :func:`load_sampler` refuses (Python,
            or hand-written kernels).
    """
    path = Path(path)
    if path.suffix != ".npz":
        raise ValueError(f"an exported sampler is a file that ends in .npz, not {path}")
    if unknown := sorted(set(platforms) - {*PLATFORMS, "rocm"}):
        raise ValueError(f"no platform {unknown[0]!r}; there are {', '.join(PLATFORMS)} and rocm")
    if classes and cond is not None:
        raise ValueError("a sampler takes classes= or another condition, cond=, not both")
    leaves, tree = jax.tree.flatten((as_partial(sampler.denoiser), as_correction(correct)))
    dtypes = [getattr(leaf, "dtype", None) for leaf in leaves]
    leaves = [
        storable(np.asarray(leaf)) if _is_foreign(dtype) else leaf
        for leaf, dtype in zip(leaves, dtypes, strict=True)
    ]

    def run(leaves: list[Array], seed: Array, index: Array, *label: Array) -> Array:
        whole = [_restored(leaf, dtype) for leaf, dtype in zip(leaves, dtypes, strict=True)]
        denoiser, fix = jax.tree.unflatten(tree, whole)
        own = sampler._replace(denoiser=denoiser)
        samples = own(jax.random.key(seed), index, shape, *label, correct=fix)
        return samples if clip is None else jnp.clip(samples, *clip)

    (count,) = jax.export.symbolic_shape("samples")
    numbers = jax.ShapeDtypeStruct((count,), jnp.int32)
    arguments = [leaves, jax.ShapeDtypeStruct((), jnp.uint32), numbers]
    shaped = lambda x: jax.ShapeDtypeStruct((count, *np.shape(x)), jnp.result_type(x))  # noqa: E731
    conditions = numbers if classes else jax.tree.map(shaped, cond)
    arguments += [] if conditions is None else [conditions]
    program = jax.export.export(jax.jit(run), platforms=tuple(platforms))(*arguments)
    _check_calls(program)
    table = sampler.table
    metadata = {
        "shape": list(shape), "classes": classes, "nfe": table.nfe, "platforms": list(platforms),
        "name": table.name, "metadata": table.metadata, "jax": jax.__version__,
        "clip": None if clip is None else list(clip),
    }  # fmt: skip
    pairs = zip(leaves, program.in_avals, strict=False)  # then the seed, ...
    arrays = {str(i): np.asarray(leaf, needed.dtype) for i, (leaf, needed) in enumerate(pairs)}
    code = np.frombuffer(program.serialize(), np.uint8)
    with replacing(path) as file:
        np.savez(file, program=code, metadata=np.str_(json.dumps(metadata)), **arrays)  # type: ignore[arg-type]


def _is_foreign(dtype: DTypeLike | None) -> bool:
    """Return whether it is a dtype that npz does not know (bfloat16)."""
    return getattr(dtype, "kind", "") == "V"


def _restored(leaf: Array, dtype: DTypeLike | None) -> Array:
    if dtype is None or not _is_foreign(dtype):
        return leaf
    return jax.lax.bitcast_convert_type(leaf, dtype)


def load_sampler(path: str | os.PathLike[str]) -> Exported:
    """Read a file that :func:`export_sampler` wrote.

    Raises OSError (FileNotFoundError), and ValueError for a file that is damaged or another, or
    whose program calls functions outside of it that are not jax's own. What is left is arithmetic,
    of whatever size: run no file of a source that is not trusted where time and memory matter.
    """
    try:
        with open_archive(path) as archive:
            metadata = parse_json(str(read_array(archive, path, "metadata")), "metadata")
            count = len(archive.namelist()) - 2
            weights = [jnp.asarray(read_array(archive, path, str(i))) for i in range(count)]
            code = read_array(archive, path, "program")
        program = jax.export.deserialize(bytearray(code.tobytes()))
        conditions = _check_program(program, weights, metadata)
    except OSError:
        raise
    except Exception as error:  # numpy, jax and flatbuffers each have their own types
        raise ValueError(f"{path} is damaged or not an exported sampler: {error!r}") from error
    called = jax.jit(program.call)

    def run(seed: int, index: Array | int, labels: Cond = None) -> Array:
        numbers = np.arange(index) if isinstance(index, int) else np.asarray(index)
        labels = np.asarray(labels) if metadata["classes"] and labels is not None else labels
        more = _conditions(labels, conditions, metadata["classes"], len(numbers))
        return called(weights, jnp.uint32(seed), _held("index", numbers, jnp.int32), *more)

    return Exported(run, metadata)


def _conditions(labels: Cond, conditions: tuple[Any, ...], classes: int, count: int) -> list[Any]:
    """Return the conditions, as the program takes them; ValueError for others."""
    if labels is None and not conditions:
        return []
    if labels is None or not conditions:
        said = f"{classes} classes" if classes or not conditions else "conditions"
        raise ValueError(f"this sampler has {said}; labels={labels!r:.60}")
    if jax.tree.structure(labels) != jax.tree.structure(conditions[0]):
        raise ValueError(
            f"labels have the structure {jax.tree.structure(labels)}; this sampler's conditions "
            f"have {jax.tree.structure(conditions[0])}"
        )

    def one(path: Any, x: Any, known: Any) -> Array:
        shape = (count, *known.shape[1:])
        if np.shape(x) != shape or kind(x) != kind(known.dtype):
            raise ValueError(
                f"labels{jax.tree_util.keystr(path)} is {jnp.result_type(x)} of shape "
                f"{np.shape(x)}; it should be {known.dtype} of shape {shape}"
            )
        return _held(f"labels{jax.tree_util.keystr(path)}", x, known.dtype)

    made = jax.tree_util.tree_map_with_path(one, labels, conditions[0])
    if classes and ((labels < 0) | (labels > classes)).any():
        raise ValueError(
            f"labels must be 0 to {classes - 1}, or {classes} for no class; they are "
            f"{labels.min()} to {labels.max()}"
        )
    return [made]


def _held(name: str, x: Any, dtype: DTypeLike) -> Array:
    """Return an array of this dtype. Raises ValueError for integers beyond it; warns of numbers
    that are rounded to half precision or less.
    """
    given = np.asarray(x)
    made = given.astype(dtype)
    differs = np.asarray(made.astype(given.dtype) != given)
    if kind(made) < 2 and differs.any():
        raise ValueError(f"{name} is {given[differs][0]}, which {made.dtype} does not hold")
    if kind(made) == 2 and made.itemsize < 4 and (differs & (given == given)).any():
        warnings.warn(
            f"{name} is rounded from {given.dtype} to {made.dtype}, which the program takes",
            stacklevel=2,
        )
    return jnp.asarray(made)


def _check_program(program: Any, weights: list[Array], metadata: Any) -> tuple[Any, ...]:
    """Return the condition that a program takes, if any, as shapes; ValueError unless the program
    goes with its parameters and its metadata.
    """
    if type(classes := metadata["classes"]) is not int or classes < 0:
        raise ValueError(f"'classes' should be 0, 1, 2, ..., not {classes!r:.60}")
    shape = list(program.out_avals[0].shape[1:])
    if metadata["shape"] != shape:
        raise ValueError(f"it says that samples are {metadata['shape']!r:.60}, and makes {shape}")
    given, needed = ([(a.shape, a.dtype) for a in x] for x in (weights, program.in_avals))
    (_, *others), _ = jax.tree.unflatten(program.in_tree, program.in_avals)
    conditions = tuple(others[2:])
    leaves = len(jax.tree.leaves(conditions))
    if given != needed[: len(given)] or len(needed) != len(given) + 2 + leaves:
        raise ValueError("the parameters are not those that the program needs")
    if classes and [(a.ndim, a.dtype) for a in jax.tree.leaves(conditions)] != [(1, np.int32)]:
        raise ValueError(f"it says that it has {classes} classes, and its program takes no labels")
    _check_calls(program)
    return conditions


def _check_calls(program: Any) -> None:
    text = program.mlir_module()
    names = re.findall(r'custom_call @"?([^"(\s]*)|call_target_name = "([^"]*)"', text)
    for name in map("".join, names):
        if not CALLS.fullmatch(name):
            raise ValueError(f"the program calls {name}, which is no function of jax's own")
