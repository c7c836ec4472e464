"""Sizes of policies against their modules, what a figure of them shows, and the benchmark that measures."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.image import imread

from lorasa_rllib.analysis import resources
from lorasa_rllib.analysis.palette import styles
from lorasa_rllib.analysis.resources import count_methods, counts, draw_resources, last_phase
from lorasa_rllib.learning.owner_adam import OwnerAdam
from lorasa_rllib.nn.network import NetworkConfig
from lorasa_rllib.nn.policy import PolicyConfig, TeamPolicy
from lorasa_rllib.sharing.methods import owners_of
from lorasa_rllib.spec import Owners
from tests.helpers import ADAPTED, METHODS, owner_tables, policies, random_obs, random_roles, team


@pytest.mark.parametrize("method", METHODS)
@given(data=st.data())
def test_counts_are_those_of_the_modules(method, data):
    config = data.draw(policies(method)).config
    phase = data.draw(
        st.sampled_from(["backbone", "adapters", "joint"] if config.owners.num_adapters else ["backbone"])
    )
    policy = TeamPolicy(config)
    policy.set_phase(phase)
    found = counts(config, phase)
    assert found.parameters == sum(p.numel() for p in policy.parameters())
    assert found.critic == sum(p.numel() for p in policy.critic.parameters())
    assert found.backbone + found.adapters == sum(p.numel() for p in policy.actor.parameters())
    assert (found.adapters > 0) == any("lora_" in n or "delta" in n for n, _ in policy.named_parameters())
    trained = {"backbone": found.backbone, "adapters": found.adapters, "joint": found.backbone + found.adapters}
    assert found.trained == trained[phase] + found.critic


@pytest.mark.parametrize("method", METHODS)
def test_bytes_are_those_of_a_checkpoint_and_of_the_optimiser_after_a_step(method):
    spec = team((3, 4), (2, 2))
    owners = owner_tables(2)[method]
    critic = "agent_state" if owners.num_critics > 1 else "state"
    config = PolicyConfig(spec, owners, network=NetworkConfig(hidden_size=5), critic_input=critic)
    policy = TeamPolicy(config)
    policy.set_phase(last_phase(config))
    found = counts(config)
    assert found.weight_bytes == sum(len(t.numpy().tobytes()) for t in policy.state_dict().values())
    optimiser = OwnerAdam(policy.parameters())
    actions = policy.distribution(random_obs(spec, 6).float(), roles=random_roles(owners, 6))
    (actions.mean.sum() + actions.std.sum() + policy.critic(torch.randn(6, 3)).sum()).backward()
    optimiser.step()
    moments = [state[name] for state in optimiser.state.values() for name in ("exp_avg", "exp_avg_sq")]
    assert found.optimiser_bytes == sum(m.nbytes for m in moments) > 0


@pytest.mark.parametrize("method", METHODS)
def test_runs_end_in_the_adapter_phase_where_there_are_adapters(method):
    config = PolicyConfig(team((3, 4), (2, 2)), owner_tables(2)[method], critic_input="agent_state")
    assert last_phase(config) == ("adapters" if method in ADAPTED else "backbone")
    assert counts(config) == counts(config, last_phase(config))


def test_phases_that_a_method_does_not_have_are_refused():
    with pytest.raises(ValueError, match="needs adapters"):
        counts(PolicyConfig(team((3,), (2,)), Owners("ps", (0,))), "adapters")


def test_counting_leaves_random_numbers_as_they_were():
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    counts(PolicyConfig(team((3,), (2,)), Owners("ps", (0,))))
    torch.testing.assert_close(torch.rand(3), expected, rtol=0, atol=0)


def of_size(method: str):
    def config(agents: int) -> PolicyConfig:
        spec = team((4,) * agents, (2,) * agents)
        owners = owner_tables(agents)[method] if method == "nps" else owners_of(method, spec)
        return PolicyConfig(spec, owners, network=NetworkConfig(id_features="none"), critic_input="agent_state")

    return config


def test_a_table_of_methods_grows_as_their_owners_do():
    frame = count_methods({name: of_size(name) for name in ("ps", "lora", "nps")}, (2, 4, 8))
    assert frame[["method", "agents"]].to_records(index=False).tolist() == list(
        itertools.product(("ps", "lora", "nps"), (2, 4, 8))
    )
    assert (frame["parameters"] == frame["backbone"] + frame["adapters"] + frame["critic"]).all()
    sizes = frame.set_index(["method", "agents"])
    assert sizes.loc["ps", "backbone"].nunique() == 1
    for method, column in (("nps", "backbone"), ("lora", "adapters")):
        one = sizes.loc[(method, 2), column] / 2
        assert sizes.loc[method][column].tolist() == [2 * one, 4 * one, 8 * one] and one > 0
    assert sizes.loc[("lora", 8), "trained"] < sizes.loc[("nps", 8), "trained"]


def measured() -> pd.DataFrame:
    frame = count_methods({name: of_size(name) for name in ("ps", "lora")}, (2, 4))
    return frame.assign(acting_steps_per_second=[900.0, 500.0, 800.0, 400.0], memory_bytes=math.nan)


@pytest.fixture
def drawn(monkeypatch):
    """The figures that would have been saved."""
    figures: list = []
    monkeypatch.setattr(resources, "save", lambda figure, path: figures.append(figure))
    return figures


def test_a_figure_has_a_panel_for_each_column_there_is(drawn, tmp_path):
    frame = measured()
    draw_resources(frame, tmp_path / "unused.png", labels={"lora": "LoRASA"})
    (figure,) = drawn
    panels = [panel for panel in figure.axes if panel.get_visible()]
    titles = ["Parameters, actor and critic", "Adam's moments, last phase, MiB", "Acting, environment steps / s"]
    assert [panel.get_title() for panel in panels] == titles
    ps = frame[frame["method"] == "ps"]
    for panel, values in zip(
        panels, (ps["parameters"], ps["optimiser_bytes"] / 2**20, ps["acting_steps_per_second"]), strict=True
    ):
        assert panel.get_xscale() == panel.get_yscale() == "log"
        np.testing.assert_allclose(panel.lines[0].get_ydata(), values)
        assert {text.get_text() for text in panel.texts} == {"ps", "LoRASA"}


def test_a_table_without_any_column_to_draw_is_refused(tmp_path):
    with pytest.raises(ValueError, match="none of the columns"):
        draw_resources(pd.DataFrame({"method": ["ps"], "agents": [2]}), tmp_path / "unused.png")


def test_the_picture_is_there(tmp_path):
    draw_resources(measured(), tmp_path / "new" / "resources.png")
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["resources.png"]
    assert imread(tmp_path / "new" / "resources.png").std() > 0.05


@given(st.dictionaries(st.text(max_size=3), st.floats(0, 1), min_size=1, max_size=8))
def test_labels_lie_apart_inside_the_panel_and_in_order(places):
    at = resources._apart(places, gap=0.085)
    heights = np.array([at[name] for name in sorted(places, key=lambda name: places[name])])
    assert (np.diff(heights) > 0.085 - 1e-9).all()
    assert heights.min() >= -1e-9 and heights.max() <= 1 + 1e-9
    if (np.diff(sorted(places.values())) > 0.085).all():  # nothing to do
        assert at == pytest.approx(places)


def test_methods_keep_colours_that_are_given_and_share_none():
    names = ["ps", "nps", "mtl", "seps", "lora", "seps_lora"]
    found = styles([*names, "ps"], {"ps": "#123456", "lora": "#4477aa"})
    assert list(found) == names
    assert found["ps"]["color"] == "#123456" and found["lora"]["color"] == "#4477aa"
    assert len({style["color"] for style in found.values()}) == len({style["marker"] for style in found.values()}) == 6


def test_more_methods_than_colours_still_differ():
    found = styles([str(k) for k in range(20)])
    assert len({(style["color"], style["marker"]) for style in found.values()}) == 20


def test_the_benchmark_measures_every_method_and_size(tmp_path):
    from benchmarks import resources as benchmark

    frame = benchmark.table(["ps", "lora"], [2], repeats=1)
    assert frame["method"].tolist() == ["ps", "lora"]
    columns = ["parameters", "optimiser_bytes", "memory_bytes", "acting_steps_per_second", "learning_steps_per_second"]
    assert (frame[columns] > 0).all(axis=None)
    draw_resources(frame, tmp_path / "resources.png")
