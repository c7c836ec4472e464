"""JaxMARL's own MAPPO on SMAX: its script `baselines/MAPPO/mappo_rnn_smax.py`, unchanged, with its published settings.

The script (Apache-2) is not in JaxMARL's wheel and none of it is here: it is downloaded once, from the commit that the
wheel of version 0.2.0 was made from, and kept in `build/peers/`. Without a network, put it there. It needs
`pip install -e ".[bench]" -c constraints.txt`.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import urllib.error
import urllib.request
from pathlib import Path
from types import SimpleNamespace
from typing import Any

COMMIT = "c793d095618c6d3edfb5632802348f57b70a4b94"
NAME = "baselines/MAPPO/mappo_rnn_smax.py"
ADDRESS = f"https://raw.githubusercontent.com/FLAIROx/JaxMARL/{COMMIT}/{NAME}"
SHA256 = "25cf084c0d15cedcd7118e2e234e6d8f85d2b6cdc2165ce65ca401e4e0bc525d"
FOLDER = Path(__file__).parents[1] / "build" / "peers"

PUBLISHED: dict[str, Any] = {
    "LR": 0.002, "FC_DIM_SIZE": 128, "GRU_HIDDEN_DIM": 128, "GAMMA": 0.99, "GAE_LAMBDA": 0.95, "CLIP_EPS": 0.2,
    "SCALE_CLIP_EPS": False, "ENT_COEF": 0.0, "VF_COEF": 0.5, "MAX_GRAD_NORM": 0.25, "OBS_WITH_AGENT_ID": True,
    "ENV_KWARGS": {"see_enemy_actions": True, "walls_cause_death": True, "attack_mode": "closest"}, "ANNEAL_LR": True,
}  # fmt: skip
"""Settings of `baselines/MAPPO/config/mappo_homogenous_rnn_smax.yaml` at that commit, but for sizes and the map."""


def script() -> Path:
    """The script, downloaded if it is not there yet. Raises RuntimeError with the remedy."""
    path = FOLDER / Path(NAME).name
    if not path.is_file():
        try:
            with urllib.request.urlopen(ADDRESS, timeout=30) as answer:
                text = answer.read()
        except urllib.error.URLError as error:
            raise RuntimeError(
                f"JaxMARL's script cannot be downloaded ({error.reason}): put {ADDRESS} at {path}"
            ) from error
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text)
    if hashlib.sha256(path.read_bytes()).hexdigest() != SHA256:
        raise RuntimeError(f"{path} is not JaxMARL's script of commit {COMMIT[:7]}: delete it to download it again.")
    return path


class JaxMARLMAPPO:
    """Trains one iteration per call, each with fresh weights and battles: the script returns no state to resume from.

    What it logs is kept: loss is the mean of the last iteration, approx_kl how far it moved the policy. parameters,
    optimiser_steps: of an iteration.
    """

    def __init__(self, map_name: str, battles: int, steps: int, passes: int, minibatches: int, updates: int = 1):
        os.environ.setdefault("JAX_PLATFORMS", "cpu")
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(FOLDER / "jax"))
        import jax

        spec = importlib.util.spec_from_file_location("mappo_rnn_smax", script())
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        self.logged: list[dict[str, Any]] = []
        module.wandb = SimpleNamespace(log=self.logged.append)  # all that training calls
        sizes = {
            "MAP_NAME": map_name, "NUM_ENVS": battles, "NUM_STEPS": steps, "TOTAL_TIMESTEPS": battles * steps * updates,
            "UPDATE_EPOCHS": passes, "NUM_MINIBATCHES": minibatches,
        }  # fmt: skip
        self._jax, self._seed = jax, 0
        self._train = jax.jit(module.make_train(PUBLISHED | sizes))
        self.parameters = self.optimiser_steps = 0

    def iterate(self) -> float:
        """Runs one iteration (`updates` of them). Returns its loss."""
        self._seed += 1
        trained = self._jax.block_until_ready(self._train(self._jax.random.PRNGKey(self._seed)))
        self._jax.effects_barrier()  # what it logs has arrived
        states = trained["runner_state"][0][0]
        self.parameters = sum(x.size for state in states for x in self._jax.tree.leaves(state.params))
        self.optimiser_steps = int(states[0].step)
        return float(self.logged[-1]["total_loss"])
