"""Scores as a run leaves them, made up."""

import numpy as np
import pandas as pd


def make_scores(detectors, sets, n_id=60, n_ood=40, seed=0):
    """Scores of ID images around 0 and of OOD images below, with the columns of the contract."""
    rng = np.random.default_rng(seed)
    parts = []
    for number, (name, group) in enumerate([("digits", "id"), *sets]):
        n = n_ood if number else n_id
        label = rng.integers(0, 10, n)
        parts.append(
            pd.DataFrame(
                {
                    "dataset": name,
                    "role": "ood" if number else "id",
                    "group": group,
                    "index": np.arange(n),
                    "path": None if number else [f"{i}.png" for i in range(n)],
                    "label": None if number else label,
                    "prediction": np.where(np.arange(n) % 10 == 0, (label + 1) % 10, label),
                    **{d: rng.normal(-0.4 * number - 0.1 * k * bool(number), 1, n) for k, d in enumerate(detectors)},
                }
            )
        )
    return pd.concat(parts, ignore_index=True)
