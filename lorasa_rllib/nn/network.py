"""Settings and building blocks shared by actor and critic: hidden layers and the trunk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lorasa_rllib.nn.bank import BankLayerNorm, BankLinear, Banks, BankSize
from lorasa_rllib.nn.bank_encoder import BankEncoder
from lorasa_rllib.nn.distributions import CONTINUOUS
from lorasa_rllib.nn.encoder_classes import Value, check_settings, name_of
from lorasa_rllib.nn.gru import BankGRU
from lorasa_rllib.nn.obs_norm import RunningNorm
from lorasa_rllib.nn.presets import PRESETS as PRESETS
from lorasa_rllib.nn.rows import Rows, Slots
from lorasa_rllib.spec import Owners

GAIN = {"relu": 2**0.5, "tanh": 5 / 3}
ACTIVATION = {"relu": torch.relu, "tanh": torch.tanh}
LAYERS_AT_MOST = 1000
ObsNorm = Literal["layer", "running", "running_team"] | None


@dataclass(frozen=True)
class NetworkConfig:
    """Architecture of actor and critic, which have the same trunk.

    Configs start from `obs_norm="running"` and `distribution="gaussian"`. Settings that a file omits have the default,
    except `obs_clip`, which was always 10 before it became a setting.

    hidden_size:   width of every hidden layer.
    num_layers:    hidden layers of the MLP, named mlp.0, mlp.1 ...
    activation:    "relu" or "tanh".
    obs_norm:      how observations (and the critic's global states) are normalised; padding, ids and masks never are.
                   "layer": a LayerNorm over the features, named feature_norm. It removes their common scale and offset,
                   which hurts if these carry information.
                   "running": each feature by its running mean and variance, clipped to +-`obs_clip` (`nn.obs_norm`),
                   one set per agent. Learners update the statistics after every iteration.
                   "running_team": the same with one set for the whole team, for agents with the same features. Features
                   that are constant per agent but differ between agents (its type, say) remain visible.
                   None: no normalisation.
    obs_clip:      limit of features normalised by running statistics. Rare values of features that are nearly always 0,
                   such as contact forces, become large and are cut off there.
    layer_norm:    LayerNorm after every hidden layer.
    recurrent:     a GRU after the MLP of the actor, then `post_layers` more hidden layers, named post.0 ...
    critic_recurrent: the same for the critic. Env runners then also step the critic and store its values and states.
    id_features:   "one_hot": the policy is given the agent's one-hot id; "none": it is not; "auto": one-hot unless
                   adapters are keyed by role.
    distribution:  continuous head, with state-independent standard deviations. "squashed_gaussian" (published): tanh of
                   a Gaussian, std = sigmoid(log_std) / 2. "gaussian": std = exp(log_std); actions are clipped to the
                   bounds when passed to the environment.
    initial_log_std: initial log_std of the continuous head. None: 1 if squashed (std 0.37), else -0.5 (std 0.61).
    head_gain:     gain of the orthogonal initialisation of the action head.
    encoder:       a module in front of the first layer, part of the backbone and never adapted. "cnn": a small
                   convolutional network for images [H, W, C] (`nn.image_encoder`). "module:name": a subclass of
                   `torch.nn.Module` (`nn.bank_encoder`); `.network()` also takes the class itself. The critic has its
                   own where the global state consists of arrays of as many axes. None: none.
    encoder_settings: keyword arguments of the encoder's class.
    """

    hidden_size: int = 64
    num_layers: int = 2
    activation: Literal["relu", "tanh"] = "relu"
    obs_norm: ObsNorm = "layer"
    obs_clip: float = 3.0
    layer_norm: bool = True
    recurrent: bool = False
    critic_recurrent: bool = False
    post_layers: int = 1
    id_features: Literal["auto", "one_hot", "none"] = "auto"
    distribution: Literal["squashed_gaussian", "gaussian"] = "squashed_gaussian"
    head_gain: float = 0.01
    initial_log_std: float | None = None
    encoder: str | None = None
    encoder_settings: dict[str, Value | list[Value]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if name_of(self.encoder) is None and self.encoder_settings:
            raise ValueError(f"encoder_settings={self.encoder_settings} need an encoder: set encoder, too.")
        if self.hidden_size < 1:
            raise ValueError(f"hidden_size={self.hidden_size} must be at least 1.")
        if not (isinstance(self.obs_clip, int | float) and 0 < self.obs_clip < float("inf")):
            raise ValueError(f"obs_clip={self.obs_clip!r} must be a positive number; the default is 3.0.")
        check_settings(self.encoder_settings)
        for name, least in (("num_layers", 1), ("post_layers", 0)):
            if not least <= getattr(self, name) <= LAYERS_AT_MOST:
                raise ValueError(f"{name}={getattr(self, name)} must be between {least} and {LAYERS_AT_MOST}.")
        for name, known in (
            ("activation", ACTIVATION),
            ("distribution", CONTINUOUS),
            ("id_features", ("auto", "one_hot", "none")),
            ("obs_norm", OBS_NORMS),
        ):
            if getattr(self, name) not in known:
                raise ValueError(f"{name}={getattr(self, name)!r} must be one of {list(known)}.")

    def layers(self) -> list[str]:
        """Names of the actor's layers that can be adapted, in order."""
        hidden = [f"mlp.{k}" for k in range(self.num_layers)]
        memory = ["gru.input", "gru.hidden", "gru.norm", *(f"post.{k}" for k in range(self.post_layers))]
        first = ["feature_norm"] if self.obs_norm == "layer" else []
        return [*first, *hidden, *(memory if self.recurrent else []), "head", "log_std"]

    def uses_ids(self, owners: Owners) -> bool:
        if self.id_features == "one_hot" and owners.by_role:
            raise ValueError("id_features='one_hot' does not go with adapters keyed by role; set id_features='none'.")
        return self.id_features == "one_hot" or (self.id_features == "auto" and not owners.by_role)

    @property
    def normalises_by_statistics(self) -> bool:
        """Whether the policy keeps running statistics of observations."""
        return self.obs_norm in ("running", "running_team")

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> NetworkConfig:
        """Reads the output of `to_dict`, including that of older versions. `encoder` may be a class."""
        settings = completed(data)
        return cls(**settings | {"encoder": name_of(settings["encoder"])})


OBS_NORMS = ("layer", "running", "running_team", None)


def renamed(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of `NetworkConfig` under their current names: obs_norm replaced feature_norm, a bool."""
    current = dict(settings)
    if "feature_norm" in current:
        before = "layer" if current.pop("feature_norm") else None
        if current.setdefault("obs_norm", before) != before:
            raise ValueError("feature_norm is the old name of obs_norm: give obs_norm alone.")
    return current


def completed(data: Mapping[str, Any]) -> dict[str, Any]:
    """Upgrades a `NetworkConfig.to_dict` of an older version: renames fields and adds new ones."""
    return {"obs_clip": 10.0, "initial_log_std": None, "encoder": None, "encoder_settings": {}} | renamed(data)


class BankBlock(BankLinear):
    """A hidden layer: `BankLinear`, activation and an optional LayerNorm, `norm`."""

    def __init__(self, name: str, in_size: int, bank: BankSize, config: NetworkConfig, id_capacity: int = 0):
        super().__init__(name, in_size, config.hidden_size, bank, GAIN[config.activation], id_capacity)
        self._activation = ACTIVATION[config.activation]
        self.norm = BankLayerNorm(name, config.hidden_size, bank) if config.layer_norm else None

    def forward(self, x: Tensor, slots: Slots, adapters: bool = True) -> Tensor:
        y = self._activation(super().forward(x, slots, adapters))
        return y if self.norm is None else self.norm(y, slots, adapters=adapters)


@dataclass(frozen=True)
class Stage:
    """One stage of a trunk: a hidden layer, norm(activation(linear(x))), or a GRU, norm(h'), with `hidden`.

    Whatever runs a trunk, as it is, merged or exported, goes through `Trunk.stages`.
    """

    name: str
    layer: BankBlock | BankGRU

    @property
    def linear(self) -> BankLinear:
        """The projection of the stage's input."""
        return self.layer.input if isinstance(self.layer, BankGRU) else self.layer

    @property
    def hidden(self) -> BankLinear | None:
        """A GRU's projection of its hidden state."""
        return self.layer.hidden if isinstance(self.layer, BankGRU) else None

    @property
    def norm(self) -> BankLayerNorm | None:
        return self.layer.norm


class Trunk(nn.Module):
    """Feature norm, hidden layers and, if recurrent, a GRU and further layers: [S, B, d] -> [S, B, hidden_size].

    Recurrent trunks take sequences: rows whose first leading axis is time. Subclasses apply the running statistics
    (`obs_norm`, for `observers` agents) and the encoder in the caller's layout.

    parts: (P, ...), what the encoder reads: P flattened arrays. Empty: no encoder. Arrays with several axes, such as
    images, are not normalised by running statistics: the encoder reads them as they are.
    """

    def __init__(
        self,
        features: int,
        banks: Banks,
        config: NetworkConfig,
        id_capacity: int,
        recurrent: bool = False,
        observers: int = 1,
        parts: tuple[int, ...] = (),
    ):
        super().__init__()
        self.config = config
        statistics = config.normalises_by_statistics and len(parts) <= 2
        pooled = config.obs_norm == "running_team"
        self.obs_norm = RunningNorm(observers, features, config.obs_clip, pooled) if statistics else None
        self.encoder: BankEncoder | None = None
        if config.encoder is not None and parts:
            backbones = banks.of("encoder").backbones
            self.encoder = BankEncoder(config.encoder, config.encoder_settings, parts, backbones)
            features = self.encoder.size
        name = "feature_norm"
        self.feature_norm = BankLayerNorm(name, features, banks.of(name)) if config.obs_norm == "layer" else None
        self.mlp = nn.ModuleList()
        for k in range(config.num_layers):
            first = k == 0
            width = features if first else config.hidden_size
            self.mlp.append(BankBlock(f"mlp.{k}", width, banks.of(f"mlp.{k}"), config, id_capacity if first else 0))
        self.gru = BankGRU(config.hidden_size, banks, config.layer_norm) if recurrent else None
        self.post = nn.ModuleList(
            BankBlock(f"post.{k}", config.hidden_size, banks.of(f"post.{k}"), config)
            for k in range(config.post_layers if recurrent else 0)
        )

    @property
    def recurrent(self) -> bool:
        return self.gru is not None

    def stages(self) -> list[Stage]:
        """What follows the normalisation of features, in order."""
        before = [Stage(f"mlp.{k}", layer) for k, layer in enumerate(self.mlp)]  # type: ignore[arg-type]
        if self.gru is None:
            return before
        after = [Stage(f"post.{k}", layer) for k, layer in enumerate(self.post)]  # type: ignore[arg-type]
        return [*before, Stage("gru", self.gru), *after]

    def features(
        self,
        x: Tensor,
        rows: Rows,
        present: Tensor | None = None,
        adapters: bool = True,
        state: Tensor | None = None,
        keep: Tensor | None = None,
        one_step: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """x [S, B, features] -> [S, B, hidden_size], and the hidden states after each step (None if feed-forward).

        present bool [S, 1 or B, features]: False for padding; None: no padding. state, keep: see `BankGRU.forward`.
        one_step: the rows have no time axis, and neither have the hidden states; see `BankGRU.step`.
        """
        if present is not None:
            x = torch.where(present, x, 0.0)  # not multiplied: padding may hold NaN
        if self.feature_norm is not None:
            x = self.feature_norm(x, rows.slots, present, adapters)
        states = None
        for stage in self.stages():
            if not isinstance(stage.layer, BankGRU):
                x = stage.layer(x, rows.slots, adapters)
            elif one_step:
                x, states = stage.layer.step(x, rows, state, adapters)
            else:
                x, states = stage.layer(x, rows, state, keep, adapters)
        return x, states
