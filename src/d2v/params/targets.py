"""Consistency checks of the targets of a pre-training."""

from collections.abc import Iterator

from d2v.params.model import Backbone, InputTarget, Targets


def faults(target: Targets, backbone: Backbone, known: tuple[str, ...]) -> Iterator[str]:
    """Errors of the targets for an encoder that can compute the `known` ones from its input."""
    if isinstance(target, InputTarget):
        if target.of not in known:
            yield (
                f"target.of {target.of}: this kind of encoder cannot compute it from its input (it"
                f" can compute {' or '.join(known)})"
            )
        return
    shared = backbone.depth - backbone.prenet_depth
    if target.top_k > shared:
        less = " - prenet_depth" if backbone.prenet_depth else ""
        yield f"target.top_k {target.top_k} is more than backbone.depth{less} {shared}"
    if target.context and backbone.position_bias.kind.startswith("per_layer"):
        bias = backbone.position_bias.kind
        yield f"target.context cannot be combined with position_bias {bias}"


def over_time(target: Targets) -> bool:
    """Whether targets are normalised over time, which takes two positions."""
    if isinstance(target, InputTarget):
        return target.of == "log_mel"
    return "instance" in (target.layer_norm, target.final_norm)
