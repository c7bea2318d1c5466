"""Several classifiers that learn together, from each other, without a trained teacher.

They are networks of their own, or branches of one: stem and first stages shared, the last stages
and the classifier each one's own. A branch with what is shared is a network like any other.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax

from jaxdiff.method import WithState
from jaxdiff.networks.image_classifier import ImageClassifier
from jaxdiff.networks.resnet_cifar import ResNetCIFAR
from jaxdiff.typing import Array, Key, Outputs


@dataclass(frozen=True)
class Group:
    """Classifiers of one kind.

    network: each of them. members: how many. branches: whether all but the last stage is shared.
    """

    network: ImageClassifier
    members: int
    branches: bool

    def __post_init__(self) -> None:
        """Check that it can be made."""
        if self.members < 2:
            raise ValueError(f"a group has 2 members at least; got {self.members}")
        if self.branches and not isinstance(self.network.module, ResNetCIFAR):
            raise ValueError(
                f"branches are of a ResNetCIFAR; {type(self.network.module).__name__} learns in a "
                "group of whole networks: branches=False"
            )

    def init(self, key: Key) -> WithState:
        """Draw WithState({"shared": ..., "members": [...]}, the same of the state)."""
        drawn = [self.network.init(k) for k in jax.random.split(key, self.members)]
        if not self.branches:
            members = [d.value for d in drawn], [d.state for d in drawn]
            return WithState(*({"shared": {}, "members": m} for m in members))
        params = self._apart([d.value for d in drawn])
        statistics = self._apart([d.state["batch_stats"] for d in drawn])
        return WithState(params, statistics)

    def _apart(self, trees: list[Mapping[str, Any]]) -> dict[str, Any]:
        own = lambda name: name == "fc" or name.startswith(f"stage{self._last}_")  # noqa: E731
        members = [{n: v for n, v in tree.items() if own(n)} for tree in trees]
        return {"shared": {n: v for n, v in trees[0].items() if not own(n)}, "members": members}

    @property
    def _last(self) -> int:
        return len(self.network.module.widths) - 1

    def member(self, variables: WithState, i: int) -> WithState:
        """Return the variables of one member as a whole network."""
        params, state = ({**t["shared"], **t["members"][i]} for t in variables)
        return WithState(params, {"batch_stats": state} if self.branches else state)

    def training(
        self, variables: WithState, images: Array, axis_name: str | None = None,
        shared_gradient: float = 1.0,
    ) -> tuple[list[Outputs], Array | None, Any]:  # fmt: skip
        """Return every member's Outputs, the map that branches share, and the next state.

        shared_gradient: what the gradient into the shared part is multiplied by.
        """
        if not self.branches:
            made = [
                self.network.training(self.member(variables, i), images, axis_name)
                for i in range(self.members)
            ]
            return [m[0] for m in made], None, {"shared": {}, "members": [m[1] for m in made]}
        module, flags = self.network.module, {"train": True, "axis_name": axis_name}
        params, state = variables
        trunk, shared = module.clone(end=self._last - 1).apply(
            {"params": params["shared"], "batch_stats": state["shared"]}, images, **flags,
            mutable=["batch_stats"],
        )  # fmt: skip
        h = trunk.value
        h = shared_gradient * h + (1.0 - shared_gradient) * jax.lax.stop_gradient(h)
        tail, outputs, after = module.clone(begin=(self._last, 0)), [], []
        for own, known in zip(params["members"], state["members"], strict=True):
            out, moved = tail.apply(
                {"params": own, "batch_stats": known}, h, full=True, **flags,
                mutable=["batch_stats"],
            )  # fmt: skip
            outputs.append(out._replace(features=(*trunk.features[:-1], *out.features)))
            after.append(moved["batch_stats"])
        return outputs, trunk.value, {"shared": shared["batch_stats"], "members": after}
