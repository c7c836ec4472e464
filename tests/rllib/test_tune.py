"""Ray Tune: schedulers, exploited trials, and restored experiments."""

from __future__ import annotations

import numpy as np
import pytest
from ray import tune
from ray.tune.schedulers import ASHAScheduler, PopulationBasedTraining

METRIC = "env_runners/episode_return_mean"


def test_asha_over_rank_and_switch_step_finishes(small_config, tmp_path):
    config = small_config(r=tune.grid_search([1, 3]), phase_switch=tune.choice([64, 128]))
    results = tune.Tuner(
        "MAPPO",
        param_space=config,
        tune_config=tune.TuneConfig(
            metric=METRIC,
            mode="max",
            scheduler=ASHAScheduler(time_attr="num_env_steps_sampled_lifetime", max_t=320, grace_period=128),
        ),
        run_config=tune.RunConfig(storage_path=str(tmp_path), verbose=0, stop={"num_env_steps_sampled_lifetime": 320}),
    ).fit()
    assert len(results) == 2 and not results.errors
    assert results.get_best_result().metrics["num_env_steps_sampled_lifetime"] >= 128
    assert {r.config["r"] for r in results} == {1, 3}


def weights_on_runner(trial_folder) -> dict[str, np.ndarray]:
    from lorasa_rllib import MAPPO

    algo = MAPPO.from_checkpoint(trial_folder)
    try:
        return algo.env_runner.module["shared_policy"].get_state()
    finally:
        algo.stop()


@pytest.mark.timeout(600)
def test_pbt_exploits_and_the_exploited_trial_goes_on_with_its_donors_rank_and_weights(small_config, tmp_path):
    # Trials differ in rank; one learning rate is hopeless, so that its trial must be exploited.
    config = small_config(r=tune.sample_from(lambda spec: 1 + 2 * (spec.config["lr"] > 0)), phase_switch=64)
    config.lr = tune.grid_search([0.0, 1e-2])
    for attempt in range(2):  # now and then Ray's synchronous scheduler leaves both trials paused for good (2.60)
        scheduler = PopulationBasedTraining(
            time_attr="training_iteration",
            perturbation_interval=3,
            quantile_fraction=0.5,
            hyperparam_mutations={"phase_switch": [64, 128]},
            synch=True,
        )
        results = tune.Tuner(
            "MAPPO",
            param_space=config,
            tune_config=tune.TuneConfig(
                metric=METRIC, mode="max", scheduler=scheduler, reuse_actors=False, time_budget_s=200
            ),
            run_config=tune.RunConfig(
                storage_path=str(tmp_path / str(attempt)), verbose=0, stop={"training_iteration": 7}
            ),
        ).fit()
        if all((result.metrics or {}).get("training_iteration") == 7 for result in results):
            break
    assert not results.errors and scheduler._num_perturbations > 0
    assert [result.metrics["training_iteration"] for result in results] == [7, 7]
    ranks = {result.config["r"] for result in results}
    assert len(ranks) == 1, "the exploited trial took over its donor's rank"
    for result in results:
        assert result.metrics["phase"] == "adapters"
        adapters = [v for n, v in weights_on_runner(result.checkpoint.path).items() if n.endswith("lora_A")]
        assert all(v.shape[1] == ranks.copy().pop() for v in adapters)
