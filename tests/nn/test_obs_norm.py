"""The observation normaliser: exact statistics however rows arrive, and nothing of rows that do not count."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lorasa_rllib.nn.network import PRESETS, NetworkConfig
from lorasa_rllib.nn.obs_norm import RunningNorm, for_more_agents
from tests.helpers import seeded

SIZE = 2
CLIP = 2.5


def rows_of(steps, agents, offset, seed):
    """Rows [steps, agents, SIZE] in single precision and which of them count; agent 0 never does."""
    x = offset + torch.randn(steps, agents, SIZE, generator=seeded(seed)) * torch.tensor([1.0, 100.0])
    x = x + torch.arange(agents)[:, None]
    counted = torch.rand(steps, agents, 1, generator=seeded(seed + 1)) < 0.6
    counted[:, 0] = False
    return x, counted


@given(
    parts=st.lists(st.integers(1, 30), min_size=1, max_size=5),
    agents=st.integers(1, 3),
    offset=st.sampled_from([0.0, 3e3]),
    pooled=st.booleans(),
    learners=st.integers(1, 2),
)
def test_statistics_are_those_of_all_rows_that_counted_at_once(parts, agents, offset, pooled, learners):
    x, counted = rows_of(sum(parts), agents, offset, 3)
    norm = RunningNorm(agents, SIZE, CLIP, pooled)
    for piece, live in zip(x.split(parts), counted.split(parts), strict=True):
        piece = torch.where(live, piece, torch.nan)
        if learners == 1 or len(piece) < 2:
            norm.update(piece, live, lambda sums: sums)
            continue
        sums = []  # of the other learner, which has the second half
        cut = len(piece) // 2
        RunningNorm.update(_twin(norm), piece[cut:], live[cut:], lambda own, sums=sums: sums.append(own) or own)
        norm.update(piece[:cut], live[:cut], lambda own, sums=sums: own + sums[0])
    for agent in range(agents):
        whose = slice(None) if pooled else slice(agent, agent + 1)
        mine = x[:, whose][counted[:, whose, 0]].double()
        if not len(mine):
            assert not norm.mean[agent].any() and (norm.var[agent] == 1).all() and not norm.count[agent].any()
            continue
        torch.testing.assert_close(norm.count[agent], torch.full((SIZE,), float(len(mine))))
        torch.testing.assert_close(norm.mean[agent], mine.mean(0).float(), rtol=1e-5, atol=1e-4)
        torch.testing.assert_close(norm.var[agent], mine.var(0, correction=0).float(), rtol=1e-3, atol=1e-4)
        inputs = x[:, agent]
        expected = (inputs - norm.mean[agent]) / (norm.var[agent] + 1e-8).sqrt()
        found = norm(x)[:, agent]
        torch.testing.assert_close(found, expected.clamp(-CLIP, CLIP))
        assert torch.equal(norm(inputs, agent), found) and torch.equal(norm.of_agent(agent, SIZE)(inputs), found)
        assert torch.equal(norm(x[:, [agent]], (agent,))[:, 0], found) and torch.equal(norm.fixed()(x)[:, agent], found)
        assert torch.equal(norm(inputs, torch.full((len(inputs),), agent)), found)


def _twin(norm):
    twin = RunningNorm(*norm.mean.shape, norm.clip, norm.pooled)
    twin.load_state_dict(norm.state_dict())
    return twin


def test_fresh_statistics_only_clip_and_constants_become_zero():
    norm = RunningNorm(2, SIZE, CLIP)
    x = torch.tensor([[[0.5, -30.0], [3.0, 4.0]]])
    torch.testing.assert_close(norm(x), x.clamp(-CLIP, CLIP))
    norm.update(torch.full((50, 2, SIZE), 1e3 / 3), torch.ones(1, dtype=torch.bool), lambda sums: sums)
    assert not norm(torch.full((1, 2, SIZE), 1e3 / 3)).any()


def test_new_agents_begin_with_the_statistics_of_all():
    x, counted = rows_of(200, 3, 0.0, 5)
    norm, whole = RunningNorm(3, SIZE, CLIP), RunningNorm(3, SIZE, CLIP, pooled=True)
    for one in (norm, whole):
        one.update(x, counted, lambda sums: sums)
    more = for_more_agents(norm.state_dict(), 5)
    for name, old in norm.state_dict().items():
        assert more[name].shape == (5, SIZE) and torch.equal(more[name][:3], old)
        assert torch.equal(for_more_agents(norm.state_dict(), 2)[name], old)
        if name != "count":
            torch.testing.assert_close(more[name][3:], getattr(whole, name)[:2])
    fresh = for_more_agents(RunningNorm(1, SIZE, CLIP).state_dict(), 2)
    assert (fresh["var"] == 1).all() and not fresh["mean"].any() and not fresh["count"].any()


def test_the_old_name_of_the_setting_is_read():
    new = NetworkConfig().to_dict()
    old = {name: value for name, value in new.items() if name != "obs_norm"}
    for before, now in ((True, "layer"), (False, None)):
        assert NetworkConfig.from_dict(old | {"feature_norm": before}) == NetworkConfig(obs_norm=now)
    with pytest.raises(ValueError, match="old name of obs_norm"):
        NetworkConfig.from_dict({"feature_norm": True, "obs_norm": "running"})
    with pytest.raises(ValueError, match="obs_norm='batch' must be one of"):
        NetworkConfig(obs_norm="batch")
    assert NetworkConfig(**PRESETS["normalised"]).layers() == ["mlp.0", "mlp.1", "head", "log_std"]
