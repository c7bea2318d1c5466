"""What a denoiser was made of, so that it can be made again of other parameters."""

from typing import Any

from jaxdiff.denoisers import description
from jaxdiff.typing import Denoiser


def described(D: Denoiser) -> dict[str, Any]:
    """Return what a denoiser was made of: the arguments of :func:`jaxdiff.denoisers.denoiser`, with
    "network" for the function that it applies.

    Args:
        D: any denoiser.

    Returns:
        "network", "params" and the options, the level at which it is the identity among them.

    Raises:
        TypeError: for a denoiser made otherwise.
    """
    made = description(D)
    if made is None:
        raise TypeError(
            "adapters go into a denoiser as jaxdiff.denoiser(network, params, ...) makes it, "
            "without guidance or another function around it"
        )
    return {**made, "sigma_min": D.args[3]}  # type: ignore[attr-defined]
