"""How long do a training iteration and a learner step take?

Compared   ours in LoRASA's adapter phase | ours with the plain shared policy | RLlib's stock PPO; then ours with the
           published recurrent networks (GRU in actor and critic, chunks of 10 steps) in both phases
Method     HalfCheetah 6x1, 4,000 environment steps (24,000 agent rows), five epochs of one minibatch of all rows, two
           hidden layers of 64, one process, one thread; all alternate; median and range
Run        python benchmarks/learning_step.py [--json FILE]                   about 3 minutes
           with --small, --algorithm a2po or --device cuda other tables: see benchmarks/small_batches.py, sequential.py
           and on_device.py
Expect     an iteration at least 4 times as fast as stock; adapters at most 1.2 times the plain shared policy,
           recurrent at most 1.3 times
Recorded   docs/performance.md
"""

from __future__ import annotations

import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.timing import alternate, arguments, report, spread


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--num-envs", type=int, default=16)
    parser.add_argument("--train-batch", type=int, default=4000)
    parser.add_argument("--algorithm", choices=["mappo", "a2po"], default="mappo", help="a2po: see sequential.py")
    parser.add_argument("--memory-of", type=int, nargs=2, help="a2po: agents and steps to measure in this process")
    parser.add_argument("--small", action="store_true", help="small minibatches, without Ray: see small_batches.py")
    parser.add_argument("--device", help="such as cuda: compares it with the CPU, without Ray; see on_device.py")
    options = parser.parse_args()
    if options.small:
        from benchmarks import small_batches

        small_batches.main(options)
        return
    if options.device:
        from benchmarks import on_device

        on_device.main(options)
        return
    from benchmarks import sequential
    from benchmarks.ours import Team, team_config
    from benchmarks.stock import StockTrainer, stock_ppo_config

    if options.algorithm == "a2po":
        sequential.main(options)
        return
    config = team_config("HalfCheetah", "6x1", options.num_envs, options.train_batch)
    lora, shared = Team(config, "adapters"), Team(config, "backbone")
    stock = StockTrainer(
        stock_ppo_config("HalfCheetah", "6x1", num_envs=options.num_envs, train_batch=options.train_batch)
    )
    iterations = alternate(
        {"ours, LoRASA": lora.iteration, "ours, PS": shared.iteration, "RLlib stock PPO": stock.iterate},
        options.repeats,
    )
    lora_data, shared_data = lora.sample(), shared.sample()
    learning = alternate(
        {"ours, LoRASA": lambda: lora.learn(lora_data), "ours, PS": lambda: shared.learn(shared_data)},
        4 * options.repeats,
    )
    published = config.copy(copy_frozen=False).network("published")
    lora, shared = Team(published, "adapters"), Team(published, "backbone")
    recurrent = alternate({"ours, LoRASA": lora.iteration, "ours, PS": shared.iteration}, options.repeats)
    rows = []
    for what, seconds, base in (
        ("iteration", iterations, "RLlib stock PPO"),
        ("learner step", learning, "ours, PS"),
        ("recurrent iteration", recurrent, "ours, PS"),
    ):
        against = statistics.median(seconds[base])
        rows += [
            {
                "what": what,
                "who": name,
                "seconds": spread(values),
                "speed-up": against / statistics.median(values),
                "compared_with": base,
            }
            for name, values in seconds.items()
        ]
    report(f"HalfCheetah 6x1, {options.train_batch:,} environment steps, 5 epochs", rows, options.json)


if __name__ == "__main__":
    main()
