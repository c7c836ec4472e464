"""Hyper-parameters of every scenario, in one place."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Preset:
    """Numbers of one scenario. A training batch is `num_envs` x `steps` environment steps.

    num_epochs:  passes over a batch, as published.
    mappo_epochs: MAPPO's, where we measured that it needs more of them; see `passes`.
    minibatch_size: environment steps per optimiser step of each learner; None: the whole batch.
    lr_decay:    the learning rate falls to 0 over the budget.
    grad_clip:   largest gradient norm of every owner.
    obs, agent_obsk: what agents of Multi-Agent MuJoCo observe.
    state:       what the critic sees of a battle, see `SMAXTeam`.
    network:     a key of `nn.network.PRESETS`; None: feed-forward, two hidden layers of 64.
    adapter_lr_scale: of adapters' learning rate, see `TeamConfig.sharing`.
    switch:      environment steps before the adapter phase, None where the paper gives none.
    correction, update_loop, two_stage: A2PO's, see `A2POConfig.training`.
    """

    num_epochs: int = 5
    mappo_epochs: int | None = None
    lambda_: float = 0.95
    num_envs: int = 16
    steps: int = 250
    lr: float = 3e-4
    minibatch_size: int | None = None
    lr_decay: bool = False
    grad_clip: float = 10.0
    gamma: float = 0.99
    entropy_coeff: float = 0.0
    obs: str = "local"
    agent_obsk: int = 1
    state: str = "global"
    network: str | None = None
    adapter_lr_scale: float | None = None
    switch: int | None = None
    correction: str = "capped_factors"
    update_loop: str = "agent"
    two_stage: bool = True

    @property
    def train_batch_size(self) -> int:
        """Environment steps."""
        return self.num_envs * self.steps

    def passes(self, algorithm: str) -> int:
        """Passes of "mappo" or "a2po" over a batch.

        In a pass A2PO moves what agents share once for each agent, MAPPO once. On Ant-4x2 and Walker2d-2x3 MAPPO
        learns far more from twelve passes than from three (results/README.md, "More passes for MAPPO").
        """
        return (self.mappo_epochs if algorithm == "mappo" else None) or self.num_epochs


PRODUCT = "capped_product"
MAMUJOCO = {
    "*": Preset(),
    "Ant-4x2": Preset(
        num_epochs=3, mappo_epochs=12, lambda_=0.93, num_envs=25, steps=160, switch=4_000_000, correction=PRODUCT
    ),
    "HalfCheetah-2x3": Preset(num_epochs=5, lambda_=0.93, switch=100_000),
    "HalfCheetah-6x1": Preset(num_epochs=5, lambda_=0.93),
    "Walker2d-2x3": Preset(num_epochs=3, mappo_epochs=12, lambda_=0.93, switch=2_000_000, correction=PRODUCT),
    "Humanoid-9|8": Preset(
        num_epochs=3, lambda_=0.90, num_envs=25, steps=160, obs="global", switch=1_000_000, correction=PRODUCT
    ),
}
"""The published settings, for MAPPO and A2PO alike (launch scripts, 12 M steps), and switch steps (paper's appendix).
Ours is `mappo_epochs`: `--num-epochs 3` is the published number.

Walker2d was published as 3x2, a factorisation that Gymnasium-Robotics does not have; HalfCheetah 6x1 takes over 2x3's.
"""

_SMAC = Preset(
    num_epochs=5, num_envs=10, steps=320, lr=5e-4, entropy_coeff=0.01, state="pruned", network="published",
    update_loop="epoch", two_stage=False,
)  # fmt: skip
SMAC = {
    "*": _SMAC,
    "3s5z_vs_3s6z": replace(_SMAC, lambda_=0.90),
}
"""The published settings (launch scripts, 12 M steps), for SMACv2 as well, which the paper does not have.

There time limits count as defeats; here they are bootstrapped.
"""

SMAX = {"*": Preset(num_epochs=10, num_envs=32, steps=128, lr=2e-3, entropy_coeff=0.01, adapter_lr_scale=0.3)}
"""Ours: what wins 3s5z within 0.5 M steps. Its learning rate is high for adapters, each of which meets few rows: at a
third of it they do better (results/README.md, "Roles")."""

SYNTHETIC = {"*": Preset(num_epochs=10, num_envs=16, steps=64, lr=2e-3, gamma=0.0, network="raw_inputs")}
"""Ours. A step's reward depends on its actions alone, and on the scale of observations, which feature norm removes."""

PRESETS = {
    "mamujoco": MAMUJOCO,
    "smac": SMAC,
    "smax": SMAX,
    "pettingzoo": {"*": Preset()},
    "synthetic": SYNTHETIC,
}
"""Suite -> scenario -> preset; "*" is for all others."""


def preset_of(suite: str, scenario: str) -> Preset:
    """Preset of a scenario such as "Ant-4x2" of the suite "mamujoco"."""
    return PRESETS[suite].get(scenario, PRESETS[suite]["*"])
