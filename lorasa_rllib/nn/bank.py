"""Bank layers: G backbones and K low-rank adapters behind one layer, applied to all agents of a team at once."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from fnmatch import fnmatch
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lorasa_rllib.nn.rows import Slots
from lorasa_rllib.spec import Owners, check_patterns

InitLoRAWeights = Literal["lorasa", "peft"]

MERGE_FROM_ROWS = 60
"""Rows per slot from which forming dense weights once per forward pass is cheaper than two low-rank products per row
(`benchmarks/many_agents.py` measures both)."""


@dataclass(frozen=True)
class LoRAConfig:
    """Size and placement of adapters. Names follow PEFT's `LoraConfig`.

    r:                 rank, at least 1. A layer with `r >= min(in, out)` gets one dense matrix `delta` with scale 1.
    lora_alpha:        adapter outputs are scaled by lora_alpha / r.
    use_rslora:        scale by lora_alpha / sqrt(r) instead (Kalajdzievski 2023).
    init_lora_weights: "lorasa" (A = 0, B ~ U(-1/sqrt(r), 1/sqrt(r)), as published) or "peft" (A ~ U(-1/sqrt(in),
                       1/sqrt(in)), B = 0). Both start at zero effect; "peft" moves outputs less per step.
    target_modules:    patterns (fnmatch) of the layers to adapt, as listed by `NetworkConfig.layers`.
    rank_pattern:      ranks of the layers that match a pattern; the first match wins.
    adapt_bias:        adapted layers also get one bias per adapter (the paper's do not).
    adapt_norm:        LayerNorms of adapted layers, and feature_norm if targeted, also get one gain and offset per
                       adapter (the paper's do not).
    """

    r: int = 8
    lora_alpha: float = 8.0
    use_rslora: bool = False
    init_lora_weights: InitLoRAWeights = "lorasa"
    target_modules: tuple[str, ...] = ("*",)
    rank_pattern: dict[str, int] = field(default_factory=dict)
    adapt_bias: bool = False
    adapt_norm: bool = False

    def __post_init__(self) -> None:
        check_patterns("target_modules", self.target_modules)
        check_patterns("rank_pattern", self.rank_pattern)
        for name, rank in {"r": self.r, **self.rank_pattern}.items():
            if isinstance(rank, bool) or not isinstance(rank, int) or rank < 1:
                raise ValueError(f"r={rank!r} ({name}) must be an integer of at least 1.")
        if not self.lora_alpha > 0:
            raise ValueError(f"lora_alpha={self.lora_alpha!r} must be positive.")
        if self.init_lora_weights not in ("lorasa", "peft"):
            raise ValueError(f"init_lora_weights={self.init_lora_weights!r} must be 'lorasa' or 'peft'.")

    def rank_of(self, layer: str) -> int:
        """Rank of the adapters of `layer`; 0 if the layer is not adapted."""
        if not any(fnmatch(layer, pattern) for pattern in self.target_modules):
            return 0
        return next((rank for pattern, rank in self.rank_pattern.items() if fnmatch(layer, pattern)), self.r)


@dataclass(frozen=True)
class BankSize:
    """Number of owners of a layer, `backbones` G and `adapters` K, and the settings of its adapters."""

    backbones: int = 1
    adapters: int = 0
    lora: LoRAConfig = field(default_factory=LoRAConfig)


@dataclass(frozen=True)
class Banks:
    """Number of backbones and adapters by layer name, from the owner table and the LoRA settings."""

    owners: Owners
    lora: LoRAConfig

    def of(self, layer: str) -> BankSize:
        banked = any(fnmatch(layer, pattern) for pattern in self.owners.banked)
        return BankSize(self.owners.num_backbones if banked else 1, self.owners.num_adapters, self.lora)


class AdaptedLayer(nn.Module):
    """A layer of K adapters beside G backbones, each with its owners as the first axis of its parameters.

    adapter_parameters: names of the parameters that are the adapters', where they exist; the others are the backbones'.
    """

    adapter_parameters: ClassVar[tuple[str, ...]]

    def adapter_square_norms(self) -> Tensor:
        """Squared norm of what each adapter adds to the layer, [K]; [1] without adapters."""
        raise NotImplementedError


class BankLinear(AdaptedLayer):
    """G linear layers and K low-rank adapters.

        y_s = W_g x_s + b_g + scaling * B_k A_k x_s          g, k: backbone and adapter of slot s

    Parameters: weight [G, out, in], bias [G, out], lora_A [K, r, in], lora_B [K, out, r]; or delta [K, out, in] when
    r >= min(in, out); with `adapt_bias` also bias_delta [K, out], added to the bias. A new adapter has B A = 0 and no
    effect. Hu et al. 2021, eq. 3; one adapter per agent: LoRASA, arXiv 2502.05573.

    The last `id_capacity` columns of the weight multiply a one-hot agent id that is never built: an agent's column is
    looked up and added like a bias. An adapter has a single id column for all agents that use it: with one column per
    agent, the bank would grow with the square of the team.
    """

    adapter_parameters = ("lora_A", "lora_B", "delta", "bias_delta")

    def __init__(self, name: str, in_size: int, out_size: int, bank: BankSize, gain: float, id_capacity: int = 0):
        super().__init__()
        self.in_size = in_size
        self.weight = nn.Parameter(_orthogonal(bank.backbones, out_size, in_size + id_capacity, gain))
        self.bias = nn.Parameter(torch.zeros(bank.backbones, out_size))
        self.id_capacity = id_capacity
        width = in_size + bool(id_capacity)
        self.rank = bank.lora.rank_of(name) if bank.adapters else 0
        self.dense = self.rank >= min(width, out_size)
        self.scaling = 1.0
        if self.rank and self.dense:
            self.delta = nn.Parameter(torch.zeros(bank.adapters, out_size, width))
        elif self.rank:
            self.scaling = bank.lora.lora_alpha / (math.sqrt(self.rank) if bank.lora.use_rslora else self.rank)
            published = bank.lora.init_lora_weights == "lorasa"
            a, b = torch.zeros(bank.adapters, self.rank, width), torch.zeros(bank.adapters, out_size, self.rank)
            factor = b if published else a  # Kaiming uniform with a = sqrt(5): U(-1/sqrt(fan_in), 1/sqrt(fan_in))
            factor.uniform_(-1 / math.sqrt(factor.shape[-1]), 1 / math.sqrt(factor.shape[-1]))
            self.lora_A, self.lora_B = nn.Parameter(a), nn.Parameter(b)
        self.adapts_bias = bool(self.rank and bank.lora.adapt_bias)
        if self.adapts_bias:
            self.bias_delta = nn.Parameter(torch.zeros(bank.adapters, out_size))

    def forward(self, x: Tensor, slots: Slots, adapters: bool = True) -> Tensor:
        """x [S, B, in] -> [S, B, out]. `adapters=False` omits the adapters."""
        return self.product(slots, adapters, rows=x.shape[1])(x)

    def product(self, slots: Slots, adapters: bool, rows: int) -> Affine | Factored:
        """This layer as a function of x [S, B, in], in the form cheapest for `rows` rows per slot in total."""
        if not adapters or not self.rank or self.dense or rows >= MERGE_FROM_ROWS:
            return self.merged(slots, adapters)
        features, own = self._columns(slots.pick(self.lora_A, slots.adapter))
        backbone = self._backbone(slots)
        backbone = Affine(backbone.weight, self._with_delta(backbone.bias, slots))
        return Factored(backbone, Down(features, own), slots.pick_adapter(self.lora_B), self.scaling)

    def merged(self, slots: Slots, adapters: bool = True) -> Affine:
        """Dense weights [S, out, in] ([1, out, in] if all slots share them) with adapters and id columns folded in."""
        backbone = self._backbone(slots)
        if not (adapters and self.rank):
            return backbone
        weight, bias = backbone.weight, self._with_delta(backbone.bias, slots)
        if self.dense:
            features, own = self._columns(slots.pick_adapter(self.delta))
            return Affine(weight + features, bias if own is None else bias + own)
        a, own = self._columns(slots.pick(self.lora_A, slots.adapter))
        b = slots.pick_adapter(self.lora_B)
        if own is not None:
            bias = bias + self.scaling * (b @ own.unsqueeze(-1)).squeeze(-1)
        if len(a) == 1 < max(len(weight), len(b)):  # one adapter for several backbones, or for some slots
            return Affine(weight + self.scaling * (b @ a), bias)
        return Affine(torch.baddbmm(weight.expand(len(a), -1, -1), b, a, alpha=self.scaling), bias)

    @torch.no_grad()
    def adapter_square_norms(self) -> Tensor:
        """[K]: squared Frobenius norm of scaling B_k A_k, without forming the product, plus that of an adapted bias."""
        if not self.rank:
            return self.weight.new_zeros(1)
        of_bias = self.bias_delta.square().sum(1) if self.adapts_bias else 0.0
        if self.dense:
            return self.delta.square().sum((1, 2)) + of_bias
        a, b = self.lora_A, self.lora_B
        return self.scaling**2 * ((b.mT @ b) * (a @ a.mT)).sum((1, 2)) + of_bias

    def _with_delta(self, bias: Tensor, slots: Slots) -> Tensor:
        return bias + slots.pick_adapter(self.bias_delta) if self.adapts_bias else bias

    def _backbone(self, slots: Slots) -> Affine:
        weight, bias = slots.pick(self.weight, slots.backbone), slots.pick(self.bias, slots.backbone)
        if not self.id_capacity:
            return Affine(weight, bias)
        if slots.agent is None:
            raise ValueError("id_features='one_hot' needs slots of one agent each; use id_features='none' with roles.")
        features, ids = weight.split((self.in_size, self.id_capacity), -1)
        if len(weight) == 1:
            ids = ids.squeeze(0)
            own = (ids if slots.team and slots.size == self.id_capacity else ids.index_select(1, slots.agent)).T
        else:
            own = ids.gather(2, slots.agent[:, None, None].expand(-1, ids.shape[1], 1)).squeeze(2)
        return Affine(features, bias + own)

    def _columns(self, adapter: Tensor) -> tuple[Tensor, Tensor | None]:
        """adapter [S or 1, rows, in (+ 1)] -> its feature columns, and its id column (None without ids)."""
        if not self.id_capacity:
            return adapter, None
        features, own = adapter.split((self.in_size, 1), -1)
        return features, own.squeeze(-1)


@dataclass(frozen=True)
class Affine:
    """x [S, B, in] -> W_s x + b_s. weight [S or 1, out, in], bias [S or 1, out]."""

    weight: Tensor
    bias: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        weight, bias = self.weight, self.bias
        if len(weight) == 1:  # all slots share one owner: a single large product
            if len(bias) == 1:
                return F.linear(x, weight.squeeze(0), bias.squeeze(0))
            return F.linear(x, weight.squeeze(0)) + bias.unsqueeze(1)
        return torch.baddbmm(bias.unsqueeze(1), x, weight.transpose(1, 2))

    def of(self, owner: Tensor | None) -> Affine:
        """The maps of the owners in `owner`, int64 [S]; None: all, in order."""
        if owner is None or len(self.weight) == len(self.bias) == 1:
            return self
        weight, bias = (t if len(t) == 1 else t.index_select(0, owner) for t in (self.weight, self.bias))
        return Affine(weight, bias)


@dataclass(frozen=True)
class Down:
    """x [S, B, in] -> A_s x + c_s. weight A [S or 1, r, in]; bias [S or 1, r]: the id column, None without ids."""

    weight: Tensor
    bias: Tensor | None

    def __call__(self, x: Tensor) -> Tensor:
        if self.bias is not None:
            return Affine(self.weight, self.bias)(x)
        if len(self.weight) == 1:
            return F.linear(x, self.weight.squeeze(0))
        return torch.bmm(x, self.weight.transpose(1, 2))


@dataclass(frozen=True)
class Factored:
    """x [S, B, in] -> backbone(x) + scaling * B_s down(x), down(x) = A_s x. up: B [S or 1, out, r]."""

    backbone: Affine
    down: Down
    up: Tensor
    scaling: float

    def __call__(self, x: Tensor) -> Tensor:
        up = self.up.transpose(1, 2).expand(len(x), -1, -1)
        return torch.baddbmm(self.backbone(x), self.down(x), up, alpha=self.scaling)


class BankLayerNorm(AdaptedLayer):
    """Layer normalisation (Ba et al. 2016; biased variance, eps 1e-5) with one affine map per backbone.

    Parameters: weight [G, d], bias [G, d]; with `adapt_norm` also weight_delta [K, d] and bias_delta [K, d], added to
    them. Padded features (`present` 0, and 0 in x) are excluded from mean and variance and stay 0.
    name: layer name that `target_modules` is matched against.
    """

    adapter_parameters = ("weight_delta", "bias_delta")

    def __init__(self, name: str, size: int, bank: BankSize):
        super().__init__()
        self.size = size
        self.weight = nn.Parameter(torch.ones(bank.backbones, size))
        self.bias = nn.Parameter(torch.zeros(bank.backbones, size))
        self.adapted = bool(bank.adapters and bank.lora.adapt_norm and bank.lora.rank_of(name))
        if self.adapted:
            self.weight_delta = nn.Parameter(torch.zeros(bank.adapters, size))
            self.bias_delta = nn.Parameter(torch.zeros(bank.adapters, size))

    def forward(self, x: Tensor, slots: Slots, present: Tensor | None = None, adapters: bool = True) -> Tensor:
        """x [S, B, d], present [S, 1 or B, d] (1: real feature, 0: padding) -> [S, B, d]."""
        if present is None and self.weight.shape[0] == 1 and not (adapters and self.adapted):
            return F.layer_norm(x, (self.size,), self.weight.squeeze(0), self.bias.squeeze(0))
        normal = F.layer_norm(x, (self.size,)) if present is None else _masked_standard(x, present)
        gain, offset = self.affine(slots, adapters)
        y = torch.addcmul(offset.unsqueeze(1), normal, gain.unsqueeze(1))
        return y if present is None else y * present

    def affine(self, slots: Slots, adapters: bool = True) -> tuple[Tensor, Tensor]:
        """Gain and offset, [S or 1, d] each."""
        gain, offset = slots.pick(self.weight, slots.backbone), slots.pick(self.bias, slots.backbone)
        if adapters and self.adapted:
            gain, offset = gain + slots.pick_adapter(self.weight_delta), offset + slots.pick_adapter(self.bias_delta)
        return gain, offset

    @torch.no_grad()
    def adapter_square_norms(self) -> Tensor:
        """[K]: |weight_delta_k|^2 + |bias_delta_k|^2."""
        if not self.adapted:
            return self.weight.new_zeros(1)
        return self.weight_delta.square().sum(1) + self.bias_delta.square().sum(1)


class BankVector(AdaptedLayer):
    """G vectors and K additive deltas, such as a state-independent log-std: v_s = weight_g + delta_k."""

    adapter_parameters = ("delta",)

    def __init__(self, name: str, size: int, bank: BankSize, fill: float):
        super().__init__()
        self.weight = nn.Parameter(torch.full((bank.backbones, size), fill))
        self.adapted = bool(bank.adapters and bank.lora.rank_of(name))
        if self.adapted:
            self.delta = nn.Parameter(torch.zeros(bank.adapters, size))

    @torch.no_grad()
    def adapter_square_norms(self) -> Tensor:
        """[K]: |delta_k|^2."""
        return self.delta.square().sum(1) if self.adapted else self.weight.new_zeros(1)

    def forward(self, slots: Slots, adapters: bool = True) -> Tensor:
        """The vectors of the slots, [S or 1, d]."""
        vector = slots.pick(self.weight, slots.backbone)
        return vector + slots.pick_adapter(self.delta) if adapters and self.adapted else vector


ADAPTER_PARAMETERS = tuple(
    sorted({name for layer in (BankLinear, BankLayerNorm, BankVector) for name in layer.adapter_parameters})
)
"""Last parts of the names of all adapter parameters, as in files."""


def _masked_standard(x: Tensor, present: Tensor) -> Tensor:
    count = present.sum(-1, keepdim=True).clamp(min=1)  # rows that pad a slot have no features
    mean = x.sum(-1, keepdim=True) / count
    centred = (x - mean) * present
    return centred * torch.rsqrt(centred.square().sum(-1, keepdim=True) / count + 1e-5)


def _orthogonal(backbones: int, out_size: int, in_size: int, gain: float) -> Tensor:
    weight = torch.empty(backbones, out_size, in_size)
    for one in weight:
        nn.init.orthogonal_(one, gain)
    return weight
