"""A U-Net with what steers it, a ControlNet, T2I-Adapter or IP-Adapter, as one network.

cond has the picture beside the U-Net's conditions, and is all that samplers, guidance and methods
see of it. Without the picture the U-Net is as it was.
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax

from jaxdiff.networks.attention import AttentionFn, chosen_attention
from jaxdiff.networks.controlnet import ControlNet, scaled
from jaxdiff.networks.ip_adapter import IPAdapter, cross_layers, decoupled
from jaxdiff.networks.t2i_adapter import T2IAdapter
from jaxdiff.networks.unet import UNet
from jaxdiff.networks.unet2d_condition import UNet2DCondition
from jaxdiff.networks.unet_control import UNetControl
from jaxdiff.typing import Array, Cond, Outputs


class Controlled(nn.Module):
    """A U-Net, steered by one network or several, whose maps are summed.

    Its parameters are the U-Net's own and, beside them, those of what steers: "controls_0", ...

    unet: one with text, or the small one, whose cond is then {"classes": (batch,)} beside the
    pictures, and which ``UNetControl`` alone steers. controls: what steers. pictures: for each, the
    key of cond that its picture is at, of an IP-Adapter the features of one. scales: of what each
    adds to the U-Net's maps, or to what its layers attend to. guess: for each, weights from scale /
    10 to scale (:func:`jaxdiff.networks.controlnet.weights`), of a ControlNet whose residuals are
    not pooled.
    """

    unet: UNet2DCondition | UNet
    controls: tuple[ControlNet | T2IAdapter | IPAdapter | UNetControl, ...]
    pictures: tuple[str, ...]
    scales: tuple[float, ...]
    guess: tuple[bool, ...]

    def setup(self) -> None:
        """Keep the U-Net's parameters where they are without this module."""
        nn.share_scope(self, self.unet)

    def __call__(
        self,
        x: Array,
        label: Array,
        cond: Cond = None,
        *,
        deterministic: bool = True,
        full: bool = False,
        attention: AttentionFn | None = None,
        residuals: Sequence[Array] | None = None,
        adapter: Sequence[Array] | None = None,
    ) -> Array | Outputs:
        """Return the U-Net's output; arguments as its own.

        cond: a dictionary, with the picture of each network that is to steer. attention: what the
        U-Net's attention layers call; a ControlNet's call its own ``attention_fn``. Raises
        TypeError for another cond, ValueError as the networks do.
        """
        if cond is not None and not isinstance(cond, dict):
            names = ", ".join(self.pictures)
            raise TypeError(f"cond must be a dictionary, which may have {names}; got {type(cond)}")
        given = dict(cond or {})
        pictures = [given.pop(key, None) for key in self.pictures]
        for i, (control, picture) in enumerate(zip(self.controls, pictures, strict=True)):
            if picture is None:
                continue
            if isinstance(control, IPAdapter):
                assert isinstance(self.unet, UNet2DCondition)
                # as layers see themselves, inside of a larger network too
                paths = ["/".join((*self.path, path)) for path, _ in cross_layers(self.unet)]
                layers = dict(zip(paths, control(picture), strict=True))
                plain = chosen_attention(attention, self.unet.attention_fn, len(paths))
                attention = decoupled(plain, layers, self.scales[i])
                continue
            if isinstance(control, T2IAdapter):
                adapter = summed(adapter, scaled(control(picture), self.scales[i]))
                continue
            needed, possible = control.keys(x.shape[-1])
            own = {key: given[key] for key in (*needed, *possible) if key in given}
            made = control(x, label, own | {"control": picture}, deterministic=deterministic)
            guess = self.guess[i] and not getattr(control, "pooled", False)
            residuals = summed(residuals, scaled(made, self.scales[i], guess=guess))
        own = {} if isinstance(self.unet, UNet) else {"adapter": adapter}
        rest = self._classes(given) if isinstance(self.unet, UNet) else given or None
        return self.unet(
            x, label, rest, deterministic=deterministic, full=full, attention=attention,
            residuals=residuals, **own,
        )  # fmt: skip

    def _classes(self, given: dict[str, Any]) -> Array | None:
        """Return the small U-Net's own condition. ValueError for more than that."""
        if strange := sorted(set(given) - {"classes"}):
            raise ValueError(f"cond[{strange[0]!r}] was given to a U-Net that takes classes alone")
        return given.get("classes")

    @property
    def classes(self) -> str:
        """Return the U-Net's kind of classes."""
        return getattr(self.unet, "classes", "")

    @property
    def num_classes(self) -> int:
        """Return the U-Net's number of classes."""
        return self.unet.num_classes

    def keys(self, channels: int | None = None) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return the keys that cond must have, and those that it may have; see the U-Net's."""
        if isinstance(self.unet, UNet):
            return (), (*(("classes",) if self.num_classes else ()), *self.pictures)
        needed, possible = self.unet.keys(channels)
        return needed, (*possible, *self.pictures)


def summed(first: Sequence[Array] | None, second: Sequence[Array]) -> tuple[Array, ...]:
    """Return sums of maps. ValueError for other numbers or shapes of them."""
    if first is None:
        return tuple(second)
    shapes = [[m.shape for m in maps] for maps in (first, second)]
    if shapes[0] != shapes[1]:
        raise ValueError(f"maps of shapes {shapes[0]} and {shapes[1]} cannot be added")
    return tuple(jax.tree.map(lambda a, b: a + b.astype(a.dtype), tuple(first), tuple(second)))
