"""Distances between agents' activations, layer by layer.

The LoRASA paper (arXiv 2502.05573) shows in figures that activations are similar in early layers and differ in later
ones. The measure here is our own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lorasa_rllib.analysis.canvas import BLUE, new_figure, save
from lorasa_rllib.analysis.distances import BLOCK, mean_over_pairs, pairs_of
from lorasa_rllib.analysis.observations import ObservationBank, inputs_of
from lorasa_rllib.nn.actor import Actor
from lorasa_rllib.nn.policy import TeamPolicy


@torch.no_grad()
def layer_distances(policy: TeamPolicy, bank: ObservationBank, rows: int = 2048) -> dict[str, np.ndarray]:
    """Layer -> distance of two agents' activations over the bank, float64 [N, N] (by role [K, K]), standardised.

    Layers in order: feature_norm, mlp.0 .., gru, post.0 .., head; their outputs after activation and LayerNorm. Every
    agent's policy receives every observation of the bank (`inputs_of`); at most `rows` evenly spaced active rows are
    used. For agents i, j with R rows each (our definition):

        mean over units u of   1/R sum_r |x_(r)ui - x_(r)uj| / s_u

    x_(r)ui is the r-th smallest activation of unit u under agent i's policy, so that 1/R sum_r is the 1-Wasserstein
    distance of the two histograms; s_u is the standard deviation of the unit's activations pooled over all agents'
    policies. Constant units contribute 0. Only units that both agents have are included (observation entries of
    feature_norm, unless there is an encoder, and actions of the head); by role, those that all agents have. The head
    outputs means or logits.
    """
    seen: dict[str, list[Tensor]] = {}
    for inputs in inputs_of(policy, bank):
        for name, x in activations(policy.actor, inputs, bank.active_rows(rows)).items():
            seen.setdefault(name, []).append(x.sort(0).values)
    return {name: _distances(torch.stack(x), _units(policy, name, len(x))) for name, x in seen.items()}


def mean_per_layer(distances: dict[str, np.ndarray]) -> dict[str, float]:
    """Layer -> mean over pairs of different agents; NaN for a single agent."""
    return {name: mean_over_pairs(matrix) for name, matrix in distances.items()}


@torch.no_grad()
def activations(actor: Actor, inputs: dict[str, Any], rows: np.ndarray) -> dict[str, Tensor]:
    """Layer -> outputs [R, units] of one `Actor.unroll(**inputs)` at `rows`, positions in [T * B]."""
    layout = actor.router.layout(inputs["obs"], inputs["agent"], inputs["roles"], inputs["adapters"])
    chosen = torch.as_tensor(rows, device=inputs["obs"].device)
    with _recorded(actor) as outputs:
        actor.unroll(**inputs)
    return {name: layout.restore(y).flatten(0, 1)[chosen] for name, y in outputs.items()}


def layers_of(actor: Actor) -> dict[str, nn.Module]:
    """The compared layers by name, in the order of computation."""
    stages = {stage.name: stage.layer for stage in actor.stages()}
    first = {} if actor.feature_norm is None else {"feature_norm": actor.feature_norm}
    return {**first, **stages, "head": actor.head}


def draw_layers(distances: dict[str, np.ndarray], path: Path, title: str) -> None:
    """Draws, per layer, the mean over pairs of agents as a point and the range over pairs as a bar."""
    figure, panel = new_figure(max(5.3, 1.6 + 0.8 * len(distances)), 4.0)
    for at, matrix in enumerate(distances.values()):
        pairs = pairs_of(matrix)
        if len(pairs):
            once = {"range": "closest to furthest pair", "mean": "mean over pairs"} if at == 0 else {}
            panel.plot([at, at], [pairs.min(), pairs.max()], color=BLUE, alpha=0.35, lw=6, label=once.get("range"))
            panel.plot(at, pairs.mean(), "o", color=BLUE, label=once.get("mean"))
    if panel.has_data():
        panel.legend(frameon=False, loc="upper left")
    panel.set_xticks(range(len(distances)), list(distances))
    panel.set_xlim(-0.5, len(distances) - 0.5)
    panel.set_ylim(bottom=0)
    panel.margins(y=0.25)
    panel.set_xlabel("layer, from the observation to the action")
    panel.set_ylabel("distance of activations\n(standard deviations of a unit)")
    panel.set_title(title, fontsize=10)
    panel.grid(alpha=0.25, axis="y")
    panel.spines[["top", "right"]].set_visible(False)
    save(figure, path)


@contextmanager
def _recorded(actor: Actor) -> Iterator[dict[str, Tensor]]:
    """Yields a dict that the actor's calls fill with every layer's output [S, B, d]; removes its hooks on exit."""
    outputs: dict[str, Tensor] = {}

    def recorder(name: str) -> Any:
        def record(module: nn.Module, arguments: Any, output: Any) -> None:
            outputs[name] = output[0] if isinstance(output, tuple) else output  # a GRU also returns its hidden states

        return record

    hooks: list[Any] = []
    try:
        hooks.extend(layer.register_forward_hook(recorder(name)) for name, layer in layers_of(actor).items())
        yield outputs
    finally:
        for hook in hooks:
            hook.remove()


def _units(policy: TeamPolicy, layer: str, owners: int) -> np.ndarray | None:
    """The units of a layer that each agent has, bool [N, units] (by role [K, units]); None: all."""
    spec = policy.config.spec
    if layer not in ("feature_norm", "head") or (layer == "feature_norm" and policy.actor.encoder is not None):
        return None
    table = spec.obs_mask() if layer == "feature_norm" else spec.action_mask()
    return np.tile(table.all(0), (owners, 1)) if policy.actor.router.by_role else table


def _distances(ordered: Tensor, units: np.ndarray | None) -> np.ndarray:
    """Distances [N, N] from activations [N, R, units], each unit sorted in ascending order."""
    n, rows, width = ordered.shape
    real = torch.ones(n, width) if units is None else torch.as_tensor(units)
    real = real.to(ordered.device, torch.float64)
    scale = _pooled_deviation(ordered, real)
    inverse = torch.where(scale > 0, 1 / scale, 0.0)
    first, second = torch.triu_indices(n, n, 1, device=ordered.device)
    result = torch.zeros(n, n, dtype=torch.float64, device=ordered.device)
    pairs_at_once = max(1, BLOCK // (rows * width))
    for i, j in zip(first.split(pairs_at_once), second.split(pairs_at_once), strict=True):
        apart = (ordered[i] - ordered[j]).abs().mean(1, dtype=torch.float64)  # [pairs, units]
        both = real[i] * real[j]
        result[i, j] = (apart * inverse * both).sum(-1) / both.sum(-1)
    return (result + result.T).cpu().numpy()


def _pooled_deviation(ordered: Tensor, real: Tensor) -> Tensor:
    """Standard deviation of each unit over the rows of all agents that have it, [units]."""
    count = real.sum(0).clamp(min=1)
    mean = (ordered.mean(1, dtype=torch.float64) * real).sum(0) / count
    square = torch.stack([(agent.double() - mean).square().mean(0) for agent in ordered])
    return ((square * real).sum(0) / count).sqrt()
