"""The encoder: a module, of this package or a user's own, in front of the trunk and part of the backbone."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.func import functional_call

from lorasa_rllib.nn.bank import ADAPTER_PARAMETERS
from lorasa_rllib.nn.encoder_classes import OURS, EncoderSettings, class_of
from lorasa_rllib.nn.rows import Rows, Slots

AT_ONCE = 2**22
"""Input numbers that are encoded at once where no gradient is needed, so that a whole rollout of images fits."""

Weights = dict[str, Tensor]
"""An encoder's parameters and buffers by name, owners first."""


class BankEncoder(nn.Module):
    """G encoders of one class: rows of P flattened arrays [..., P * prod(shape)] -> features [..., P * f].

    The class is called as `Class(shape, **settings)` and maps float tensors [B, *shape] to [B, f]; f is its attribute
    `out_features`, if it has one, or else found by encoding zeros. `module` is one of its instances, whose parameters
    (and buffers) are stacks [G, ...]; those with requires_grad=False stay as they are. Encoders have no adapters.

    name:   of the class, see `nn.encoder_classes`.
    parts:  (P, *shape).
    owners: G. Raises ValueError for classes that cannot be used.
    """

    def __init__(self, name: str, settings: EncoderSettings, parts: tuple[int, ...], owners: int):
        super().__init__()
        self._parts, self._shape = parts[0], parts[1:]
        # A user's code need not work on "meta", where shapes of files are checked.
        with nullcontext() if name in OURS else torch.device("cpu"):
            modules = [_made(name, settings, self._shape) for _ in range(owners)]
            self.size = self._parts * _features(name, modules[0], self._shape)
            self.module = modules[0]
            _stack(self.module, modules)
            if owners > 1 and name not in OURS and _tensors(self.module):
                self._check_several(name)

    def forward(self, x: Tensor, rows: Rows) -> Tensor:
        """x [..., P * prod(shape)] in the caller's layout -> [S, B, P * f]."""
        return self.encode(x, rows.slots, rows.arrange)

    def encode(self, x: Tensor, slots: Slots, arrange: Callable[[Tensor], Tensor]) -> Tensor:
        """As `forward`. arrange: from the caller's layout to [S or 1, B, d]."""
        return self._encode({n: slots.pick(w, slots.backbone) for n, w in _tensors(self.module).items()}, x, arrange)

    def merged(self, slots: Slots) -> MergedEncoder:
        """A frozen copy for acting, for these slots."""
        return MergedEncoder(self, slots)

    @torch.no_grad()
    def of_owner(self, owner: int) -> nn.Module:
        """A frozen copy of one owner's encoder, a module [B, *shape] -> [B, f]."""
        one = copy.deepcopy(self.module)
        for part in one.modules():
            for name, p in part._parameters.items():
                part._parameters[name] = None if p is None else nn.Parameter(p[owner].clone(), requires_grad=False)
            for name, b in part._buffers.items():
                part._buffers[name] = None if b is None else b[owner].clone()
        return one.eval()

    @torch.no_grad()
    def _check_several(self, name: str) -> None:
        rows = torch.zeros(1, self._parts * math.prod(self._shape))
        weights = _tensors(self.module)
        try:
            self._encode(weights, rows, lambda x: x.expand(len(next(iter(weights.values()))), 1, -1))
        except (RuntimeError, ValueError) as error:
            raise ValueError(
                f"encoder={name!r} does not run for several owners at once, with torch.vmap: "
                f"{str(error).splitlines()[0]} Change it, or use a method with one backbone, 'ps' or 'lora'."
            ) from error

    def _encode(self, weights: Weights, x: Tensor, arrange: Callable[[Tensor], Tensor]) -> Tensor:
        """weights [S or 1, ...]."""

        def one(mine: Weights, x: Tensor) -> Tensor:
            return self._in_parts(lambda arrays: functional_call(self.module, mine, (arrays,)), x)

        if all(len(w) == 1 for w in weights.values()):  # encoded before rows are arranged, which may pad them
            return arrange(one({n: w[0] for n, w in weights.items()}, x))
        encoded: Tensor = torch.vmap(one)(weights, arrange(x))
        return encoded

    def _in_parts(self, encode: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        arrays = x.reshape(-1, *self._shape)
        at_once = max(1, AT_ONCE // math.prod(self._shape))
        if torch.is_grad_enabled() or len(arrays) <= at_once:
            encoded = encode(arrays)
        else:
            encoded = torch.cat([encode(some) for some in arrays.split(at_once)])
        return encoded.reshape(*x.shape[:-1], self.size)


class MergedEncoder:
    """A frozen copy of an encoder, with the weights of every slot or one set for all."""

    @torch.no_grad()
    def __init__(self, encoder: BankEncoder, slots: Slots):
        picked = {n: slots.pick(w, slots.backbone).clone() for n, w in _tensors(encoder.module).items()}
        self._weights = picked
        self._one = encoder.of_owner(0) if all(len(w) == 1 for w in picked.values()) else None
        self._encoder = encoder

    def __call__(self, x: Tensor, arrange: Callable[[Tensor], Tensor], owner: Tensor | None = None) -> Tensor:
        """x [..., d] in the caller's layout -> [S, B, P * f]. owner int64 [S]: see `nn.merged`."""
        if self._one is not None:
            return arrange(self._encoder._in_parts(self._one, x))
        weights = self._weights
        if owner is not None:
            weights = {n: w if len(w) == 1 else w.index_select(0, owner) for n, w in weights.items()}
        return self._encoder._encode(weights, x, arrange)


def _made(name: str, settings: EncoderSettings, shape: tuple[int, ...]) -> nn.Module:
    try:
        module = class_of(name)(shape, **settings)
    except TypeError as error:
        raise ValueError(
            f"encoder={name!r} cannot be made with encoder_settings={dict(settings)}: {error}. It is called as "
            f"Encoder({shape}, **encoder_settings), with the shape of one observation."
        ) from error
    for path, part in module.named_modules():
        if _is_unsteady(part):
            raise ValueError(
                f"encoder={name!r} has a {type(part).__name__} ({path}), which gives env runners and learners other "
                "features for the same observation. Use LayerNorm or GroupNorm, and no dropout."
            )
    paths: dict[nn.Module, str] = {}
    for path, part in module.named_modules(remove_duplicate=False):
        if (first := paths.setdefault(part, path)) != path:
            raise ValueError(
                f"encoder={name!r} has one module as {first} and as {path}; keep it under one name and call it twice."
            )
    return module


def _is_unsteady(part: nn.Module) -> bool:
    """Whether features would depend on the other rows, on chance, or on earlier calls."""
    if isinstance(part, nn.modules.dropout._DropoutNd):
        return part.p > 0
    batch, instance = nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm
    return isinstance(part, batch) or (isinstance(part, instance) and part.track_running_stats)


@torch.no_grad()
def _features(name: str, module: nn.Module, shape: tuple[int, ...]) -> int:
    """The number f of features. Raises ValueError for encoders that do not map [B, *shape] to [B, f]."""
    declared = getattr(module, "out_features", None)
    if isinstance(declared, int):
        return declared
    try:
        found = module(torch.zeros(2, *shape))
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        raise ValueError(f"encoder={name!r} does not take observations [2, *{shape}]: {error}") from error
    if not isinstance(found, Tensor) or found.dim() != 2 or len(found) != 2:
        gave = list(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise ValueError(f"encoder={name!r} must map [B, *{shape}] to features [B, f]; it maps B=2 to {gave}.")
    return found.shape[1]


def _tensors(module: nn.Module) -> Weights:
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def _stack(module: nn.Module, modules: list[nn.Module]) -> None:
    """Replaces the first module's parameters and buffers by stacks over all; frozen parameters become buffers."""
    stacked: dict[int, Tensor] = {}  # weights that several layers share stay shared
    for path, part in list(module.named_modules()):
        others = [other.get_submodule(path) for other in modules]
        for name, weight in [*part._parameters.items(), *part._buffers.items()]:
            if weight is None:
                continue
            if name in ADAPTER_PARAMETERS:
                raise ValueError(f"the encoder has a parameter named {name}, as adapters have; give it another name.")
            if id(weight) not in stacked:
                tensors = [getattr(other, name).detach() for other in others]
                stacked[id(weight)] = torch.stack(tensors)
                if weight.requires_grad:
                    stacked[id(weight)] = nn.Parameter(stacked[id(weight)])
            if isinstance(stacked[id(weight)], nn.Parameter) or name in part._buffers:
                setattr(part, name, stacked[id(weight)])
            else:
                del part._parameters[name]
                part.register_buffer(name, stacked[id(weight)])
