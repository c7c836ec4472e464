"""E battles of SMAX as three compiled functions of arrays. Import only after `jax_setup.import_jax`."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, TypeAlias

import jax
import jax.numpy as jnp

if TYPE_CHECKING:
    from jax import Array
    from jaxmarl.environments.smax import HeuristicEnemySMAX
    from jaxmarl.environments.smax.smax_env import State

Carry: TypeAlias = "tuple[Array, State, object, Array]"
"""Random key, game state, the scripted enemy's memory and observations."""

Seen: TypeAlias = "tuple[Array, Array, Array, Array, Array]"
"""obs [E, N, o], state [E, S] or [E, N, S], active bool [E, N], masks bool [E, N, actions], roles [E, N]."""


class Battles:
    """Batched battles of the package: `begin(seeds)`, `step(carry, actions)`, `renew(carry, places)`.

    A carry holds the random keys, game states, and the scripted enemy's memory and observations of E battles. The
    package recomputes these observations in every step although the previous step already did; apart from that, results
    are identical. library: a `HeuristicEnemySMAX`. kind, death_mask: `state` and `death_mask` of `SMAXTeam`.
    """

    def __init__(self, library: HeuristicEnemySMAX, kind: str, death_mask: bool):
        self.library, self._kind, self._death_mask = library, kind, death_mask
        seen = jax.eval_shape(lambda seed: self._begin(seed)[1], jnp.uint32(0))
        self.state_size = seen[1].shape[-1]
        self.begin = jax.jit(jax.vmap(self._begin))
        self.step = jax.jit(jax.vmap(self._step))
        self.renew = jax.jit(self._renew)

    # One battle

    def _begin(self, seed: Array) -> tuple[Carry, Seen]:
        return self._fresh(jax.random.PRNGKey(seed))

    def _fresh(self, key: Array) -> tuple[Carry, Seen]:
        key, now = jax.random.split(key)
        of_policy, of_battle = jax.random.split(now)
        obs, units = self.library._env.reset(of_battle)
        memory = self.library.get_enemy_policy_initial_state(of_policy)
        return _strong((key, units, memory, self._of_enemies(obs))), self._seen(obs, units)

    def _step(self, carry: Carry, actions: Array) -> tuple[Carry, Seen, Array, Array, Array, Array]:
        """actions int32 [N] -> carry, seen, reward, ended, truncated, won. Does not start the next battle."""
        library = self.library
        key, units, memory, of_enemies = carry
        key, now = jax.random.split(key)
        now, of_policy = jax.random.split(now)
        enemies, memory = library.get_enemy_actions(of_policy, memory, of_enemies)
        everyone = jnp.concatenate([actions, jnp.array([enemies[enemy] for enemy in library.enemy_agents])])
        decoded = library._env._decode_actions(now, units, everyone)
        obs, units, rewards, dones, _ = library._env.step_env_no_decode(now, units, decoded)
        alive, own = units.unit_alive, library.num_allies
        any_ally, any_enemy = alive[:own].any(), alive[own:].any()
        ended, reward = dones["__all__"], rewards[library.agents[0]]
        carry = _strong((key, units, memory, self._of_enemies(obs)))
        return carry, self._seen(obs, units), reward, ended, ended & any_ally & any_enemy, any_ally & ~any_enemy

    def _of_enemies(self, obs: dict[str, Array]) -> Array:
        return jnp.stack([obs[enemy] for enemy in self.library.enemy_agents])

    def _seen(self, obs: dict[str, Array], units: State) -> Seen:
        library, own = self.library, self.library.num_allies
        shown = jnp.stack([obs[agent] for agent in library.agents])
        masks = library._env.get_avail_actions(units)
        masks = jnp.stack([masks[agent] for agent in library.agents]).astype(bool)
        state = self._state(obs["world_state"], shown, units)
        return shown, state, units.unit_alive[:own], masks, units.unit_types[:own].astype(jnp.int32)

    # What the critic sees

    def _state(self, world: Array, obs: Array, units: State) -> Array:
        library = self.library
        count, features = library.num_allies + library.num_enemies, len(library.own_features)
        size = jnp.array([library.map_width, library.map_height])
        # The package's world state without its redundant team and type columns; positions as fractions of the map size.
        table = world[: count * features].reshape(count, features)
        table = table.at[:, 1:3].divide(size)
        if self._kind == "global":
            return table.reshape(-1)
        if self._kind == "agent":
            views = jnp.concatenate([jnp.tile(table.reshape(1, -1), (library.num_allies, 1)), obs], axis=1)
        else:
            views = jax.vmap(partial(self._around, table, units, size))(jnp.arange(library.num_allies))
        if self._death_mask:
            views = jnp.where(units.unit_alive[: library.num_allies, None], views, 0.0)
        return jnp.concatenate([views, jnp.eye(library.num_allies)], axis=1)

    def _around(self, table: Array, units: State, size: Array, agent: Array) -> Array:
        """All units relative to one agent: offsets from it, last actions, whether it sees them; its own position."""
        library, alive = self.library, units.unit_alive
        offset = units.unit_positions - units.unit_positions[agent]
        near = jnp.linalg.norm(offset, axis=-1) < library.unit_type_sight_ranges[units.unit_types[agent]]
        centred = table.at[:, 1:3].set(offset / size)
        targets = units.prev_attack_actions / max(library.num_ally_actions, library.num_enemy_actions)
        rows = jnp.concatenate([centred, units.prev_movement_actions, targets[:, None], near[:, None]], axis=1)
        rows = jnp.where(alive[:, None], rows, 0.0)
        return jnp.concatenate([rows.reshape(-1), table[agent, 1:3]])

    # Some of the battles

    def _renew(self, carry: Carry, places: Array) -> tuple[Carry, Seen]:
        """Starts new battles at indices `places`, int32 [k], each from its index's random key; ignores indices >= E.

        Returns the carry of all E battles, and what is seen of the k new ones.
        """
        keys = carry[0].at[places].get(mode="clip")
        fresh, seen = jax.vmap(self._fresh)(keys)
        return jax.tree.map(lambda old, new: old.at[places].set(new, mode="drop"), carry, fresh), seen


def _strong(tree: Carry) -> Carry:
    """Removes JAX's weak types, so that all functions use the same carry types and each compiles only once."""
    return jax.tree.map(lambda x: jnp.asarray(x).astype(jnp.result_type(x)), tree)
