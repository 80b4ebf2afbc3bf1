"""Counts what faults do to runs: kills, full disks, damaged and hostile files, odd configs, environments and images.

python -m experiments.faults.run                            # all, half an hour on two cores
python -m experiments.faults.run --share 0.1 --only "a flipped bit" "odd images"

Every trial plays in a folder of its own, with the files of an undisturbed run, and is judged by what is left: README.md
says how. Writes results/table.md, and results/failures.md with every trial that is neither clear nor right.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue

from experiments.faults import damage, given, machine
from experiments.faults.bench import VERDICTS, Bench, Trial, make_base
from lightning_ood.report.markdown import markdown_table
from tests.helpers.commands import Commands

RESULTS = Path(__file__).parent / "results"
KINDS = {  # makes trials -> how many
    machine.kills: 100,
    machine.pairs: 16,
    machine.workers: 12,
    machine.full_disks: 36,
    machine.read_only: 9,
    machine.places: 54,
    machine.shared_memory: 3,
    damage.bits: 264,
    damage.truncations: 96,
    damage.hostile: 60,
    damage.structures: 48,
    damage.tables: 80,
    given.configs: 132,
    given.arguments: 104,
    given.environment: 52,
    given.pictures: 52,
}

Outcome = tuple[Trial, str, str]  # a trial, its verdict, and the output of its last command


def trials(share: float = 1.0, mounts: bool = True) -> list[Trial]:
    """Returns the trials of every kind, or the first ones of each; without file systems to mount some are left out."""
    needing = (machine.full_disks, machine.read_only, machine.shared_memory)
    kinds = {make: max(1, round(count * share)) for make, count in KINDS.items() if mounts or make not in needing}
    return [trial for make, count in kinds.items() for trial in make(count)]


def play(
    chosen: Sequence[Trial], base: Path, processes: int = 2, seed: int = 0, numbers: Sequence[int] = ()
) -> Iterator[Outcome]:
    """Plays trials, or those with the given numbers, in a random order, some at a time; yields their outcomes."""
    servers: SimpleQueue[Commands] = SimpleQueue()
    all_servers = [Commands() for _ in range(processes)]
    for each in all_servers:
        servers.put(each)

    def one(number: int) -> Outcome:
        trial, commands, began = chosen[number], servers.get(), time.monotonic()
        try:
            with tempfile.TemporaryDirectory(prefix="trial-", ignore_cleanup_errors=True) as folder:
                bench = Bench(commands, base, Path(folder))
                verdict = trial.play(bench, random.Random(f"{seed} {number}"))
                said = bench.said
        finally:
            servers.put(commands)
        spent = time.monotonic() - began
        print(f"{number:4} {spent:5.1f} s  {verdict:9} {trial.kind}: {trial.name}", flush=True)
        return trial, verdict, said

    order = list(numbers or range(len(chosen)))
    random.Random(seed).shuffle(order)
    try:
        with ThreadPoolExecutor(processes) as pool:
            yield from pool.map(one, order)
    finally:
        for each in all_servers:
            each.close()


def table(outcomes: Sequence[Outcome]) -> str:
    """Returns the counts, a row per kind of fault."""
    counts: dict[str, Counter[str]] = {}
    for trial, verdict, _ in outcomes:
        counts.setdefault(trial.kind, Counter())[verdict] += 1
    ordered = sorted(counts.items())
    rows = [[kind, str(found.total()), *(str(found[each]) for each in VERDICTS)] for kind, found in ordered]
    total: Counter[str] = sum(counts.values(), Counter())
    rows.append(["all", str(total.total()), *(str(total[each]) for each in VERDICTS)])
    return markdown_table(["fault", "tried", *VERDICTS], rows)


def failures(outcomes: Sequence[Outcome]) -> str:
    """Returns the trials that are neither clear nor right, with the end of what the command said."""
    bad = [outcome for outcome in outcomes if outcome[1] not in ("clear", "right")]
    return "\n\n".join(f"## {v}: {t.kind}: {t.name}\n\n```\n{said[-3000:]}\n```" for t, v, said in bad) or "None."


def main() -> None:
    """Plays the trials and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--share", type=float, default=1.0, help="of the trials of each kind")
    parser.add_argument("--only", nargs="+", default=[], help="kinds of faults, as the table names them")
    parser.add_argument("--numbers", nargs="+", type=int, default=[], help="trials to play again, as a run prints them")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for table.md and failures.md")
    options = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        (base := Path(folder) / "base").mkdir()
        (there := Path(folder) / "mount").mkdir()
        chosen = trials(options.share, machine.can_mount(there))
        chosen = [trial for trial in chosen if not options.only or trial.kind in options.only]
        commands = Commands()
        make_base(base, commands)
        commands.close()
        options.out.mkdir(parents=True, exist_ok=True)
        outcomes: list[Outcome] = []
        for outcome in play(chosen, base, options.processes, options.seed, options.numbers):
            outcomes.append(outcome)
            (options.out / "table.md").write_text(f"{table(outcomes)}\n")
            (options.out / "failures.md").write_text(f"{failures(outcomes)}\n")
    print(f"\n{table(outcomes)}\n\n{len(outcomes)} trials in {(time.monotonic() - began) / 60:.1f} minutes")


if __name__ == "__main__":
    main()
