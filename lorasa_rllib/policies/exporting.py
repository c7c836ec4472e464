"""One agent's policy as a plain network of dense layers, for torch.export, ONNX and embedded devices."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lorasa_rllib.install import installing
from lorasa_rllib.nn.bank import BankLayerNorm, BankLinear
from lorasa_rllib.nn.gru import gru_cell
from lorasa_rllib.nn.network import ACTIVATION
from lorasa_rllib.policies.files import write_file
from lorasa_rllib.policies.in_spaces import Actions, Flatten
from lorasa_rllib.policies.merging import merged
from lorasa_rllib.policies.saved import SavedPolicy
from lorasa_rllib.spaces import Box

ONNX_OPSET = 18


class AgentNetwork(nn.Module):
    """The greedy policy of one agent with adapters and id merged. Observations and actions have the agent's own sizes.

        action        = network(obs)
        action, state = network(obs, state, mask)

    obs [B, ...] with the shape and type of the agent's space; for a Dict or Tuple, a tuple of its parts in order,
    without the action mask. (float32 [B, obs_size] for policies that do not record spaces.)
    state float32 [B, hidden_size] if recurrent (None: zeros); mask bool [B, choices], see `masked`.
    action [B, ...] with the shape and type of the agent's space, within its bounds.
    role: the role to merge, needed if adapters are keyed by role. masked: whether it takes a mask; None: if the
        environment gave masks at its first reset.
    """

    def __init__(self, saved: SavedPolicy, agent: str, role: int | None = None, masked: bool | None = None):
        super().__init__()
        spec = saved.config.spec
        if agent not in spec.agents:
            raise ValueError(f"the policy has no agent {agent!r}; it has {list(spec.agents[:20])}.")
        n = spec.agents.index(agent)
        by_role = saved.config.owners.by_role and saved.adapters_on
        if by_role and role is None:
            raise ValueError("adapters are keyed by role: say which role the agent keeps.")
        if role is not None and not by_role:
            raise ValueError("a role is for policies whose adapters are keyed by role; leave it out.")
        if masked and spec.continuous:
            raise ValueError("a mask says which choices are available; this policy's actions are continuous.")
        dense = merged(saved, [role or 0] * spec.num_agents if by_role else None)
        actor, obs, act = dense.actor(), spec.obs_sizes[n], spec.action_sizes[n]
        space = spec.views[n].sees if spec.views else Box((obs,), "float32")
        self.obs_size, self.num_choices = obs, 0 if spec.continuous else act
        self.flatten = Flatten(space, obs)
        self.masked = (spec.has_masks if masked is None else masked) and not spec.continuous
        self.first_choices = torch.as_tensor(spec.first_choices()[n, :act] if self.masked else [])
        self.activation = ACTIVATION[saved.config.network.activation]
        self.recurrent, self.hidden_size = saved.config.network.recurrent, saved.config.network.hidden_size
        self.actions = Actions(spec, n, saved.config.network.distribution == "squashed_gaussian")

        def linear(layer: BankLinear, inputs: int | None = None, outputs: int | None = None) -> nn.Linear:
            weight, bias = layer.weight[n, :outputs, :inputs], layer.bias[n, :outputs]
            one = nn.Linear(weight.shape[1], weight.shape[0])
            one.load_state_dict({"weight": weight, "bias": bias})
            return one

        def norm(layer: BankLayerNorm | None, size: int | None = None) -> nn.Module:
            if layer is None:
                return nn.Identity()
            weight, bias = layer.weight[n, :size], layer.bias[n, :size]
            one = nn.LayerNorm(len(weight))
            one.load_state_dict({"weight": weight, "bias": bias})
            return one

        self.encoder = None if actor.encoder is None else actor.encoder.of_owner(n)
        self.shape, self.padding = spec.obs_shape, spec.obs_size - obs
        self.obs_norm = nn.Identity() if actor.obs_norm is None else actor.obs_norm.of_agent(n, obs)
        inputs = obs if self.encoder is None else None
        self.feature_norm = norm(actor.feature_norm, inputs)
        self.linears, self.norms, self.hiddens = nn.ModuleList(), nn.ModuleList(), nn.ModuleDict()
        for k, stage in enumerate(actor.stages()):
            self.linears.append(linear(stage.linear, inputs if k == 0 else None))
            self.norms.append(norm(stage.norm))
            if stage.hidden is not None:
                self.hiddens[str(k)] = linear(stage.hidden)
        self.head = linear(actor.head, outputs=act)
        self.eval().requires_grad_(False)

    def forward(self, obs: Any, state: Tensor | None = None, mask: Tensor | None = None) -> Any:
        x = self.obs_norm(self.flatten(obs))
        if self.encoder is not None:
            x = self.encoder(nn.functional.pad(x, (0, self.padding)).reshape(-1, *self.shape))
        x = self.feature_norm(x)
        after = None
        for k, (linear, norm) in enumerate(zip(self.linears, self.norms, strict=True)):
            y = linear(x)
            if str(k) in self.hiddens:
                h = torch.zeros(*x.shape[:-1], self.hidden_size, device=x.device) if state is None else state
                y = after = gru_cell(y, self.hiddens[str(k)](h), h)
            else:
                y = self.activation(y)
            x = norm(y)
        action = self.actions(self.head(x), mask)
        return (action, after) if self.recurrent else action

    def example(self, rows: int = 2, rng: torch.Generator | None = None) -> tuple[Any, ...]:
        """Example arguments of `forward`, in order, None for those that do not apply. rng: None: fixed values."""
        state = mask = None
        if self.recurrent:
            shape = (rows, self.hidden_size)
            state = torch.zeros(shape) if rng is None else torch.randn(shape, generator=rng)
        if self.masked:
            mask = torch.ones(rows, self.num_choices, dtype=torch.bool)
            if rng is not None:
                mask = (torch.rand(rows, self.num_choices, generator=rng) < 0.5) | self.first_choices
        given: list[Any] = [self.flatten.example(rows, rng), state, mask]
        while given[-1] is None:
            given.pop()
        return tuple(given)

    def inputs(self) -> list[str]:
        """Names of the input tensors of `forward`, in order."""
        return self.flatten.names + ["state"] * self.recurrent + ["mask"] * self.masked

    def outputs(self) -> list[str]:
        return ["action", "next_state"] if self.recurrent else ["action"]


def program_of(network: AgentNetwork) -> torch.export.ExportedProgram:
    """The network as an exported program, for any number of rows."""
    batch = torch.export.Dim("batch", min=1)
    given = network.example()
    shapes = tuple(
        None if value is None else tuple({0: batch} for _ in value) if isinstance(value, tuple) else {0: batch}
        for value in given
    )
    return torch.export.export(network, given, dynamic_shapes=shapes)


def export_program(network: AgentNetwork, path: str | Path) -> Path:
    """Writes a .pt2 file that `torch.export.load` reads. Returns its path."""
    buffer = io.BytesIO()
    torch.export.save(program_of(network), buffer)
    path = Path(path).expanduser()
    write_file(path, buffer.getvalue())
    return path


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppresses warnings, and log messages of torch.onnx below errors."""
    chatter = logging.getLogger("torch.onnx")
    level = chatter.level
    chatter.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        chatter.setLevel(level)


def export_onnx(network: AgentNetwork, path: str | Path, check_rows: int = 64) -> Path:
    """Writes an ONNX file, after checking it with onnxruntime against the network on random rows. Returns its path.

    Raises ValueError, and writes nothing, if the two differ. Needs the extra [onnx].
    """
    try:
        import onnxruntime
        import onnxscript  # noqa: F401 - torch.onnx needs it
    except ImportError as error:
        raise ImportError(f"ONNX needs more packages: {installing('onnx')}") from error
    with _quiet():
        program = torch.onnx.export(
            program_of(network), input_names=network.inputs(), output_names=network.outputs(),
            opset_version=ONNX_OPSET, dynamo=True, verbose=False,
        )  # fmt: skip
    assert program is not None
    data = program.model_proto.SerializeToString()
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    given = network.example(check_rows, torch.Generator().manual_seed(0))
    expected = network(*given)
    expected = expected if isinstance(expected, tuple) else (expected,)
    tensors = [x for value in given if value is not None for x in (value if isinstance(value, tuple) else (value,))]
    named = {name: x.numpy() for name, x in zip(network.inputs(), tensors, strict=True)}
    for name, found, wanted in zip(network.outputs(), session.run(None, named), expected, strict=True):
        if not np.allclose(found, wanted.numpy(), rtol=1e-3, atol=1e-4):
            raise ValueError(f"the ONNX file computes another {name} than the policy: it was not written.")
    path = Path(path).expanduser()
    write_file(path, data)
    return path
