"""Redraws every figure and table of the results pages from the recorded curves, without starting runs.

Run        make results, or python benchmarks/results.py
Compared   studies of benchmarks/studies.py, three recorded before it and one with former settings, in
           results/<name>/{curves.csv,runs/*.csv}:
           learning   tune_configs/mamujoco.py --scenario HalfCheetah-2x3 --methods ps lora lora-joint --seeds 6
                      --total-env-steps 1000000 --phase-switch 0.3 --evaluation-interval 50; with --seeds 3 --methods
                      ps lora-joint --id-features none; and RLlib's stock PPO with the same widths, batch, epochs, rate,
                      discount and clipping: PYTHONHASHSEED=0 python -m benchmarks.stock --what train
                      --scenario HalfCheetah --agent-conf 2x3 --total-env-steps 1000000 --seed 1 --csv FILE (2, 3)
           a2po_6x1   --scenario HalfCheetah-6x1 --methods ps lora --seeds 3 and the rest as above, with --algorithm
                      mappo and with --algorithm a2po
           smax       tune_configs/smax.py --map smacv2_5_units --methods ps lora-role --seeds 3
                      --total-env-steps 1000000
           trained_clip_10  as the study trained, when normalised features were clipped to +-10 instead of +-3
Recorded   results/<study>/{table.csv,learning_curves.png,final_returns.png} of every study that has runs; aggregates
           over tasks in results/scores/; README's figure, results/front.png; figures of benchmarks/differences.py and
           benchmarks/resources.py; the tables between "results" comments of README.md and results/README.md
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pandas as pd

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks import front, gaits
from benchmarks.differences import FOLDER, draw
from benchmarks.resources import draw as draw_costs
from benchmarks.studies import RESULTS, ROOT, STUDIES, Study
from lorasa_rllib.analysis.score_figures import draw_aggregates, draw_improvement
from lorasa_rllib.analysis.scores import aggregate, every_pair, normalised, pair_table, tidy
from lorasa_rllib.studies.curves import read_curves, write_csv
from lorasa_rllib.studies.figure import draw_curves, draw_finals
from lorasa_rllib.studies.methods import colours_of, label_of
from lorasa_rllib.studies.suites import SUITES
from lorasa_rllib.studies.table import final_returns, markdown, summary

RECORDED = {"learning": "mamujoco", "a2po_6x1": "mamujoco", "smax": "smax", "trained_clip_10": "mamujoco"}
"""Names of studies recorded before benchmarks/studies.py, or with former settings -> suites."""

RESOURCES = RESULTS / "resources" / "resources.csv"

SCORED, SEEDS = "methods", 3
"""The study whose tasks are averaged, and the minimum number of seeds of every method on a task."""

BASE = "ps"
"""The baseline in whose units scores are expressed."""

PAGES = (ROOT / "README.md", RESULTS / "README.md")
"""Pages that contain tables of results."""

MANY = 8
"""Maximum number of methods shown as curves, as more would overlap."""


def curves_of(study: Study, beside: bool = False) -> pd.DataFrame:
    """All recorded runs of a study.

    beside: include those of the studies it is compared with; for another algorithm only the same methods.
    """
    runs = study.runs()
    if beside:
        tasks = {run.task for run in runs if run.csv.is_file()}
        others = [run for name in study.beside for run in STUDIES[name].runs() if run.task in tasks]
        runs = [r for r in others if r.study.algorithm == study.algorithm or r.method in study.methods] + runs
    found = [(run, pd.read_csv(run.csv)) for run in runs if run.csv.is_file()]
    named = [curves.assign(method=run.method) if run.study.recipes else curves for run, curves in found]
    return pd.concat(named, ignore_index=True) if named else pd.DataFrame()


def report(curves: pd.DataFrame, folder: Path, suite: str) -> str:
    """Writes table and figure of one study. Returns the table as Markdown."""
    rows = summary(curves)
    write_csv(rows, folder / "table.csv")
    many = curves["method"].nunique() > MANY
    figure, name = (draw_finals, "final_returns.png") if many else (draw_curves, "learning_curves.png")
    figure(curves, folder / name, SUITES[suite].title)
    return markdown(rows)


def report_recipes(study: Study) -> str:
    """Writes the table of a study of settings: a row for each recipe. As Markdown, a column for each task."""
    curves = curves_of(study)
    write_csv(summary(curves), study.folder / "table.csv")
    finals = final_returns(curves)
    names = [name for name in study.recipes if name in set(finals["method"])]
    table = pd.DataFrame({"settings of one shared policy": names})
    for task, runs in finals.groupby("scenario", sort=False):
        table[task] = [_of_seeds(runs[runs["method"] == name]) for name in names]
    return markdown_of(table)


def _of_seeds(runs: pd.DataFrame) -> str:
    """Final returns of every seed while training, and their greedy ones, as text."""
    if runs.empty:
        return ""
    training, greedy = (", ".join(f"{x:,.0f}" for x in runs[name]) for name in ("final_return", "greedy_return"))
    return f"{training} (greedy {greedy})"


def scores() -> str | None:
    """Markdown table of aggregates over the tasks on which every method has enough seeds; None without such tasks."""
    study, curves = STUDIES[SCORED], curves_of(STUDIES[SCORED])
    if curves.empty:
        return None
    finals, methods = final_returns(curves), study.methods
    seeds = finals.groupby(["scenario", "method"])["seed"].count().unstack(fill_value=0)
    complete = seeds.reindex(columns=list(methods), fill_value=0).min(axis=1) >= SEEDS
    finals = finals[finals["scenario"].isin(complete.index[complete])]
    if finals.empty:
        return None
    table = normalised(tidy(finals), BASE)
    means = aggregate(table)
    better = every_pair(table)
    folder, colours = RESULTS / "scores", colours_of(list(methods))
    labels = {method: label_of(method) for method in methods}
    write_csv(means, folder / "aggregates.csv")
    write_csv(better, folder / "improvement.csv")
    unit = f"return, 1 = {labels[BASE]}"
    draw_aggregates(means, folder / "aggregates.png", "Multi-Agent MuJoCo", labels, colours, unit)
    order = {method: k for k, method in enumerate(methods)}
    shown = better[[order[y] < order[x] for x, y in zip(better["x"], better["y"], strict=True)]]
    draw_improvement(shown, folder / "improvement.png", "Probability of improvement", labels, colours)
    iqm = means[means["measure"] == "iqm"].set_index("method")
    pairs = pair_table(better, labels)
    values = [f"{a['value']:.2f} ({a['low']:.2f} to {a['high']:.2f})" for _, a in iqm.loc[list(methods)].iterrows()]
    pairs.insert(1, "interquartile mean, PS's mean = 1", values)
    return markdown_of(pairs.rename(columns={"beats": f"chance to beat, over {iqm['tasks'].max()} tasks"}))


def by_task(curves: pd.DataFrame) -> str:
    """Markdown table of tasks (rows) by methods (columns): final return and half width of its 95 % interval."""
    rows = summary(curves)
    table = pd.DataFrame({"scenario": list(dict.fromkeys(rows["scenario"]))})
    cells = [f"{row.final_return:,.0f} ± {row.interval:,.0f}" for row in rows.itertuples()]
    for method, here in rows.assign(cell=cells).groupby("method", sort=False):
        table[label_of(str(method))] = table["scenario"].map(here.set_index("scenario")["cell"])
    return markdown_of(table)


def ranges_by_task(curves: pd.DataFrame) -> str:
    """Markdown table of tasks (rows) by methods (columns): mean, lowest and highest final return over seeds."""
    finals = final_returns(curves)
    table = pd.DataFrame({"scenario": list(dict.fromkeys(finals["scenario"]))})
    for method in dict.fromkeys(finals["method"]):
        runs = (
            finals[finals["method"] == method].groupby("scenario")["final_return"].agg(["mean", "min", "max", "count"])
        )
        cells = {
            task: f"{row['mean']:,.0f}" + (f" ({row['min']:,.0f} to {row['max']:,.0f})" if row["count"] > 1 else "")
            for task, row in runs.iterrows()
        }
        table[label_of(str(method))] = table["scenario"].map(cells)
    return markdown_of(table)


def trained_so_far() -> pd.DataFrame:
    """Runs of the study "trained"; of tasks on which "trained_clip_10" has more, those."""
    study = STUDIES["trained"]
    now, before = curves_of(study), read_curves(RESULTS / "trained_clip_10")
    seeds = [runs.groupby("scenario").apply(lambda task: len(task[["method", "seed"]].drop_duplicates()))
             for runs in (now, before)]  # fmt: skip
    complete = [task for task in study.tasks if seeds[0].get(task, 0) >= seeds[1].get(task, 0)]
    kept = [now[now["scenario"].isin(complete)], before[~before["scenario"].isin(complete)]]
    curves = pd.concat(kept, ignore_index=True)
    order = [*study.tasks, *study.methods]
    return curves.sort_values(["scenario", "method"], key=lambda names: names.map(order.index), kind="stable")


def markdown_of(table: pd.DataFrame) -> str:
    lines = [list(table), ["---"] * table.shape[1], *table.astype(str).to_numpy().tolist()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def into_page(path: Path, tables: dict[str, str]) -> None:
    """Replaces the tables between <!-- results: NAME --> and <!-- end -->."""
    text = path.read_text()
    for name, table in tables.items():
        text = re.sub(
            rf"(<!-- results: {name} -->\n).*?(<!-- end -->)", lambda m, t=table: f"{m[1]}{t}\n{m[2]}", text, flags=re.S
        )
    temporary = path.with_name(f".{path.name}.part")
    temporary.write_text(text)
    os.replace(temporary, path)


def main() -> None:
    tables = {}
    for name, suite in RECORDED.items():
        tables[name] = report(read_curves(RESULTS / name), RESULTS / name, suite)
    for name, study in STUDIES.items():
        if any(run.csv.is_file() for run in study.runs()):
            one = report_recipes(study) if study.recipes else report(curves_of(study, True), study.folder, study.suite)
            tables[name] = one
    if (table := scores()) is not None:
        tables["scores"] = table
        tables["by_task"] = by_task(curves_of(STUDIES[SCORED]))
    trained = trained_so_far()
    tables["trained_by_task"] = ranges_by_task(trained)
    tables["gaits"] = gaits.table()
    draw_costs(pd.read_csv(RESOURCES), RESOURCES.with_suffix(".png"))
    front.draw(trained)
    for folder in sorted(path for path in FOLDER.glob("*") if path.is_dir()):
        draw(folder)
    for name, table in tables.items():
        print(f"\nresults/{name}\n{table}")
    for page in PAGES:
        into_page(page, tables)


if __name__ == "__main__":
    main()
