"""Prints the published tables of experiments/reproduce as the CSV that `train.py leaderboard --published` takes.

python experiments/leaderboard/published.py cifar10 imagenet1k > experiments/leaderboard/published.csv
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from experiments.reproduce.published import HERE, Table, merged, read
from lightning_ood.metrics.rates import METRICS

COLUMNS = ("id", "network", "method", "sets", "source", *METRICS)


def rows(table: Table) -> Iterator[dict[str, object]]:
    """A row per method and column of a table, on the sets of the paper; not of those that stand in for them."""
    if not table.configs:
        return
    sets = {column: names[0] for column, names in table.columns.items()}
    sets |= {column: "+".join(names) for column, names in table.means.items()}
    network = table.about["network"].split(", ")[0].split(". ")[0].rstrip(".")
    about = {
        "id": merged(table.configs[0][0])["data"]["id"]["name"],
        "network": network,
        "source": table.about["title"],
    }
    for row in table.rows:
        for column, cells in row.cells.items():
            if cells and sets[column]:
                yield {**about, "method": row.name, "sets": sets[column], **cells}


if __name__ == "__main__":
    out = csv.DictWriter(sys.stdout, COLUMNS, lineterminator="\n")
    out.writeheader()
    for path in sorted((HERE / "tables").glob("*.yaml")):
        out.writerows(row for row in rows(read(path)) if row["id"] in sys.argv[1:])
