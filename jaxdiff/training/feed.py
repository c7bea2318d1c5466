"""Batches of a run: those rows that a process needs, made in advance by another thread."""

import collections
import concurrent.futures
import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from jaxdiff.method import Batch
from jaxdiff.training import devices as placement
from jaxdiff.training import hosts
from jaxdiff.training.inputs import checked


def own_rows(
    data: Any, runner: placement.Runner, check: Callable[[Batch], None] | None
) -> tuple[Callable[[int], Any], Any]:
    """Batches, and how they are placed: those rows alone that this process needs, if it can be."""
    size = getattr(data, "batch_size", None)
    make = checked(data, check)
    if size is None or not hosts.several():
        return make, runner.feed
    rows = runner.rows(size)
    return (lambda n: make(n, rows)), (lambda batch: runner.feed(batch, rows, size))


@contextlib.contextmanager
def batches_ahead(
    make: Callable[[int], Any], first: int, last: int, depth: int
) -> Iterator[Iterator[Any]]:
    """make(first), make(first + 1), ..., of which a thread makes ``depth`` in advance."""
    if depth < 1:
        yield map(make, range(first, last))
        return
    with concurrent.futures.ThreadPoolExecutor(1, "batches") as pool:
        soon = range(first, min(first + depth, last))
        coming = collections.deque(pool.submit(make, n) for n in soon)

        def each() -> Iterator[Any]:
            for n in range(first + depth, last + depth):
                batch = coming.popleft().result()
                if n < last:
                    coming.append(pool.submit(make, n))
                yield batch

        try:
            yield each()
        finally:
            for batch in coming:
                batch.cancel()
