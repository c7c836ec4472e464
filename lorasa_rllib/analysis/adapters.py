"""What adapters have become: their size, sparsity and rank beside the backbone they are added to.

The LoRASA paper (arXiv 2502.05573) reads small adapter entries as a sparse update, without a threshold or formula. The
statistics here are ours.
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
"""What readers call the columns of numbers."""
BLOCK = 2**22
"""Entries of merged adapters that are held at a time."""


@torch.no_grad()
def adapter_statistics(policy: TeamPolicy) -> pd.DataFrame:
    """One row for every adapted layer and adapter, columns `COLUMNS`; empty if the policy has no adapters.

    D = scaling B_k A_k (or the dense delta) and W, the weight of the backbone that it is added to:

    relative_norm:     |D|_F / |W|_F, Frobenius norms.
    below_<tau>:       share of entries of D with |entry| <= tau * (standard deviation of the entries of W).
    stable_rank:       |D|_F^2 / |D|_2^2, between 1 and the rank; NaN for an adapter without effect.
    energy_<k>:        share of the squared singular values that the k largest hold; NaN as above.

    Id columns are left out of D and W: a backbone has one per agent, an adapter a single one. So are entries that none
    of the adapter's agents has (padding). Where an adapter serves agents of several backbones, |W|_F is the root mean
    square over these backbones, and the deviation that of all their entries. Adapters that no agent uses, and those
    of roles, count as used by all agents. The log-std is a matrix of one row.
    """
    parts = [_of_layer(policy, name, layer) for name, layer in adapted_layers(policy)]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=list(COLUMNS))


def adapted_layers(policy: TeamPolicy) -> Iterator[tuple[str, BankLinear | BankVector]]:
    """Layers with adapters, by name, in the order of the network: mlp.0 .., gru.input, gru.hidden, .., log_std."""
    for name, layer in policy.actor.named_modules():
        if (isinstance(layer, BankLinear) and layer.rank) or (isinstance(layer, BankVector) and layer.adapted):
            yield name, layer


def adapter_names(policy: TeamPolicy) -> list[str]:
    """[K] names for axes: the role or the agents that use an adapter, its number if nobody does or many do."""
    owners, agents = policy.config.owners, policy.config.spec.agents
    if owners.routed_by == "role":
        return [f"role {k}" for k in range(owners.num_adapters)]
    users = [[agents[n] for n, k in enumerate(owners.adapter_of) if k == a] for a in range(owners.num_adapters)]
    return [", ".join(names) if 1 <= len(names) <= 2 else f"adapter {k}" for k, names in enumerate(users)]


def draw_relative_norms(statistics: pd.DataFrame, path: Path, title: str, names: list[str] | None = None) -> None:
    """Relative norm of every layer (rows) and adapter (columns) as a heat map. names: of adapters 0, 1 ...

    The log-std is left out where there are other layers: its few numbers may lie near 0, and beside a backbone of
    almost nothing any adapter is large. Raises ValueError if there is nothing to draw.
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
    """[k, columns] of k adapters. weight [G, out, in]; served [k, G], 1 for an adapter's backbones; outs [k, out] and
    ins [k, in], 1 for real entries; up [k, out, r] and down [k, r, in] with D = up down, or up = D [k, out, in]."""
    up = up * outs[..., None] * (ins[:, None] if down is None else 1)
    down = None if down is None else down * ins[:, None]
    update = up if down is None else up @ down
    real = outs[..., None] * ins[:, None]  # [k, out, in]
    count, backbones = real.sum((1, 2)), served.sum(1)

    def mean(of_weight: Tensor) -> Tensor:
        """[G, out, in] -> [k]: mean over real entries and served backbones."""
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
    """Those of D, descending; of a product from the r x r core between the orthogonal factors of its two sides."""
    if down is None:
        return torch.linalg.svdvals(up)
    left, right = torch.linalg.qr(up).R, torch.linalg.qr(down.mT).R
    return torch.linalg.svdvals(left @ right.mT)


def _update(layer: BankLinear | BankVector, some: list[int]) -> tuple[Tensor, Tensor | None]:
    """What some adapters add to the feature columns, float64: two factors, or the whole matrix and None."""
    if isinstance(layer, BankVector):
        return layer.delta[some].double()[:, None], None
    if layer.dense:
        return layer.delta[some][..., : layer.in_size].double(), None
    return layer.scaling * layer.lora_B[some].double(), layer.lora_A[some][..., : layer.in_size].double()


def _users(policy: TeamPolicy) -> np.ndarray:
    """bool [K, N]: agents that may use an adapter; all, where routing is by role or nobody does."""
    owners = policy.config.owners
    if owners.routed_by == "role":
        return np.ones((owners.num_adapters, len(owners.backbone_of)), bool)
    users = np.arange(owners.num_adapters)[:, None] == np.asarray(owners.adapter_of)
    return users | ~users.any(1, keepdims=True)


def _served(policy: TeamPolicy, backbones: int) -> Tensor:
    """bool [K, G]: backbones of the agents that use an adapter. A layer that is not banked has one for all."""
    users = _users(policy)
    if backbones == 1:
        return torch.ones(len(users), 1, dtype=torch.bool)
    of_agent = np.asarray(policy.config.owners.backbone_of)[:, None] == np.arange(backbones)  # [N, G]
    return torch.as_tensor((users[:, :, None] & of_agent).any(1))


def _real_entries(policy: TeamPolicy, name: str, layer: BankLinear | BankVector) -> tuple[Tensor, Tensor]:
    """float64 [K, out] and [K, in]: 1 for the outputs and inputs that some agent of an adapter has."""
    spec, users = policy.config.spec, _users(policy)
    actions = (users[:, :, None] & spec.action_mask()).any(1)
    if isinstance(layer, BankVector):
        outs, ins = np.ones((len(users), 1), bool), actions
    else:
        outs = actions if name == "head" else np.ones((len(users), layer.weight.shape[1]), bool)
        ins = np.ones((len(users), layer.in_size), bool)
        if name == "mlp.0":
            ins = (users[:, :, None] & spec.obs_mask()).any(1)
    device = layer.weight.device
    return torch.as_tensor(outs, device=device).double(), torch.as_tensor(ins, device=device).double()
