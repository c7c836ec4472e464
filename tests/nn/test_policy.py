"""The team policy: what each phase trains and computes, and how it travels."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lorasa_rllib.nn.bank import LoRAConfig
from lorasa_rllib.nn.network import NetworkConfig
from lorasa_rllib.nn.policy import PHASES, PolicyConfig, TeamPolicy
from lorasa_rllib.spec import Owners
from tests.helpers import METHODS, make_policy, outputs, owner_tables, policies, random_obs, team

UNEQUAL = team((4, 2, 3), (2, 3, 1))
TRAINED = {
    "backbone": {"backbone", "critic"},
    "adapters": {"adapters", "critic"},
    "joint": {"backbone", "adapters", "critic"},
}


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("method", ["lora", "seps_lora", "mtl_lora"])
def test_a_phase_gives_gradients_to_its_parameters_and_none_to_the_rest(method, phase):
    tables = owner_tables(3) | {"mtl_lora": Owners("x", (0, 1, 2), adapter_of=(0, 1, 2), banked=("head",))}
    policy = make_policy(UNEQUAL, tables[method])
    policy.set_phase(phase)
    policy.set_phase(phase)  # idempotent
    state = torch.randn(4, 3, dtype=torch.double)
    (outputs(policy.distribution(random_obs(UNEQUAL, 4))).square().sum() + policy.critic(state).sum()).backward()
    for group in ("backbone", "adapters", "critic"):
        for name, parameter in policy.parameters_of(group).items():
            if group in TRAINED[phase]:
                assert parameter.grad is not None and parameter.grad.count_nonzero() > 0, name
            else:
                assert parameter.grad is None, name


@pytest.mark.parametrize("method", METHODS)
def test_every_parameter_belongs_to_exactly_one_optimiser_and_leads_with_its_owners(method):
    policy = make_policy(UNEQUAL, owner_tables(3)[method])
    owners = policy.config.owners
    counts = {"backbone": owners.num_backbones, "adapters": owners.num_adapters, "critic": owners.num_critics}
    seen = []
    for group, count in counts.items():
        for name, parameter in policy.parameters_of(group).items():
            assert parameter.shape[0] in ({1, count} if group == "backbone" else {count}), name
            seen.append(parameter)
    assert {id(p) for p in seen} == {id(p) for p in policy.parameters()} and len(seen) == len(list(policy.parameters()))


def test_the_backbone_phase_leaves_adapters_out_also_when_they_are_not_zero():
    policy = make_policy(UNEQUAL, owner_tables(3)["lora"])
    obs = random_obs(UNEQUAL, 4)
    with_adapters = outputs(policy.distribution(obs))
    policy.set_phase("backbone")
    without = outputs(policy.distribution(obs))
    torch.testing.assert_close(without, outputs(policy.actor(obs, adapters=False)), rtol=0, atol=0)
    assert not torch.allclose(with_adapters, without)


@pytest.mark.parametrize("phase", ["adapters", "joint"])
@pytest.mark.parametrize("method", ["ps", "nps"])
def test_methods_without_adapters_refuse_the_phases_that_need_them(method, phase):
    with pytest.raises(ValueError, match="needs adapters"):
        make_policy(UNEQUAL, owner_tables(3)[method]).set_phase(phase)


@pytest.mark.parametrize("phase", PHASES)
def test_the_phase_travels_with_the_weights(phase):
    policy = make_policy(UNEQUAL, owner_tables(3)["lora"])
    policy.set_phase(phase)
    other = TeamPolicy(policy.config).double()
    other.load_state_dict(policy.state_dict())
    obs = random_obs(UNEQUAL, 4)
    assert other.phase == phase
    assert [p.requires_grad for p in other.parameters()] == [p.requires_grad for p in policy.parameters()]
    torch.testing.assert_close(outputs(other.distribution(obs)), outputs(policy.distribution(obs)), rtol=0, atol=0)


def test_an_inference_policy_has_no_critic_and_answers_alike():
    policy = make_policy(UNEQUAL, owner_tables(3)["lora"])
    acting = TeamPolicy(policy.config, inference_only=True).double()
    state = policy.state_dict()
    left_out = {name for name in state if name.startswith(("critic.", "value_norm."))}
    acting.load_state_dict({name: value for name, value in state.items() if name not in left_out})
    assert left_out and not hasattr(acting, "critic") and not hasattr(acting, "value_norm")
    obs = random_obs(UNEQUAL, 4)
    torch.testing.assert_close(outputs(acting.distribution(obs)), outputs(policy.distribution(obs)), rtol=0, atol=0)


@pytest.mark.parametrize("method", ["lora", "role"])
@pytest.mark.parametrize("phase", PHASES)
def test_the_acting_actor_answers_like_the_policy_in_every_phase(phase, method):
    policy = make_policy(UNEQUAL, owner_tables(3)[method])
    policy.set_phase(phase)
    obs, roles = random_obs(UNEQUAL, 4), torch.tensor([[0, 1, 2]]).expand(4, 3)
    acting = policy.acting().step(obs, roles=roles)[0]
    expected = outputs(policy.distribution(obs, roles=roles))
    torch.testing.assert_close(outputs(acting), expected, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=5)
@given(data=st.data())
def test_a_config_survives_json(method, data):
    config = data.draw(policies(method)).config
    again = PolicyConfig.from_dict(json.loads(json.dumps(config.to_dict())))
    assert again == config
    shapes = [{name: p.shape for name, p in TeamPolicy(c).state_dict().items()} for c in (config, again)]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize(
    ("owners", "options"), [("nps", {}), ("ps", {"shared_reward": False})], ids=["a critic each", "a reward each"]
)
def test_one_value_per_step_needs_one_critic_and_a_shared_reward(owners, options):
    spec = team((4, 2, 3), (2, 3, 1), **options)
    with pytest.raises(ValueError, match="critic_input='agent_state'"):
        TeamPolicy(PolicyConfig(spec, owner_tables(3)[owners], critic_input="state"))


@pytest.mark.parametrize(
    "bad",
    [{"hidden_size": 0}, {"num_layers": 0}, {"activation": "gelu"}, {"id_features": "x"}, {"distribution": "beta"}],
)
def test_network_settings_out_of_range_are_refused_by_name(bad):
    (name,) = bad
    with pytest.raises(ValueError, match=name):
        NetworkConfig(**bad)


def test_ids_and_several_backbones_do_not_go_with_routing_by_role():
    owners = owner_tables(3)["role"]
    with pytest.raises(ValueError, match="id_features='none'"):
        TeamPolicy(PolicyConfig(UNEQUAL, owners, LoRAConfig(), NetworkConfig(id_features="one_hot")))
    several = Owners("x", (0, 1, 1), routed_by="role", num_adapters=3)
    with pytest.raises(ValueError, match="one shared backbone"):
        TeamPolicy(PolicyConfig(UNEQUAL, several))


@pytest.mark.parametrize(
    ("lora", "message"),
    [
        ({"rank_pattern": {"mpl.*": 2}}, r"rank_pattern: 'mpl\.\*' matches no layer"),
        ({"target_modules": ("mlp.7",)}, r"target_modules: 'mlp\.7' matches no layer"),
        ({"target_modules": ()}, "leaves adapters without any parameter"),
        ({"target_modules": ("feature_norm",)}, "leaves adapters without any parameter"),
    ],
)
def test_placements_that_mean_nothing_are_refused(lora, message):
    with pytest.raises(ValueError, match=message):
        PolicyConfig(UNEQUAL, owner_tables(3)["lora"], LoRAConfig(**lora), critic_input="agent_state")
    PolicyConfig(UNEQUAL, owner_tables(3)["ps"], LoRAConfig(**lora), critic_input="agent_state")  # no adapters to place


def test_what_only_some_networks_have_can_be_all_that_is_adapted():
    norms = LoRAConfig(target_modules=("feature_norm",), adapt_norm=True)
    policy = TeamPolicy(PolicyConfig(UNEQUAL, owner_tables(3)["lora"], norms, critic_input="agent_state"))
    assert policy.parameters_of("adapters")
    with pytest.raises(ValueError, match="leaves adapters without any parameter"):  # choices have no deviation
        PolicyConfig(
            team((4, 2), (2, 2), continuous=False), owner_tables(2)["lora"], LoRAConfig(target_modules=("log_std",))
        )
