"""A sampler with its network as one file that needs only jax and numpy to run.

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

import io
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.prediction import as_partial
from jaxdiff.sampling.sample import Sampler
from jaxdiff.typing import Array

PLATFORMS = ("cpu", "cuda", "tpu")


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
        ValueError: for another ending, or a kind of device that jax does not know.
        ImportError: without the package flatbuffers (``pip install 'jaxdiff[export]'``).
    """
    path = Path(path)
    if path.suffix != ".npz":
        raise ValueError(f"an exported sampler is a file that ends in .npz, not {path}")
    if unknown := sorted(set(platforms) - {*PLATFORMS, "rocm"}):
        raise ValueError(f"no platform {unknown[0]!r}; there are {', '.join(PLATFORMS)} and rocm")
    leaves, tree = jax.tree.flatten(as_partial(sampler.denoiser))

    def run(leaves: list[Array], seed: Array, index: Array, *label: Array) -> Array:
        own = sampler._replace(denoiser=jax.tree.unflatten(tree, leaves))
        return own(jax.random.key(seed), index, shape, *label)

    (count,) = jax.export.symbolic_shape("samples")
    numbers = jax.ShapeDtypeStruct((count,), jnp.int32)
    arguments = [leaves, jax.ShapeDtypeStruct((), jnp.uint32), numbers]
    arguments += [numbers] if classes else []
    program = jax.export.export(jax.jit(run), platforms=tuple(platforms))(*arguments)
    table = sampler.table
    about = {
        "shape": list(shape), "classes": classes, "nfe": table.nfe, "platforms": list(platforms),
        "name": table.name, "about": table.about, "jax": jax.__version__,
    }  # fmt: skip
    arrays = {str(i): np.asarray(leaf) for i, leaf in enumerate(leaves)}
    written = io.BytesIO()
    code = np.frombuffer(program.serialize(), np.uint8)
    np.savez(written, program=code, about=np.str_(json.dumps(about)), **arrays)  # type: ignore[arg-type]
    partial = path.with_name(f"{path.name}.tmp")
    try:
        partial.write_bytes(written.getvalue())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def load_sampler(path: str | os.PathLike[str]) -> Exported:
    """Read a file that :func:`export_sampler` wrote.

    Raises OSError (FileNotFoundError), and ValueError for a file that is damaged or another.
    """
    try:
        with open(path, "rb") as opened, np.load(opened, allow_pickle=False) as file:
            about = json.loads(str(file["about"]))
            weights = [jnp.asarray(file[str(i)]) for i in range(len(file.files) - 2)]
            program = jax.export.deserialize(bytearray(file["program"].tobytes()))
    except OSError:
        raise
    except Exception as error:  # zip, zlib, json, numpy and flatbuffers each have their own types
        raise ValueError(f"{path} is damaged or not an exported sampler: {error!r}") from error
    called = jax.jit(program.call)

    def run(seed: int, index: Array | int, labels: Array | None = None) -> Array:
        numbers = np.arange(index) if isinstance(index, int) else np.asarray(index)
        if (labels is None) == bool(about["classes"]):
            raise ValueError(f"this sampler has {about['classes']} classes; labels={labels!r}")
        more = [] if labels is None else [jnp.asarray(labels, jnp.int32)]
        return called(weights, jnp.uint32(seed), jnp.asarray(numbers, jnp.int32), *more)

    return Exported(run, about)
