"""A sampler with its network as one file that needs only jax and numpy to run (and flatbuffers, by
which jax reads such programs).

The whole sampling program (starting noise from a seed, every step of the table, the network) is
lowered to StableHLO for several kinds of device and any number of samples, by jax.export; the
network's parameters are arguments of it, not constants in it. The file is an npz:

    program    the serialised program, bytes
    about      JSON: shape, classes, evaluations, platforms, versions, what the table says of itself
    0, 1, ...  the parameters, in the program's order

and eight lines run it anywhere::

    import jax, numpy as np

    file = np.load("sampler.npz")
    program = jax.export.deserialize(bytearray(file["program"]))
    weights = [file[str(i)] for i in range(len(file.files) - 2)]
    index = np.arange(16, dtype=np.int32)   # which samples: the same number is the same sample
    labels = index % 10                     # left out of the call where the model has no classes
    images = jax.jit(program.call)(weights, np.uint32(0), index, labels)

An older version of jax may not read what a newer one wrote: export with the older one.
"""

import json
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.files import open_archive, parse_json, read_array, replacing, storable
from jaxdiff.prediction import as_partial
from jaxdiff.sampling.sample import Sampler
from jaxdiff.typing import Array

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
    samples, and what the file says about it.
    """

    run: Callable[..., Array]
    about: dict[str, Any]


def export_sampler(
    path: str | os.PathLike[str],
    sampler: Sampler,
    shape: Sequence[int],
    *,
    classes: int = 0,
    platforms: Sequence[str] = PLATFORMS,
) -> None:
    """Write a sampler as a program, whole or not at all.

    Args:
        path: of the file, ending in ".npz".
        sampler: a denoiser with its table; its parameters become arrays of the file.
        shape: of one sample.
        classes: number of classes; the program then takes a label for each sample.
        platforms: kinds of device that it is to run on.

    Raises:
        ValueError: for another ending, a kind of device that jax does not know, or a program that
            calls what :func:`load_sampler` refuses (Python, or hand-written kernels).
    """
    path = Path(path)
    if path.suffix != ".npz":
        raise ValueError(f"an exported sampler is a file that ends in .npz, not {path}")
    if unknown := sorted(set(platforms) - {*PLATFORMS, "rocm"}):
        raise ValueError(f"no platform {unknown[0]!r}; there are {', '.join(PLATFORMS)} and rocm")
    leaves, tree = jax.tree.flatten(as_partial(sampler.denoiser))
    dtypes = [getattr(leaf, "dtype", None) for leaf in leaves]
    leaves = [
        storable(np.asarray(leaf)) if _is_foreign(dtype) else leaf
        for leaf, dtype in zip(leaves, dtypes, strict=True)
    ]

    def run(leaves: list[Array], seed: Array, index: Array, *label: Array) -> Array:
        whole = [_restored(leaf, dtype) for leaf, dtype in zip(leaves, dtypes, strict=True)]
        own = sampler._replace(denoiser=jax.tree.unflatten(tree, whole))
        return own(jax.random.key(seed), index, shape, *label)

    (count,) = jax.export.symbolic_shape("samples")
    numbers = jax.ShapeDtypeStruct((count,), jnp.int32)
    arguments = [leaves, jax.ShapeDtypeStruct((), jnp.uint32), numbers]
    arguments += [numbers] if classes else []
    program = jax.export.export(jax.jit(run), platforms=tuple(platforms))(*arguments)
    _check_calls(program)
    table = sampler.table
    about = {
        "shape": list(shape), "classes": classes, "nfe": table.nfe, "platforms": list(platforms),
        "name": table.name, "about": table.about, "jax": jax.__version__,
    }  # fmt: skip
    pairs = zip(leaves, program.in_avals, strict=False)  # then the seed, ...
    arrays = {str(i): np.asarray(leaf, needed.dtype) for i, (leaf, needed) in enumerate(pairs)}
    code = np.frombuffer(program.serialize(), np.uint8)
    with replacing(path) as file:
        np.savez(file, program=code, about=np.str_(json.dumps(about)), **arrays)  # type: ignore[arg-type]


def _is_foreign(dtype: Any) -> bool:
    """Whether it is a dtype that npz does not know (bfloat16)."""
    return getattr(dtype, "kind", "") == "V"


def _restored(leaf: Array, dtype: Any) -> Array:
    return jax.lax.bitcast_convert_type(leaf, dtype) if _is_foreign(dtype) else leaf


def load_sampler(path: str | os.PathLike[str]) -> Exported:
    """Read a file that :func:`export_sampler` wrote.

    Raises OSError (FileNotFoundError), and ValueError for a file that is damaged or another, or
    whose program calls functions outside of it that are not jax's own. What is left is arithmetic,
    of whatever size: run no file of a source that is not trusted where time and memory matter.
    """
    try:
        with open_archive(path) as archive:
            about = parse_json(str(read_array(archive, path, "about")), "about")
            count = len(archive.namelist()) - 2
            weights = [jnp.asarray(read_array(archive, path, str(i))) for i in range(count)]
            code = read_array(archive, path, "program")
        program = jax.export.deserialize(bytearray(code.tobytes()))
        classes = _check_program(program, weights, about)
    except OSError:
        raise
    except Exception as error:  # numpy, jax and flatbuffers each have their own types
        raise ValueError(f"{path} is damaged or not an exported sampler: {error!r}") from error
    called = jax.jit(program.call)

    def run(seed: int, index: Array | int, labels: Array | None = None) -> Array:
        numbers = np.arange(index) if isinstance(index, int) else np.asarray(index)
        if (labels is None) == bool(classes):
            raise ValueError(f"this sampler has {classes} classes; labels={labels!r}")
        more = [] if labels is None else [jnp.asarray(labels, jnp.int32)]
        return called(weights, jnp.uint32(seed), jnp.asarray(numbers, jnp.int32), *more)

    return Exported(run, about)


def _check_program(program: Any, weights: list[Array], about: Any) -> int:
    """The number of classes, of a program that goes with its parameters; else ValueError."""
    if type(classes := about["classes"]) is not int or classes < 0:
        raise ValueError(f"'classes' should be 0, 1, 2, ..., not {classes!r:.60}")
    shape = list(program.out_avals[0].shape[1:])
    if about["shape"] != shape:
        raise ValueError(f"it says that samples are {about['shape']!r:.60}, and makes {shape}")
    given, needed = ([(a.shape, a.dtype) for a in x] for x in (weights, program.in_avals))
    if given != needed[: len(given)] or len(needed) != len(given) + (3 if classes else 2):
        raise ValueError("the parameters are not those that the program needs")
    _check_calls(program)
    return classes


def _check_calls(program: Any) -> None:
    text = program.mlir_module()
    names = re.findall(r'custom_call @"?([^"(\s]*)|call_target_name = "([^"]*)"', text)
    for name in map("".join, names):
        if not CALLS.fullmatch(name):
            raise ValueError(f"the program calls {name}, which is no function of jax's own")
