"""Statistics of trained adapters: size, sparsity and effective rank relative to the backbone they are added to.

The LoRASA paper (arXiv 2502.05573) interprets small adapter entries as a sparse update, without giving a threshold or
formula. The statistics here are our own.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from lorasa_rllib.analysis.canvas import draw_cells, new_figure, save
from lorasa_rllib.nn.bank import BankLinear, BankVector
from lorasa_rllib.nn.policy import TeamPolicy

TAUS = (0.01, 0.05, 0.1)
TOP = (1, 2, 4)
COLUMNS = (
    "layer",
    "adapter",
    "relative_norm",
    *(f"below_{tau}" for tau in TAUS),
    "stable_rank",
    *(f"energy_{k}" for k in TOP),
)
WORDS = {
    "relative_norm": "size of the adapter / of the weights",
    **{f"below_{tau}": f"entries below {tau:g} deviations" for tau in TAUS},
    "stable_rank": "stable rank",
    **{f"energy_{k}": f"energy in the largest {k if k > 1 else 'singular value'}" for k in TOP},
}
"""Readable names of the numeric columns."""
BLOCK = 2**22
"""Maximum number of entries of merged adapters in memory at a time."""


@torch.no_grad()
def adapter_statistics(policy: TeamPolicy) -> pd.DataFrame:
    """One row per adapted layer and adapter, columns `COLUMNS`; empty if the policy has no adapters.

    With D = scaling B_k A_k (or the dense delta) and W the backbone weight that it is added to:

    relative_norm:     |D|_F / |W|_F, Frobenius norms.
    below_<tau>:       share of entries of D with |entry| <= tau * (standard deviation of the entries of W).
    stable_rank:       |D|_F^2 / |D|_2^2, between 1 and the rank; NaN if D = 0.
    energy_<k>:        share of the k largest in the sum of squared singular values; NaN if D = 0.

    D and W exclude id columns, as a backbone has one per agent and an adapter only one, and padding, that is entries
    that none of the adapter's agents has. If an adapter serves agents of several backbones, |W|_F is the root mean
    square over these backbones, and the standard deviation that of all their entries. Adapters of roles, and adapters
    that no agent uses, count as used by all agents. The log-std is treated as a matrix of one row.
    """
    parts = [_of_layer(policy, name, layer) for name, layer in adapted_layers(policy)]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=list(COLUMNS))


def adapted_layers(policy: TeamPolicy) -> Iterator[tuple[str, BankLinear | BankVector]]:
    """Yields (name, layer) of adapted layers in network order: mlp.0 .., gru.input, gru.hidden, .., log_std."""
    for name, layer in policy.actor.named_modules():
        if (isinstance(layer, BankLinear) and layer.rank) or (isinstance(layer, BankVector) and layer.adapted):
            yield name, layer


def adapter_names(policy: TeamPolicy) -> list[str]:
    """[K] names for axes: the role, the one or two agents that use an adapter, or otherwise its number."""
    owners, agents = policy.config.owners, policy.config.spec.agents
    if owners.by_role:
        return [f"role {k}" for k in range(owners.num_adapters)]
    users = [[agents[n] for n in some] for some in owners.users()]
    return [", ".join(names) if 1 <= len(names) <= 2 else f"adapter {k}" for k, names in enumerate(users)]


def draw_relative_norms(statistics: pd.DataFrame, path: Path, title: str, names: list[str] | None = None) -> None:
    """Draws the relative norm per layer (rows) and adapter (columns) as a heat map. names: of adapters 0, 1 ...

    The log-std is omitted if there are other layers: its few entries may be close to 0, which makes the relative norm
    of any adapter large. Raises ValueError if there are no adapters.
    """
    if statistics.empty:
        raise ValueError("there are no adapters to draw: the policy has none. Skip this figure for shared policies.")
    matrices = statistics[statistics["layer"] != "log_std"]
    statistics = statistics if matrices.empty else matrices
    table = statistics.pivot(index="layer", columns="adapter", values="relative_norm")
    table = table.loc[list(dict.fromkeys(statistics["layer"]))]  # in the order of the network
    columns = [f"adapter {k}" if names is None else names[int(k)] for k in table.columns]
    height = 2.2 + 0.45 * len(table)
    figure, panel = new_figure(min(11.0, max(5.3, 3.0 + 0.6 * len(columns))), max(3.6, height))
    draw_cells(
        panel,
        table.to_numpy(),
        list(table.index),
        columns,
        "size of the adapter / size of the backbone\n(Frobenius norms)",
    )
    panel.set_aspect("auto")
    panel.set_ylabel("layer")
    panel.set_title(title, fontsize=10)
    save(figure, path)


def _of_layer(policy: TeamPolicy, name: str, layer: BankLinear | BankVector) -> pd.DataFrame:
    outs, ins = _real_entries(policy, name, layer)
    weight = layer.weight.double()
    weight = weight[:, None] if isinstance(layer, BankVector) else weight[..., : layer.in_size]
    served = _served(policy, len(weight)).to(weight)
    at_once = max(1, BLOCK // weight[0].numel())
    adapters = range(len(outs))
    parts = [
        _statistics(weight, served[list(some)], outs[list(some)], ins[list(some)], *_update(layer, list(some)))
        for some in (adapters[start : start + at_once] for start in adapters[::at_once])
    ]
    table = pd.DataFrame(torch.cat(parts).cpu().numpy(), columns=list(COLUMNS[2:]))
    table.insert(0, "adapter", list(adapters))
    table.insert(0, "layer", name)
    return table


def _statistics(weight: Tensor, served: Tensor, outs: Tensor, ins: Tensor, up: Tensor, down: Tensor | None) -> Tensor:
    """Statistics [k, columns] of k adapters. weight [G, out, in]; served [k, G], 1 for an adapter's backbones; outs
    [k, out] and ins [k, in], 1 for real entries; up [k, out, r] and down [k, r, in] with D = up down, or down None and
    up = D [k, out, in]."""
    up = up * outs[..., None] * (ins[:, None] if down is None else 1)
    down = None if down is None else down * ins[:, None]
    update = up if down is None else up @ down
    real = outs[..., None] * ins[:, None]  # [k, out, in]
    count, backbones = real.sum((1, 2)), served.sum(1)

    def mean(of_weight: Tensor) -> Tensor:
        """Mean over real entries and served backbones, [G, out, in] -> [k]."""
        sums = torch.einsum("goi,ko,ki->kg", of_weight, outs, ins)
        return (sums * served).sum(1) / (count * backbones)

    mean_square = mean(weight.square())
    deviation = (mean_square - mean(weight).square()).clamp(min=0).sqrt()
    norm = update.square().sum((1, 2)).sqrt()
    shares = [((update.abs() <= tau * deviation[:, None, None]) * real).sum((1, 2)) / count for tau in TAUS]
    energy = _singular_values(up, down).square()  # [k, r], descending
    total = energy.sum(1)
    tops = [energy[:, :k].sum(1) / total for k in TOP]
    return torch.stack([norm / (mean_square * count).sqrt(), *shares, total / energy[:, 0], *tops], 1)


def _singular_values(up: Tensor, down: Tensor | None) -> Tensor:
    """Singular values of D in descending order; for a product, those of the r x r core of two QR decompositions."""
    if down is None:
        return torch.linalg.svdvals(up)
    left, right = torch.linalg.qr(up).R, torch.linalg.qr(down.mT).R
    return torch.linalg.svdvals(left @ right.mT)


def _update(layer: BankLinear | BankVector, some: list[int]) -> tuple[Tensor, Tensor | None]:
    """The update of some adapters without id columns, float64: its two factors, or the full matrix and None."""
    if isinstance(layer, BankVector):
        return layer.delta[some].double()[:, None], None
    if layer.dense:
        return layer.delta[some][..., : layer.in_size].double(), None
    return layer.scaling * layer.lora_B[some].double(), layer.lora_A[some][..., : layer.in_size].double()


def _users(policy: TeamPolicy) -> np.ndarray:
    """bool [K, N]: agents that use an adapter; all agents with routing by role, or if none uses it."""
    owners = policy.config.owners
    if owners.by_role:
        return np.ones((owners.num_adapters, len(owners.backbone_of)), bool)
    users = np.arange(owners.num_adapters)[:, None] == np.asarray(owners.adapter_of)
    return users | ~users.any(1, keepdims=True)


def _served(policy: TeamPolicy, backbones: int) -> Tensor:
    """bool [K, G]: backbones of the agents that use an adapter. Layers that are not banked have G = 1."""
    users = _users(policy)
    if backbones == 1:
        return torch.ones(len(users), 1, dtype=torch.bool)
    of_agent = np.asarray(policy.config.owners.backbone_of)[:, None] == np.arange(backbones)  # [N, G]
    return torch.as_tensor((users[:, :, None] & of_agent).any(1))


def _real_entries(policy: TeamPolicy, name: str, layer: BankLinear | BankVector) -> tuple[Tensor, Tensor]:
    """float64 [K, out] and [K, in]: 1 for outputs and inputs that at least one agent of an adapter has."""
    spec, users = policy.config.spec, _users(policy)
    actions = (users[:, :, None] & spec.action_mask()).any(1)
    if isinstance(layer, BankVector):
        outs, ins = np.ones((len(users), 1), bool), actions
    else:
        outs = actions if name == "head" else np.ones((len(users), layer.weight.shape[1]), bool)
        ins = np.ones((len(users), layer.in_size), bool)
        if name == "mlp.0" and policy.actor.encoder is None:
            ins = (users[:, :, None] & spec.obs_mask()).any(1)
    device = layer.weight.device
    return torch.as_tensor(outs, device=device).double(), torch.as_tensor(ins, device=device).double()
