"""The weights of a policy as a model without an adapter has them: by their names, an adapter's share added in."""

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from ngrpo.errors import ModelError
from ngrpo.policy import Policy


def causal_model(policy: Policy) -> Any:
    """The model itself, without the LoRA adapter around it; other adapters stay on."""
    model = policy.model
    kinds = [config.peft_type for config in getattr(model, "peft_config", {}).values()]
    return model.get_base_model() if kinds and all(kind == "LORA" for kind in kinds) else model


def has_weight(linear: Any) -> bool:
    """Whether `weight_of` is all there is to a linear map, besides the bias: it is plain, or has a plain adapter."""
    if type(linear) is nn.Linear:
        return True
    return (
        type(linear).__module__.startswith("peft.tuners.lora")
        and type(getattr(linear, "base_layer", None)) is nn.Linear
        and not getattr(linear, "lora_variant", None)  # DoRA and its kin
        and not linear.disable_adapters
        and all(part.bias is None for part in linear.lora_B.values())
    )


def weight_of(linear: Any) -> Tensor:
    """[out, in], the adapter's share included."""
    weight = linear.weight  # of an adapted one: the weight inside
    if type(linear) is not nn.Linear and not linear.merged:
        for name in linear.active_adapters:
            if name in linear.lora_A:
                weight = weight + linear.get_delta_weight(name)
    return weight


def named_weights(policy: Policy) -> Iterator[tuple[str, Tensor]]:
    """Every weight of the model by the name it has in a model folder, one at a time; tied ones once.

    The policy stays as it is: what an adapter adds is added to a copy, so that no rounding is left behind in the
    weights that it adapts.

    Args:
        policy: Its weights are read when they are asked for, on the policy's device and in its dtype.

    Raises:
        ModelError: An adapter is of a kind that cannot be added to the weights.
    """
    seen: set[int] = set()
    adapted = None
    for path, module in causal_model(policy).named_modules():
        if adapted is not None and path.startswith(adapted):
            continue  # the parts of an adapter
        if type(module).__module__.startswith("peft."):
            if not has_weight(module) or id(module.base_layer.weight) in seen:
                raise ModelError(
                    f"the adapter on {path!r} ({type(module).__name__}) cannot be added to the weights: only LoRA on "
                    "linear layers that share no weight can. Adapt others (model.lora.target_modules), or export the "
                    "model (ngrpo export) and start from that."
                )
            adapted = f"{path}."
            yield f"{path}.weight", weight_of(module)
            if module.base_layer.bias is not None:
                yield f"{path}.bias", module.base_layer.bias
            continue
        for name, parameter in module.named_parameters(path, recurse=False):
            if id(parameter) not in seen:
                seen.add(id(parameter))
                yield name, parameter
