"""What docstrings do not say of a setting: its usual range, and when to change it. `settings_page` adds the rest."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Advice:
    """usual: values that work on most tasks. when: to change it. allowed, what: where code does not say them."""

    usual: str
    when: str
    allowed: str = ""
    what: str = ""


PATHS = "a path or URI, or None"
NOT_OFTEN = "Rarely."

ADVICE: dict[str, dict[str, Advice]] = {
    "sharing": {
        "method": Advice(
            "`lora`", "Start with `ps` and `lora`; `nps` is the expensive upper reference of small teams."
        ),
        "schedule": Advice(
            "`joint`, or `two_phase` with a budget", "Try `joint` where the switch would come before agents can play."
        ),
        "total_env_steps": Advice(
            "the length of your run", "Set it whenever you know it: fractions and decays need it."
        ),
        "phase_switch": Advice("0.2 to 0.6", "Later where the shared policy is still poor when it freezes."),
        "adapter_key": Advice(
            "`agent`",
            "`role` where agents change what they are (unit types), a table where agents come in kinds.",
            "`agent`, `role`, a table of adapters, or a function of a `TeamStep`",
        ),
        "num_adapters": Advice("None", "With a function as `adapter_key`, or to leave room for more roles."),
        "groups": Advice("None", "When you know the groups of SePS.", "a number for every agent, or None"),
        "r": Advice("4 to 16", "Raise it where agents must differ much, lower it for very large teams."),
        "lora_alpha": Advice("equal to `r`", "Keep it at `r` when you change `r`, so that the scale stays."),
        "use_rslora": Advice("False", "With ranks from 32 on."),
        "init_lora_weights": Advice("`lorasa`", "To start as PEFT does.", "`lorasa` or `peft`"),
        "target_modules": Advice(
            "all layers", "To save numbers: `('head', 'log_std')` alone.", "patterns of layer names"
        ),
        "rank_pattern": Advice(
            "{}", "Where one layer needs more rank than others.", "patterns of layer names and ranks"
        ),
        "adapt_bias": Advice("False", NOT_OFTEN),
        "adapt_norm": Advice("False", NOT_OFTEN),
        "backbone_lr_scale": Advice("0.3 to 1", "Where joint training is unstable (lower) or slow (higher)."),
        "adapter_lr_scale": Advice(
            "0.3 to 10", "Lower it where each adapter sees few rows (roles in battles), raise it where adapters lag."
        ),
        "backbone": Advice("None", "To specialise a team from a policy that is already trained.", PATHS),
        "adapters": Advice("None", "To continue from adapters of another run.", f"{PATHS}, or name -> folder"),
        "fork_from": Advice("None", "To try several continuations of one run.", PATHS),
    },
    "network": {
        "preset": Advice(
            "`normalised` for MuJoCo, None elsewhere", "`published` for partial observability, or to match the paper."
        ),
        "hidden_size": Advice("64 to 256", "Raise it for many features or many different agents."),
        "num_layers": Advice("2 or 3", NOT_OFTEN),
        "activation": Advice("`relu`", NOT_OFTEN),
        "obs_norm": Advice(
            "`running` for physical quantities, `layer` elsewhere",
            "`running_team` where a feature means the same to all agents; None where scale matters and is sane.",
        ),
        "obs_clip": Advice("3 to 10", "Raise it where extreme values carry information."),
        "layer_norm": Advice("True", NOT_OFTEN),
        "recurrent": Advice(
            "False", "Where one observation does not tell enough: it costs about three times the time."
        ),
        "critic_recurrent": Advice("as `recurrent`", "False where the global state tells all."),
        "post_layers": Advice("1", NOT_OFTEN, what="Hidden layers after the GRU, post.0 ..."),
        "id_features": Advice("`auto`", "`none` to see what adapters do without ids."),
        "distribution": Advice(
            "`gaussian`", "`squashed_gaussian`, as published, where actions at their bounds do harm: it explores less."
        ),
        "head_gain": Advice("0.01", NOT_OFTEN),
        "initial_log_std": Advice("None", "Lower for precise control, higher where exploration fails."),
        "encoder": Advice(
            "None, `cnn` for images",
            "For images, and for observations with a structure of their own, see [your own "
            "encoder](how_to/own_encoder.md).",
            "`cnn`, a subclass of `torch.nn.Module`, its `module:name`, or None",
        ),
        "encoder_settings": Advice(
            "{}", "To change the encoder's size.", "keyword arguments: numbers, words and lists of these"
        ),
    },
    "training": {
        "lr": Advice(
            "1e-4 to 2e-3, `('linear', 3e-4)`", "Lower when mean_kl_loss stays above 0.05, raise below 0.001."
        ),
        "critic_lr": Advice("None, or up to 3 times `lr`", "Raise it when vf_explained_var stays low."),
        "entropy_coeff": Advice("0 to 0.01", "Raise it for discrete actions that settle too early."),
        "gamma": Advice(
            "0.95 to 0.995",
            "Higher for rewards that come late; 0 where steps are independent.",
            what="Discount of rewards.",
        ),
        "lambda_": Advice("0.9 to 0.97", "Lower where returns are noisy.", what="Of generalised advantage estimation."),
        "clip_param": Advice(
            "0.05 to 0.2",
            "Lower with many passes or large teams.",
            what="How far a probability ratio may move from 1 before its gradient stops.",
        ),
        "vf_clip_param": Advice("0.2", "None where the critic lags."),
        "vf_loss_coeff": Advice("0.5 to 1", NOT_OFTEN, what="Weight of the value loss."),
        "grad_clip": Advice("0.5 to 10", "0.5 with small minibatches."),
        "huber_delta": Advice("10", NOT_OFTEN),
        "target_kl": Advice(
            "0.01 to 0.05, or None", "None if every pass should be made, as published; lower if returns fall again."
        ),
        "adam_epsilon": Advice("1e-8 to 1e-5", NOT_OFTEN),
        "num_epochs": Advice(
            "3 to 15",
            "Raise it where environment steps are dear, lower it when returns fall again.",
            what="Passes over every batch.",
        ),
        "minibatch_size": Advice(
            "`auto`: about 500 of 4,000", "Smaller learns from fewer environment steps, and takes longer."
        ),
        "train_batch_size": Advice("2,000 to 8,000", "Larger for long episodes, sparse rewards or many runners."),
        "train_batch_size_per_learner": Advice("None", "When scripts of yours count per learner."),
        "chunk_length": Advice("10", "Longer where memory must reach further; recurrent networks only."),
        "critic_input": Advice(
            "None", "`agent_state` where agents contribute differently.", "`state`, `agent_state` or None"
        ),
        "joint_ratio": Advice("False", "To compare with other libraries, which clip whole actions."),
        "vf_active_only": Advice("False", "Where agents die early and stay dead."),
        "use_kl_loss": Advice(
            "False", "Never: kept because PPO has it.", "False", "RLlib's KL penalty; not supported."
        ),
        "obs_norm_in_adapter_phase": Advice("False", "Where observations still change much after the switch."),
        "policy_loss": Advice(
            "None",
            "To try another objective, see [your own loss](how_to/own_loss.md).",
            allowed="a function, or None for PPO's clipped loss",
        ),
        "recompute_advantages": Advice("False", "With many passes, where sampling is dear."),
        "compile": Advice("`auto`", "False to keep runs short of compile time; True on clusters of equal machines."),
        "reference": Advice("False", "To reproduce published numbers.", "True, False or `Quirks(...)`"),
        "agent_order": Advice("`semi_greedy`", NOT_OFTEN, "`semi_greedy`, `greedy`, `random`, `cyclic`, `reverse_...`"),
        "agents_per_step": Advice("1 to 8", "Raise it for large teams."),
        "update_loop": Advice("`agent`", "`epoch` as published for SMAC.", "`agent` or `epoch`"),
        "two_stage_critic": Advice("True", "False to save time."),
        "off_policy_correction": Advice(
            "`capped_factors`", "`capped_product` as published.", "`capped_factors`, `capped_product` or None"
        ),
        "others_clip": Advice("0.1", NOT_OFTEN),
        "clip_growth": Advice("0.5", "0 for the same range for everybody."),
    },
    "env_runners": {
        "num_env_runners": Advice(
            "0 for one process, then 2 per learner",
            "Raise it while sampling takes longer.",
            what="Remote processes that sample; 0: the driver samples itself.",
        ),
        "num_envs_per_env_runner": Advice(
            "8 to 64", "Raise it for quick environments.", what="Environments that one runner steps together."
        ),
        "rollout_fragment_length": Advice(
            "`auto`", NOT_OFTEN, what="Steps of each environment in an iteration; `auto`: the batch is shared out."
        ),
        "sample_ahead": Advice(
            "False", "True where runners and learners wait for each other; sampling is then one update late."
        ),
        "sample_timeout_s": Advice(
            "300",
            "Raise it for slow environments.",
            what="Seconds of a round after which a runner counts as hanging and is restarted.",
        ),
        "explore": Advice("True", NOT_OFTEN, what="Sample actions; False: take the likeliest."),
        "num_cpus_per_env_runner": Advice("1", "Raise it for simulators with threads.", what="CPUs Ray reserves."),
        "num_gpus_per_env_runner": Advice("0", "For environments that live on a GPU.", what="GPUs Ray reserves."),
        "custom_resources_per_env_runner": Advice(
            "{}", "To place runners by a resource of yours.", "name -> amount", "Ray resources that each runner needs."
        ),
        "create_local_env_runner": Advice("True", NOT_OFTEN, what="Keep a runner in the driver beside remote ones."),
        "create_env_on_local_worker": Advice("False", NOT_OFTEN, what="That runner has an environment, too."),
        "env_runner_cls": Advice(
            "TeamEnvRunner",
            "Only for a runner of your own.",
            "a subclass of `TeamEnvRunner`",
            "The class of env runners.",
        ),
    },
}
