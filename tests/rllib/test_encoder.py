"""`.network(encoder=)`: algorithms train with one, runner and learner see the same, checkpoints bring it back."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
from torch import nn

from lorasa_rllib import MAPPO, MAPPOConfig, load_policy
from lorasa_rllib.nn import encoder_classes
from lorasa_rllib.nn.policy import PolicyConfig
from lorasa_rllib.rllib.initial_weights import check_same_network
from lorasa_rllib.rllib.module import MODULE_ID
from lorasa_rllib.rllib.plan import owners_of_team, policy_of
from lorasa_rllib.rllib.runner import TeamEnvRunner
from lorasa_rllib.rllib.sampled import shards_of_learners
from tests.encoders import MIXER, Mixer, Pixels
from tests.envs import games
from tests.rllib.test_sampling import distinct_adapters, log_probs_of_learner

PICTURES = {"env": games.Pictures}
SMALL = {"channels": (4, 8), "features": 16}
CASES = {
    "rows": ("synthetic", None, {"encoder": Mixer, "encoder_settings": {"width": 6}}),
    "cnn": ("pettingzoo", PICTURES, {"encoder": "cnn", "encoder_settings": SMALL}),
    "own convolution, by name": ("pettingzoo", PICTURES, {"encoder": "tests.encoders:Pixels"}),
    "state of its own": ("pettingzoo", {"env": games.PicturesFromAbove}, {"encoder": Pixels}),
    "recurrent": ("pettingzoo", PICTURES, {"encoder": Pixels, "recurrent": True, "critic_recurrent": True}),
}


def encoding(small_config, case, **kwargs):
    env, env_config, network = CASES[case]
    return small_config(env, env_config, **kwargs).network(**network).training(chunk_length=8)


def encoders(algo):
    return {name: np.array(w) for name, w in algo.get_weights()[MODULE_ID].items() if "encoder" in name}


@pytest.mark.parametrize("algorithm", ["MAPPO", "A2PO"])
@pytest.mark.parametrize("case", CASES)
def test_trains_freezes_saves_and_restores(small_config, build, tmp_path, case, algorithm):
    algo = build(encoding(small_config, case, algorithm=algorithm))
    seen = [encoders(algo)]
    for _ in range(3):  # the switch comes after two
        result = algo.train()
        seen.append(encoders(algo))
    assert result["phase"] == "adapters"
    assert np.isfinite(list(result["learners"][MODULE_ID].values())).all()
    actor = [name for name in seen[0] if name.startswith("policy.actor") and not name.endswith(("fixed", "offset"))]
    assert actor and all((seen[0][name] != seen[2][name]).any() for name in actor)
    assert all((seen[2][name] == seen[3][name]).all() for name in actor)
    restored = type(algo).from_checkpoint(algo.save_to_path(str(tmp_path / "checkpoint")))
    for name, weight in encoders(algo).items():
        np.testing.assert_array_equal(weight, encoders(restored)[name])
    restored.stop()
    obs = algo.env_runner.sample()[0].shards[0].to("cpu").obs[0].numpy()
    loaded, saved = (load_policy(path) for path in (tmp_path / "checkpoint", algo.save_policy(tmp_path / "policy")))
    np.testing.assert_array_equal(loaded.act(obs)[0], saved.act(obs)[0])


@pytest.mark.parametrize("phase", ["backbone", "joint"])
@pytest.mark.parametrize("case", CASES)
def test_log_probs_and_values_on_the_learner_equal_those_of_the_runner(small_config, case, phase):
    config = encoding(small_config, case)
    learner = config.build_learner(spaces=config.spaces())
    distinct_adapters(learner.policy)
    learner.policy.set_phase(phase)
    runner = TeamEnvRunner(config=config, worker_index=0)
    runner.make_env()
    weights = learner.get_state(components="rl_module", inference_only=True)
    runner.set_state({"rl_module": weights["rl_module"], "weights_seq_no": 1})
    for _ in range(2):
        rollout = shards_of_learners([runner.sample()[0]]).rollout(timeout_s=1).to("cpu")
        log_probs_of_learner(learner.policy, rollout, config)
    runner.stop()


def test_env_runners_elsewhere_know_the_class_even_if_only_this_process_defines_it(small_config, build):
    """Workers cannot import a class of a script or a notebook; it travels with the config."""

    class Own(Mixer):
        pass

    Own.__module__, Own.__qualname__ = "__main__", "Own"
    config = small_config().network(encoder=Own).env_runners(num_env_runners=1)
    assert build(config).train()["env_runners"]["num_env_steps_sampled"] == 64


def test_a_run_can_begin_with_the_backbone_and_encoder_of_another(small_config, build, tmp_path, monkeypatch):
    algo = build(encoding(small_config, "rows"))
    algo.train()
    algo.save_policy(tmp_path / "policy")
    monkeypatch.setattr(encoder_classes, "_given", {})  # as in another process
    network = {"encoder": MIXER, "encoder_settings": {"width": 6}}
    begun = build(small_config(backbone=str(tmp_path / "policy"), phase_switch=0).network(**network))
    for name, weight in encoders(algo).items():
        np.testing.assert_array_equal(weight, encoders(begun)[name])


def test_backbones_are_refused_for_what_their_encoder_means_and_for_nothing_else(small_config):
    def plan(**network):
        config = encoding(small_config, "cnn").network(**network)
        return policy_of(config, owners_of_team(config))

    written = PolicyConfig.from_dict(json.loads(json.dumps(plan().to_dict())))  # tuples are lists now
    for same in ({}, {"encoder_settings": SMALL | {"scale": 1 / 255}}, {"obs_clip": 10.0}):  # pictures are not clipped
        check_same_network("it", written, plan(**same))
    with pytest.raises(ValueError, match=r"with encoder_settings=.*network\(encoder_settings="):
        check_same_network("it", written, plan(encoder_settings=SMALL | {"scale": 1.0}))


def test_the_cnn_learns_to_read_pictures(build):
    """Agents earn their place on the line: to the right is best, which plays 12 steps at 4.2 after a random start."""
    config = MAPPOConfig().environment("pettingzoo", env_config=PICTURES).sharing("ps")
    config.network(encoder="cnn", encoder_settings=SMALL).debugging(seed=0, log_level="ERROR")
    algo = build(config.training(train_batch_size=480, num_epochs=4, lr=3e-3))
    returns = [algo.train()["env_runners"]["episode_return_mean"] for _ in range(6)]
    assert returns[-1] > 1.3 * returns[0], returns


def test_a_config_travels_with_its_encoder():
    config = MAPPOConfig().network(encoder=Mixer, encoder_settings={"width": 3})
    again = pickle.loads(pickle.dumps(config))
    assert again.network_settings["encoder"] is Mixer
    assert "encoder_settings" not in config.network(encoder="cnn").network_settings
    assert config.network(encoder=None).network_settings["encoder"] is None


class Wrong(nn.Module):
    def __init__(self, shape, width):
        super().__init__()


def test_what_cannot_work_is_refused_before_anything_is_built(small_config):
    for given, remedy in (
        ({"encoder": Wrong}, "called as Encoder"),
        ({"encoder": "cnn"}, "reads images"),
        ({"encoder": "nowhere:Encoder"}, "cannot be imported"),
        ({"encoder_settings": {"width": 3}}, "need an encoder"),
    ):
        with pytest.raises(ValueError, match=remedy):
            small_config().network(**given).validate()
    for given, remedy in (({"encoder": "resnet"}, "one of"), ({"encoder": nn.Linear(2, 2)}, "hand over its class")):
        with pytest.raises(ValueError, match=remedy):
            small_config().network(**given)
    with pytest.raises(ValueError, match=r"target_modules: 'encoder\.\*' matches no layer"):
        small_config(target_modules=("encoder.*",)).network(encoder=Mixer).validate()


def test_the_old_way_to_read_pictures_is_as_it_was(small_config, build):
    """Without an encoder, images are rows of numbers, normalised by running statistics."""
    algo = build(small_config("pettingzoo", PICTURES))
    assert isinstance(algo, MAPPO) and not encoders(algo)
    assert any(name.startswith("policy.actor.obs_norm") for name in algo.get_weights()[MODULE_ID])
