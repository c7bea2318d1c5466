"""The order of an epoch: a permutation drawn from (seed, epoch), of any number of samples.

Up to ``LISTED`` samples it is a list, by NumPy's generator. Of more, which would take gigabytes, a
place goes through a keyed bijection of 0..2^(2b)-1, 4^b the least such number that is not below the
count, until it falls below the count: a Feistel network of ``ROUNDS`` rounds,

    (l, r) -> (r, l xor f_k(r)),

with f_k a hash of b bits (the finaliser of splitmix64), as Luby and Rackoff (1988) showed that four
rounds of random functions look like a random permutation. Any place is found without the others.
"""

import functools

import numpy as np

LISTED = 1 << 22
ROUNDS = 6
MIRRORED = 1 << 20  # the key of the coins, no round's


def epoch_order(
    seed: int, epoch: int, count: int, places: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the samples at these places of an epoch's order, and which of them are mirrored."""
    if count <= LISTED:
        order, coins = _listed(seed, epoch, count)
        return order[places], coins[places]
    key = np.random.default_rng((seed, epoch)).integers(2**63, dtype=np.int64)
    chosen = permuted(places, count, int(key))
    coins = _hash(np.asarray(places, np.uint64), int(key) + MIRRORED) & np.uint64(1)
    return chosen, coins.astype(bool)


@functools.lru_cache(maxsize=4)
def _listed(seed: int, epoch: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng((seed, epoch))
    return rng.permutation(count), rng.random(count) < 0.5


def permuted(places: np.ndarray, count: int, key: int) -> np.ndarray:
    """Return where a keyed permutation of 0..count-1 takes these places."""
    bits = max(1, (max(count - 1, 1).bit_length() + 1) // 2)
    found = np.array(places, np.uint64)
    outside = np.ones(found.shape, bool)
    while outside.any():  # a power of two below 4 count: four turns in the mean at most
        found[outside] = _feistel(found[outside], bits, key)
        outside = found >= count
    return found.astype(np.int64)


def _feistel(x: np.ndarray, bits: int, key: int) -> np.ndarray:
    low, shift = np.uint64((1 << bits) - 1), np.uint64(bits)
    left, right = x >> shift, x & low
    for i in range(ROUNDS):
        left, right = right, left ^ (_hash(right, key + i) & low)
    return (left << shift) | right


def _hash(x: np.ndarray, key: int) -> np.ndarray:
    """Return 64 well mixed bits of every number and the key."""
    start = np.uint64((key * 0x9E3779B97F4A7C15) % 2**64)
    with np.errstate(over="ignore"):
        z = x * np.uint64(0xD1342543DE82EF95) + start
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))
