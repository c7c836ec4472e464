"""Random teams, policies and rollouts. Every parameter is random, non-zero and distinct per owner."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torch import Tensor, nn

from lorasa_rllib.learning.gae import gae, td_errors
from lorasa_rllib.learning.reference import REFERENCE
from lorasa_rllib.nn.actor import Actor
from lorasa_rllib.nn.bank import LoRAConfig
from lorasa_rllib.nn.distributions import Categorical, Categoricals
from lorasa_rllib.nn.network import OBS_NORMS, NetworkConfig
from lorasa_rllib.nn.obs_norm import RunningNorm
from lorasa_rllib.nn.policy import PolicyConfig, TeamPolicy
from lorasa_rllib.rollout.columns import TeamRollout
from lorasa_rllib.spec import Owners, TeamSpec

ROLES = 3


def owner_tables(agents: int) -> dict[str, Owners]:
    """One owner table of every kind for a team of at least two agents."""
    one, each = (0,) * agents, tuple(range(agents))
    groups = tuple(n % 2 for n in each)
    return {
        "ps": Owners("ps", one),
        "lora": Owners("lora", one, adapter_of=each),
        "lora_groups": Owners("lora", one, adapter_of=groups[::-1]),
        "lora_one_for_all": Owners("lora", one, adapter_of=one),
        "lora_with_spares": Owners("lora", one, adapter_of=each, num_adapters=agents + 2),
        "lora_reversed": Owners("lora", one, adapter_of=each[::-1]),
        "nps": Owners("nps", each, critic_of=each),
        "nps_lora_one_for_all": Owners("nps_lora", each, adapter_of=one),
        "seps": Owners("seps", groups, critic_of=groups),
        "seps_lora": Owners("seps_lora", groups, adapter_of=each),
        "mtl": Owners("mtl", each, banked=("head", "log_std")),
        "role": Owners("lora", one, routed_by="role", num_adapters=ROLES),
        "role_single": Owners("lora", one, routed_by="role", num_adapters=1),
    }


METHODS = tuple(owner_tables(2))
ADAPTED = tuple(name for name, owners in owner_tables(2).items() if owners.num_adapters)
BY_AGENT = tuple(name for name, owners in owner_tables(2).items() if owners.routed_by == "agent")


def team(
    obs_sizes: tuple[int, ...], action_sizes: tuple[int, ...], continuous: bool = True, **options: Any
) -> TeamSpec:
    """A team with the given sizes; continuous actions are bounded by -1 and 1."""
    bounds = {name: tuple((b,) * d for d in action_sizes) for name, b in (("action_low", -1.0), ("action_high", 1.0))}
    return TeamSpec(
        agents=tuple(f"agent_{n}" for n in range(len(obs_sizes))),
        obs_sizes=obs_sizes,
        action_kind="continuous" if continuous else "discrete",
        action_sizes=action_sizes,
        **({"state_size": 3, "num_roles": ROLES} | (bounds if continuous else {}) | options),
    )


@st.composite
def teams(
    draw: Any, continuous: bool | None = None, min_agents: int = 2, max_agents: int = 4, **options: Any
) -> TeamSpec:
    n = draw(st.integers(min_agents, max_agents))
    obs_sizes = draw(st.one_of(st.tuples(*[st.integers(1, 5)] * n), st.integers(1, 5).map(lambda size: (size,) * n)))
    if continuous is None:
        continuous = draw(st.booleans())
    least = 1 if continuous else 2
    action_sizes = draw(
        st.one_of(st.tuples(*[st.integers(least, 4)] * n), st.integers(least, 4).map(lambda d: (d,) * n))
    )
    options = {"id_capacity": n + draw(st.sampled_from([0, 3]))} | options
    if not continuous and draw(st.booleans()):  # actions of several components
        components = st.lists(st.integers(1, 3), min_size=1, max_size=3).map(tuple)
        options["choices"] = draw(st.one_of(st.tuples(*[components] * n), components.map(lambda each: (each,) * n)))
        action_sizes = tuple(map(sum, options["choices"]))
    return team(obs_sizes, action_sizes, continuous, **options)


@st.composite
def policies(draw: Any, method: str, spec: st.SearchStrategy[TeamSpec] | None = None, **config: Any) -> TeamPolicy:
    """Random policies of a sharing method in double precision; adapters are on where the method has any.

    distribution: the continuous head; recurrent: True for recurrent actors, with critics of both kinds.
    """
    spec = draw(teams() if spec is None else spec)
    owners = owner_tables(spec.num_agents)[method]
    lora = LoRAConfig(
        r=draw(st.integers(1, 4)),  # up to the dense fallback of small layers
        lora_alpha=draw(st.sampled_from([1.0, 3.0])),
        use_rslora=draw(st.booleans()),
        target_modules=draw(st.sampled_from([("*",), ("mlp.*", "log_std"), ("head",)])),
        rank_pattern=draw(st.sampled_from([{}, {"mlp.0": 2}, {"head": 1, "mlp.*": 3}])),
        adapt_bias=draw(st.booleans()),
        adapt_norm=draw(st.booleans()),
    )
    by_agent = owners.routed_by == "agent"
    recurrent = config.pop("recurrent", False)
    network = NetworkConfig(
        recurrent=recurrent,
        critic_recurrent=recurrent and draw(st.booleans()),
        post_layers=draw(st.integers(0, 1)) if recurrent else 1,
        hidden_size=draw(st.integers(3, 6)),
        num_layers=draw(st.integers(1, 2)),
        activation=draw(st.sampled_from(["relu", "tanh"])),
        obs_norm=draw(st.sampled_from(OBS_NORMS)),
        layer_norm=draw(st.booleans()),
        id_features=draw(st.sampled_from(["auto", "one_hot", "none"])) if by_agent else "auto",
        distribution=config.pop("distribution", None) or draw(st.sampled_from(["squashed_gaussian", "gaussian"])),
    )
    critic = draw(st.sampled_from(["state", "agent_state"]))
    return make_policy(spec, owners, lora, network, critic, seed=draw(st.integers(0, 1000)))


def make_policy(
    spec: TeamSpec,
    owners: Owners,
    lora: LoRAConfig | None = None,
    network: NetworkConfig | None = None,
    critic_input: Any = "state",
    seed: int = 0,
) -> TeamPolicy:
    """A random policy in double precision. Several critics, or a reward for each agent, read "agent_state"."""
    network = NetworkConfig(hidden_size=5) if network is None else network
    if owners.num_critics > 1 or not spec.shared_reward:
        critic_input = "agent_state"
    policy = TeamPolicy(PolicyConfig(spec, owners, lora or LoRAConfig(r=2), network, critic_input)).double()
    if owners.num_adapters:
        policy.set_phase("joint")
    return randomise(policy, seed)


def randomise(module: Any, seed: int = 0) -> Any:
    """Fills all parameters with distinct random numbers away from zero, and observation statistics, too."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            sign = torch.empty_like(parameter).normal_(generator=generator).sign()
            parameter.copy_(sign * torch.empty_like(parameter).uniform_(0.1, 0.9, generator=generator))
        for norm in (part for part in module.modules() if isinstance(part, RunningNorm)):
            norm.mean.normal_(generator=generator)
            norm.var.uniform_(0.02, 2, generator=generator)  # small enough to clip some
            norm.count.fill_(10.0)
    return module


def random_obs(spec: TeamSpec, *lead: int, seed: int = 0) -> Tensor:
    """[*lead, N, obs_size], zero where padded."""
    obs = torch.randn(*lead, spec.num_agents, spec.obs_size, generator=seeded(seed), dtype=torch.double)
    return obs * torch.as_tensor(spec.obs_mask())


def random_roles(owners: Owners, *lead: int, seed: int = 0) -> Tensor | None:
    """[*lead, N] where routing is by role; -1 and the first number beyond the bank (no adapter) among them."""
    if owners.routed_by == "agent":
        return None
    shape = (*lead, len(owners.backbone_of))
    return torch.randint(-1, owners.num_adapters + 1, shape, generator=seeded(seed))


def random_masks(spec: TeamSpec, *lead: int, seed: int = 0) -> Tensor | None:
    """[*lead, N, choices] of a discrete team: first choices are always available, others at random."""
    if spec.continuous:
        return None
    shape = (*lead, spec.num_agents, spec.action_size)
    masks = torch.rand(*shape, generator=seeded(seed)) < 0.6
    return masks | torch.as_tensor(spec.first_choices().any(0))  # of any agent, as others are shown its rows


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def outputs(distribution: Any) -> Tensor:
    """A distribution as one tensor [..., width] that two equal distributions share."""
    if isinstance(distribution, Categorical | Categoricals):
        return distribution.log_probs.clamp(min=-1e9)
    mean, std = torch.broadcast_tensors(distribution.mean, distribution.std)
    both = torch.stack([mean, std], dim=-1)
    return both if distribution.real is None else torch.where(distribution.real.unsqueeze(-1), both, 0.0)


def row_by_row(
    policy: TeamPolicy, obs: Tensor, agents: Tensor, roles: Tensor | None = None, masks: Tensor | None = None
) -> Tensor:
    """`outputs` of flat rows obs [R, obs_size], one row at a time with a dense weight `W_g + s B_k A_k` of its own."""
    config, actor, rows = policy.config, policy.actor, []
    for r, agent in enumerate(agents.tolist()):
        g = config.owners.backbone_of[agent]
        k = None
        if config.owners.num_adapters:
            k = config.owners.adapter_of[agent] if roles is None else int(roles[r])
            k = k if 0 <= k < config.owners.num_adapters else None
        rows.append(_one_row(config, actor, obs[r], agent, g, k, None if masks is None else masks[r]))
    return torch.stack(rows)


def _one_row(
    config: PolicyConfig, actor: Actor, obs: Tensor, agent: int, g: int, k: int | None, mask: Tensor | None
) -> Tensor:
    spec, network = config.spec, config.network

    def backbone(bank: Tensor) -> Tensor:
        return bank[g] if len(bank) > 1 else bank[0]

    def norm(layer: Any, x: Tensor) -> Tensor:
        gain, offset = backbone(layer.weight), backbone(layer.bias)
        if k is not None and hasattr(layer, "weight_delta"):
            gain, offset = gain + layer.weight_delta[k], offset + layer.bias_delta[k]
        return F.layer_norm(x, x.shape, gain[: len(x)], offset[: len(x)])

    def linear(layer: Any, x: Tensor) -> Tensor:
        y = backbone(layer.weight) @ x + backbone(layer.bias)
        if k is None or not layer.rank:
            return y
        if hasattr(layer, "bias_delta"):
            y = y + layer.bias_delta[k]
        seen = x  # an adapter has one id column, which is always on
        if layer.id_capacity:
            seen = torch.cat([x[: layer.in_size], x.new_ones(1)])
        if hasattr(layer, "delta"):
            return y + layer.delta[k] @ seen
        rank = layer.rank ** (0.5 if config.lora.use_rslora else 1.0)
        return y + config.lora.lora_alpha / rank * layer.lora_B[k] @ (layer.lora_A[k] @ seen)

    size = spec.obs_sizes[agent]
    x = obs[:size]
    if actor.obs_norm is not None:
        mean, var = actor.obs_norm.mean[agent, :size], actor.obs_norm.var[agent, :size]
        x = ((x - mean) / (var + 1e-8).sqrt()).clamp(-network.obs_clip, network.obs_clip)
    x = x if actor.feature_norm is None else norm(actor.feature_norm, x)
    x = F.pad(x, (0, spec.obs_size - size))
    if network.uses_ids(config.owners):
        x = torch.cat([x, F.one_hot(torch.tensor(agent), spec.id_capacity).to(x.dtype)])
    for layer in actor.mlp:
        x = getattr(torch, network.activation)(linear(layer, x))
        x = x if layer.norm is None else norm(layer.norm, x)
    x = linear(actor.head, x)
    real = torch.arange(spec.action_size) < spec.action_sizes[agent]
    if not spec.continuous:
        available = real if mask is None else real & mask
        if spec.choices:
            return _components(spec, agent, x, available)
        return torch.where(available, x.exp() / x[available].exp().sum(), 0.0).log().clamp(min=-1e9)
    log_std = backbone(actor.log_std.weight)
    if k is not None and hasattr(actor.log_std, "delta"):
        log_std = log_std + actor.log_std.delta[k]
    std = torch.sigmoid(log_std) / 2 if network.distribution == "squashed_gaussian" else log_std.exp()
    return torch.where(real.unsqueeze(-1), torch.stack([x, std], dim=-1), 0.0)


def _components(spec: TeamSpec, agent: int, x: Tensor, available: Tensor) -> Tensor:
    """Log-probabilities of the choices of one component after the other; one that is missing has a single choice."""
    found, start = [], 0
    for size in spec.choices[agent]:
        own = slice(start, start := start + size)
        chances = torch.where(available[own], x[own].exp() / x[own][available[own]].exp().sum(), 0.0)
        found.append(F.pad(chances, (0, spec.component_size - size)))
    single = F.one_hot(torch.tensor(0), spec.component_size).to(x.dtype)
    found += [single] * (spec.action_dims - len(found))
    return torch.cat(found).log().clamp(min=-1e9)


def advantages_of(
    rewards: Tensor,
    values: Tensor,
    next_values: Tensor,
    terminated: Tensor,
    ended: Tensor,
    gamma: float,
    lambda_: float,
    zeroed: Tensor | None = None,
) -> Tensor:
    """Generalised advantages from rewards and values. zeroed: steps cut by a time limit, as the published code does."""
    errors = td_errors(rewards, values, next_values, terminated, gamma)
    errors = errors if zeroed is None else REFERENCE.td_errors(errors, zeroed)
    return gae(errors, ended, gamma * lambda_)


def gradients(loss: Tensor, module: nn.Module) -> dict[str, Tensor]:
    """Gradient of every trained parameter by name, zero where the loss does not depend on it."""
    named = {name: p for name, p in module.named_parameters() if p.requires_grad}
    grads = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
    return {n: torch.zeros_like(p) if g is None else g for (n, p), g in zip(named.items(), grads, strict=True)}


def random_rollout(
    policy: TeamPolicy,
    steps: int,
    envs: int,
    seed: int = 0,
    dead: tuple[int, ...] = (),
    chunk_length: int = 2,
    noise: float = 0.2,
    absent_forget: bool = True,
) -> TeamRollout:
    """A rollout of numpy arrays in double precision with random deaths, terminations and truncations.

    Actions are drawn from the policy, log-probabilities are then disturbed by `noise`: ratios differ from 1.
    The agents `dead` never live. Recurrent networks start from zero states and forget at the ends of episodes; unless
    `absent_forget` is False, agents also forget while they are absent.
    """
    spec, owners, network = policy.config.spec, policy.config.owners, policy.config.network
    rng = np.random.default_rng(seed)
    obs = random_obs(spec, steps, envs, seed=seed)
    roles, masks = random_roles(owners, steps, envs, seed=seed), random_masks(spec, steps, envs, seed=seed)
    terminated = rng.random((steps, envs)) < 0.2
    truncated = ~terminated & (rng.random((steps, envs)) < 0.2)
    state = rng.standard_normal((steps + 1, envs, *spec.state_shape))
    keep = torch.as_tensor(np.concatenate([np.ones((1, envs), bool), ~(terminated | truncated)])).unsqueeze(-1)
    extra: dict[str, Any] = {}
    if network.critic_recurrent:
        extra["final_values"] = rng.standard_normal((truncated.sum(), policy.critic.num_values))
    final_index = rng.permutation(np.argwhere(truncated))
    active = rng.random((steps, envs, spec.num_agents)) < 0.7
    active[..., list(dead)] = False
    of_actor = keep.expand(-1, -1, spec.num_agents).clone()
    if absent_forget:
        of_actor[1:] &= torch.as_tensor(active)
    with torch.no_grad():
        distribution, states = policy.actor.unroll(
            obs, roles=roles, masks=masks, keep=of_actor[:-1], adapters=policy.adapters_on
        )
        actions = distribution.sample(seeded(seed))
        log_probs = distribution.log_prob(actions)
        if network.recurrent:
            extra["actor_state"] = _into_chunks(states, of_actor, chunk_length)
        if network.critic_recurrent:
            values, states = policy.critic.unroll(torch.as_tensor(state), keep=keep)
            extra |= {"values": values.numpy(), "critic_state": _into_chunks(states[:-1], keep, chunk_length)}
    disturbance = noise * torch.randn(log_probs.shape, generator=seeded(seed), dtype=torch.double)
    real = torch.as_tensor(spec.dims_mask())
    return TeamRollout(
        obs=obs.numpy(),
        state=state,
        actions=actions.numpy(),
        log_probs=(log_probs + disturbance * real).numpy(),
        rewards=rng.standard_normal((steps, envs, spec.reward_width)),
        terminated=terminated,
        truncated=truncated,
        active=active,
        final_index=final_index,
        final_obs=rng.standard_normal((len(final_index), spec.num_agents, spec.obs_size)),
        final_state=rng.standard_normal((len(final_index), spec.state_size)),
        masks=None if masks is None else masks.numpy(),
        roles=None if roles is None else roles.numpy(),
        **extra,
    )


def _into_chunks(after: Any, keep: Tensor, length: int) -> np.ndarray:
    """States after every step [T, E, ...] -> what is carried into the first step of every chunk, episodes forgotten."""
    into = torch.cat([torch.zeros_like(after[:1]), after[:-1]]) * keep[: len(after)].unsqueeze(-1)
    return into[::length].numpy()
