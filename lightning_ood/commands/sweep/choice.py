"""Which points come next: all of a grid, random ones, or those that Optuna proposes from what is known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lightning_ood.commands.sweep.space import Point, Range, Sweep


class Choice:
    """Proposes points.

    Random and Bayes (Optuna's tree-structured Parzen estimator) go on from the points that are finished: a sweep that
    was interrupted does not begin again, and one with a larger count does not repeat itself.

    Args:
        sweep: what to choose from.
        known: points that are finished, with the value of the metric where there is one.
        seed: of the random numbers.
    """

    def __init__(self, sweep: Sweep, known: Sequence[tuple[Point, float | None]], seed: int = 0) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.space = {name: _distribution(values) for name, values in sweep.space.items()}
        self.sweep = sweep
        seed += len(known)  # other numbers than those that gave the known points
        sampler: Any = (
            optuna.samplers.RandomSampler(seed)
            if sweep.method == "random"
            else optuna.samplers.TPESampler(seed=seed, constant_liar=True)
        )
        self.study = optuna.create_study(direction="maximize" if sweep.maximise else "minimize", sampler=sampler)
        self.trials: dict[int, Any] = {}
        for point, value in known:
            if value is not None and all(self._inside(name, point[name]) for name in self.space):
                coded = {name: self._code(name, value) for name, value in point.items()}
                trial = optuna.trial.create_trial(params=coded, distributions=self.space, value=value)
                self.study.add_trial(trial)

    def ask(self, count: int) -> list[Point]:
        """The next ``count`` points."""
        points = []
        for _ in range(count):
            trial = self.study.ask(self.space)
            points.append({name: self._decode(name, value) for name, value in trial.params.items()})
            self.trials[id(points[-1])] = trial
        return points

    def tell(self, point: Point, value: float | None) -> None:
        """What a point that :meth:`ask` gave was worth; None where it failed."""
        from optuna.trial import TrialState

        state = TrialState.FAIL if value is None else TrialState.COMPLETE
        self.study.tell(self.trials.pop(id(point)), value, state=state)

    def _inside(self, name: str, value: Any) -> bool:
        values = self.sweep.space[name]
        return values.low <= value <= values.high if isinstance(values, Range) else value in values

    def _code(self, name: str, value: Any) -> Any:
        values = self.sweep.space[name]
        return value if isinstance(values, Range) else values.index(value)

    def _decode(self, name: str, value: Any) -> Any:
        values = self.sweep.space[name]
        return value if isinstance(values, Range) else values[value]


def _distribution(values: list[Any] | Range) -> Any:
    from optuna import distributions

    if not isinstance(values, Range):  # their positions: a value may be a whole detector
        return distributions.CategoricalDistribution(range(len(values)))
    if values.kind == "int_uniform":
        return distributions.IntDistribution(int(values.low), int(values.high))
    log = values.kind == "log_uniform_values"
    return distributions.FloatDistribution(values.low, values.high, log=log, step=values.step)
