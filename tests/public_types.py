"""What type checkers know of `from lorasa_rllib import ...`: read by mypy in `make lint`, never run."""

from collections.abc import Callable
from typing import assert_type

from lorasa_rllib import A2POConfig, EpisodeSummary, LoadedPolicy, MAPPOConfig, TeamSpec, load_policy


def public_types(spec: TeamSpec, episode: EpisodeSummary) -> None:
    assert_type(MAPPOConfig().sharing("lora", r=4), MAPPOConfig)
    assert_type(A2POConfig().network(hidden_size=128), A2POConfig)
    assert_type(load_policy("policy"), LoadedPolicy)
    assert_type(spec.num_agents, int)
    assert_type(episode.get_return, Callable[[], float])
    MAPPOConfig().sharing("lora", rnak=4)  # type: ignore[call-arg]
    MAPPOConfig().sharing("lora", r="four")  # type: ignore[arg-type]
