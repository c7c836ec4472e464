"""docs/result_keys.md names keys that results have."""

from __future__ import annotations

import re
from pathlib import Path

from lorasa_rllib import A2POConfig

ROOT = Path(__file__).parents[2]


def test_result_keys_of_the_page_are_those_of_results(build):
    config = A2POConfig().environment("synthetic", env_config={"num_agents": 2, "shared_reward": False})
    config = config.sharing("lora", r=2).training(train_batch_size=400, num_epochs=1).evaluation(evaluation_interval=1)
    algo = build(config)
    algo.train()
    result = algo.train()  # adapters have a size once they have been trained
    learner = result["learners"]["shared_policy"]
    elsewhere = {"env_runners/win_rate", "env_runners/metrics/NAME"}  # of battles, and of environments that report
    rows = re.findall(r"^\| (`.*?) \|", (ROOT / "docs" / "result_keys.md").read_text(), re.M)
    keys = {key.replace("AGENT", "agent_0") for row in rows for key in re.findall(r"`([^`]+)`", row)} - elsewhere
    assert len(keys) > 35
    for key in keys:
        assert found(result, key) or found(learner, key), key


def found(result, key):
    """Whether a nested dictionary has a key, whose parts may have slashes themselves ("adapter_norm/0")."""
    if not isinstance(result, dict) or not key:
        return not key
    return any(key == name or (key.startswith(f"{name}/") and found(value, key[len(name) + 1 :]))
               for name, value in ((str(name), value) for name, value in result.items()))  # fmt: skip
