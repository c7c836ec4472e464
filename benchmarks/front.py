"""README's figure: speed, time to a return, size and returns in four panels, drawn only from recorded files.

Run        make results
Reads      results/performance/{sampling,peers_mujoco}.json, results/time_to_return/runs/*.csv,
           results/resources/resources.csv and the runs of the study "trained"
Recorded   results/front.png
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd

from lorasa_rllib.analysis.canvas import save
from lorasa_rllib.analysis.palette import styles
from lorasa_rllib.studies.methods import colours_of
from lorasa_rllib.studies.table import final_returns

RESULTS = Path(__file__).parents[1] / "results"
RACE = "HalfCheetah-2x3"
"""Task of the race to a return."""
NAMES = {"ps": "one shared\npolicy", "nps": "separate\npolicies", "lora": "LoRASA", "lora-joint": "LoRASA,\njoint"}


def draw(trained: pd.DataFrame, path: Path = RESULTS / "front.png") -> None:
    """trained: the curves of the study of that name."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 7), layout="constrained")
    (speed, race), (size, returns) = figure.subplots(2, 2, width_ratios=(1, 1.3))
    looks = styles(NAMES, colours_of(list(NAMES)))
    _speed(speed, looks)
    _race(race, looks)
    _size(size, looks)
    _returns(returns, final_returns(trained), looks)
    for panel in (speed, race, size, returns):
        panel.spines[["top", "right"]].set_visible(False)
        panel.title.set_size(11)
    save(figure, path)


def _speed(panel: Any, looks: Any) -> None:
    """Draws speeds relative to RLlib's stock path: sampling, and whole iterations beside TorchRL's, too."""
    files = {name: json.loads((RESULTS / "performance" / f"{name}.json").read_text())["rows"]
             for name in ("sampling", "peers_mujoco")}  # fmt: skip
    ours = [row for row in files["sampling"] if (row["task"], row["sampler"]) == ("HalfCheetah 6x1", "ours, LoRASA")]
    share = {row["who"]: row["share_of_ours_ps"] for row in files["peers_mujoco"]}
    iteration = {who: share[who] / share["rllib-ppo"] for who in ("ours-lora", "rllib-ppo", "torchrl-ppo")}
    bars = {
        "sampling": {
            "ours": max(row["times_stock"] for row in ours),
            "RLlib": 1,
        },  # with the best number of environments
        "a whole\niteration": dict(zip(("ours", "RLlib", "TorchRL"), iteration.values(), strict=True)),
    }
    colours = {"ours": looks["lora"]["color"], "RLlib": "#888888", "TorchRL": "#bbbbbb"}
    for place, group in enumerate(bars.values()):
        for k, (who, times) in enumerate(group.items()):
            at = place + 0.28 * (k - (len(group) - 1) / 2)
            panel.barh(at, times, height=0.26, color=colours[who])
            text = f"{who}: {times:.0f} x" if who == "ours" else f"{who}: {times:.1f}" if who == "TorchRL" else who
            panel.text(times + 0.15, at, text, va="center", fontsize=10)
    panel.set_yticks(range(len(bars)), list(bars))
    panel.invert_yaxis()
    panel.set_xlim(0, 1.3 * max(times for group in bars.values() for times in group.values()))
    panel.set_xlabel("speed, RLlib's stock path = 1\n(HalfCheetah 6x1, one core)")
    panel.set_title("Faster than RLlib and TorchRL")


def _race(panel: Any, looks: Any) -> None:
    """Draws greedy returns over seconds of training, a line for each run of `benchmarks/time_to_return.py`."""
    runs = sorted((RESULTS / "time_to_return" / "runs").glob(f"{RACE}_*.csv"))
    for who, (label, look) in {
        "ours-lora-joint": ("ours, LoRASA, joint", looks["lora-joint"]),
        "ours-ps": ("ours, one shared policy", looks["ps"]),
        "torchrl-ppo": ("TorchRL's PPO", {"color": "#bbbbbb"}),
        "rllib-ppo": ("RLlib's PPO", {"color": "#888888"}),
    }.items():
        for k, file in enumerate(one for one in runs if f"_{who}_seed" in one.name):
            run = pd.read_csv(file)
            panel.plot(run["seconds"], run["greedy"], linewidth=1.8, color=look["color"], label=None if k else label)
    panel.set_xscale("log")
    panel.set_xticks([10, 100, 1000], ["10", "100", "1,000"])
    panel.set_ylim(bottom=-500)
    panel.grid(alpha=0.25)
    panel.legend(fontsize=9, frameon=False, loc="upper left")
    panel.set_xlabel("seconds of training, one core, log scale")
    panel.set_ylabel("greedy return")
    panel.set_title(f"Good teams sooner ({RACE})")


def _size(panel: Any, looks: Any) -> None:
    frame = pd.read_csv(RESULTS / "resources" / "resources.csv")
    for method in ("nps", "lora", "ps"):
        line = frame[frame["method"] == method].sort_values("agents")
        panel.plot(line["agents"], line["parameters"], linewidth=1.6, markersize=5, **looks[method])
        end = line.iloc[-1]
        panel.annotate(NAMES[method], (end["agents"], end["parameters"]), xytext=(7, 0), textcoords="offset points",
                       va="center", color=looks[method]["color"], fontsize=9)  # fmt: skip
    panel.set_xscale("log", base=2)
    panel.set_yscale("log")
    panel.set_xlim(1.7, 520)
    agents = sorted(set(frame["agents"]))
    panel.set_xticks(agents, [str(n) for n in agents])
    panel.minorticks_off()
    panel.grid(alpha=0.25)
    panel.set_ylim(top=7e6)
    panel.set_xlabel("agents\n(weights of actors and critics)")
    panel.set_title("Far fewer weights than separate policies")


def _returns(panel: Any, finals: pd.DataFrame, looks: Any) -> None:
    """Draws the final return of every run, and each method's mean, task by task."""
    tasks = list(dict.fromkeys(finals["scenario"]))
    for place, task in enumerate(tasks):
        for k, method in enumerate(NAMES):
            runs = finals[(finals["scenario"] == task) & (finals["method"] == method)]["final_return"]
            look, at = looks[method], place + 0.19 * (k - (len(NAMES) - 1) / 2)
            panel.plot([at] * len(runs), runs, "_", color=look["color"], markersize=9, alpha=0.6)
            panel.plot(
                at, runs.mean(), markersize=8, **look, label=NAMES[method].replace("\n", " ") if not place else None
            )
    panel.set_xticks(range(len(tasks)), [task.replace("-", "\n", 1) for task in tasks])
    panel.set_xlim(-0.5, len(tasks) - 0.5)
    panel.set_ylim(bottom=0)
    panel.grid(alpha=0.25, axis="y")
    panel.legend(fontsize=8, frameon=False, loc="lower center", ncols=2)
    panel.set_ylabel("return after 3 M steps")
    panel.set_xlabel("means; strokes: single runs")
    panel.set_title("Returns of shared and separate policies")
