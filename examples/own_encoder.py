"""A team that sees pictures: the CNN that comes with the package, or an encoder of your own, in front of the policy.

    python examples/own_encoder.py [ITERATIONS] [cnn | own]     # writes the policy to ./policy

The environment is a PettingZoo one whose observations are uint8 images [H, W, C]. The encoder is part of the backbone:
shared, then frozen while adapters specialise the agents.
"""

import sys

import numpy as np
import torch
from gymnasium.spaces import Box, Discrete
from pettingzoo import ParallelEnv
from torch import nn

from lorasa_rllib import MAPPOConfig

SIZE, STEPS = 12, 16
MOVES = np.array([[0, 0], [-1, 0], [1, 0], [0, -1], [0, 1]])


class Lanterns(ParallelEnv):
    """Two keepers walk to their lanterns. They see the field: themselves red, their lantern green, the other blue."""

    def __init__(self):
        self.possible_agents = ["ada", "ben"]

    def observation_space(self, agent):
        return Box(0, 255, (SIZE, SIZE, 3), np.uint8)

    def action_space(self, agent):
        return Discrete(len(MOVES))

    def reset(self, seed=None, options=None):
        if seed is not None or not hasattr(self, "random"):
            self.random = np.random.default_rng(seed)
        self.agents, self.time = list(self.possible_agents), 0
        self.places, self.lanterns = self.random.integers(SIZE, size=(2, 2, 2))
        return self.pictures(), {agent: {} for agent in self.agents}

    def step(self, actions):
        for n, agent in enumerate(self.agents):
            self.places[n] = (self.places[n] + MOVES[actions[agent]]).clip(0, SIZE - 1)
        self.time += 1
        distances = np.abs(self.places - self.lanterns).sum(-1)
        rewards = {agent: -float(distances[n]) / SIZE for n, agent in enumerate(self.agents)}
        seen, acted, over = self.pictures(), self.agents, self.time == STEPS
        self.agents = [] if over else acted
        return seen, rewards, dict.fromkeys(acted, False), dict.fromkeys(acted, over), {a: {} for a in acted}

    def pictures(self):
        seen = np.zeros((2, SIZE, SIZE, 3), np.uint8)
        for n in range(2):
            for colour, (row, column) in enumerate((self.places[n], self.lanterns[n], self.places[1 - n])):
                seen[n, row, column, colour] = 255
        return dict(zip(self.possible_agents, seen, strict=True))


class Keypoints(nn.Module):
    """Where in the image each channel of a convolution is brightest, on average (spatial softmax, Finn et al. 2016).

    shape: of one observation, here (H, W, C). `forward` maps float32 [B, H, W, C] to features [B, f].
    """

    def __init__(self, shape, points=8):
        super().__init__()
        height, width, channels = shape
        self.convolution = nn.Conv2d(channels, points, 3, padding=1)
        self.sharpness = nn.Parameter(torch.full((points,), 5.0))
        rows, columns = torch.linspace(-1, 1, height), torch.linspace(-1, 1, width)
        self.register_buffer("places", torch.cartesian_prod(rows, columns))  # [H W, 2]

    def forward(self, images):
        x = self.convolution(images.permute(0, 3, 1, 2) / 255).flatten(2) * self.sharpness[:, None]
        return (x.softmax(-1) @ self.places).flatten(1)


def main(iterations, encoder):
    own = {"encoder": Keypoints, "encoder_settings": {"points": 6}}
    config = (
        MAPPOConfig()
        .environment("pettingzoo", env_config={"env": Lanterns})
        .sharing("lora", r=4, total_env_steps=2000 * iterations, phase_switch=0.5)
        .network(**own if encoder == "own" else {"encoder": "cnn"})
        .env_runners(num_envs_per_env_runner=25)
        .training(train_batch_size=2000, num_epochs=5, lr=2e-3, gamma=0.9)
        .debugging(seed=0)
    )
    algo = config.build_algo()
    for iteration in range(iterations):
        result = algo.train()
        earned = result["env_runners"]["episode_return_mean"]
        print(f"{iteration + 1}/{iterations} {result['phase']}: return {earned:.1f}", flush=True)
    print(f"saved to {algo.save_policy('policy')}")
    algo.stop()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 40, sys.argv[2] if len(sys.argv) > 2 else "own")
