"""Hyper-parameters of every scenario, in one place."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Preset:
    """Numbers of one scenario. A training batch is `num_envs` x `steps` environment steps.

    switch: environment steps before the adapter phase, None where the paper gives none.
    correction: A2PO's form of it (`A2POConfig.training(off_policy_correction=)`).
    """

    num_epochs: int = 5
    lambda_: float = 0.95
    num_envs: int = 16
    steps: int = 250
    lr: float = 3e-4
    gamma: float = 0.99
    entropy_coeff: float = 0.0
    obs: str = "local"
    agent_obsk: int = 1
    switch: int | None = None
    correction: str = "capped_factors"

    @property
    def train_batch_size(self) -> int:
        """Environment steps."""
        return self.num_envs * self.steps


DEFAULT = Preset()
"""For scenarios without published numbers."""

PRODUCT = "capped_product"
PRESETS = {
    "Ant-4x2": Preset(num_epochs=3, lambda_=0.93, num_envs=25, steps=160, switch=4_000_000, correction=PRODUCT),
    "HalfCheetah-2x3": Preset(num_epochs=5, lambda_=0.93, switch=100_000),
    "HalfCheetah-6x1": Preset(num_epochs=5, lambda_=0.93),
    "Walker2d-2x3": Preset(num_epochs=3, lambda_=0.93, switch=2_000_000, correction=PRODUCT),
    "Humanoid-9|8": Preset(
        num_epochs=3, lambda_=0.90, num_envs=25, steps=160, obs="global", switch=1_000_000, correction=PRODUCT
    ),
}
"""The published settings, for MAPPO and A2PO alike (launch scripts, 12 M steps), and switch steps (paper's appendix).

Walker2d was published as 3x2, a factorisation that Gymnasium-Robotics does not have; HalfCheetah 6x1 takes over 2x3's.
"""


def preset_of(scenario: str) -> Preset:
    """Preset of a scenario such as "Ant-4x2"."""
    return PRESETS.get(scenario, DEFAULT)
