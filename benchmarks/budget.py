"""What the page of all studies costs: distinct runs and stages by study, and their CPU seconds.

    python benchmarks/budget.py --data results/data/digits-KEY results/data/mixture-KEY \
        --json benchmarks/results/budget.json

Outputs that several studies, or `results/table1.csv`, have in common count once, where they come first. A
step of each distinct training is timed here, all by turns in one process and with one thread, and multiplied
by the recipe's steps; other stages and the start of a process count with typical seconds (`--start`,
`--images`, `--gradient`). It takes two minutes. Minutes on two cores are half of the sum.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections import defaultdict
from pathlib import Path

import pandas as pd
import report
import torch

from couplet.config.cells import Training
from couplet.config.resolve import resolve
from couplet.data.archive import Archive
from couplet.plan.layout import Layout
from couplet.plan.summaries import selected
from couplet.training import loop

ROUNDS, STEPS = 5, 4
STUDIES = Path("workflow/studies")


def outputs(layout: Layout) -> dict[str, tuple[str, Training]]:
    """Stage and settings of everything that a file's table or figure is made from, by path."""
    params, made = layout.params, {}
    needs = "evaluate" if params.study is None else params.study.needs
    for cell, extractor in selected(params):
        stages = {"select": ["select"], "evaluate": ["select", "sample", "evaluate"]}.get(needs, ["probe"])
        training = params.training(cell)
        runs = [cell] if training.frozen_run is None else [training.frozen_run.cell, cell]
        for run in runs:
            made[str(layout.output("train", run))] = ("train", params.training(run))
        for stage in stages:
            name = needs if stage == "probe" else extractor
            label = f"probe {needs}" if stage == "probe" else stage
            made[str(layout.output(stage, cell, name))] = (label, training)
    return made


def step_seconds(trainings: dict[str, Training], data: dict[str, Archive]) -> dict[str, float]:
    """CPU seconds of a step: the median over rounds in which all take steps by turns."""
    torch.set_num_threads(1)
    running, found = {}, defaultdict(list)
    for name, training in trainings.items():
        archive, device = data[training.cell.dataset], torch.device("cpu")
        frozen = loop.initial_state(training, loop.shape_of(archive), device).model.eval()
        state = loop.initial_state(training, loop.shape_of(archive), device, frozen=frozen)
        joint = state.model.coupling.joint_images
        running[name] = loop.run(training, state, loop.loader_of(training, archive, joint_images=joint))
        next(running[name])
    for _ in range(ROUNDS):
        for name, steps in running.items():
            began = time.process_time()
            for _ in range(STEPS):
                next(steps)
            found[name].append((time.process_time() - began) / STEPS)
    return {name: statistics.median(seconds) for name, seconds in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="folders of `couplet prepare`")
    parser.add_argument("--start", type=float, default=2.5, help="seconds of a process besides its work")
    parser.add_argument(
        "--images", type=float, default=1.0, help="seconds of a stage that samples or measures"
    )
    parser.add_argument(
        "--gradient", type=float, default=60.0, help="steps that the gradient's probe is worth"
    )
    parser.add_argument("--load", type=float, default=1.0, help="factor by which a busy machine is slower")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    files = [Path("params.yaml"), *sorted(STUDIES.glob("[!_]*.yaml"))]
    seen: dict[str, tuple[str, Training]] = {}
    new = {path.stem: dict[str, tuple[str, Training]]() for path in files}
    for path in files:
        made = outputs(Layout(resolve(path), Path("results")))
        new[path.stem] = {name: of for name, of in made.items() if name not in seen}
        seen |= made
    one_seed = {training.with_seed(0).model_dump_json(): training for _, training in seen.values()}
    data = {archive.card.dataset: archive for archive in map(Archive, arguments.data)}
    steps = step_seconds(one_seed, data)
    rows = []
    for study, made in new.items():
        counts = pd.Series([stage for stage, _ in made.values()]).value_counts().to_dict()
        seconds = 0.0
        for stage, training in made.values():
            step = steps[training.with_seed(0).model_dump_json()] / arguments.load
            work = {"train": training.recipe.steps * step, "probe gradient": arguments.gradient * step * 6}
            seconds += arguments.start + work.get(stage, arguments.images)
        rows.append(
            {"study": study, "train": counts.get("train", 0), "outputs": len(made), "seconds": round(seconds)}
        )
    table = pd.DataFrame(rows)
    print(table.to_string(index=False))
    total = int(table["seconds"].sum())
    counts = f"{table['train'].sum()} runs, {table['outputs'].sum()} outputs"
    print(f"{counts}, {total} s: {total / 120:.0f} min on two cores")
    if arguments.json:
        report.write(arguments.json, studies=rows, seconds=total)


if __name__ == "__main__":
    main()
