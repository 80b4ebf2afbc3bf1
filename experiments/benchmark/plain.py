"""What a command is compared with: a plain loop over the same images, or pytorch-ood's ``Benchmark.evaluate`` on them.

Started by commands.py. Prints seconds of the wall: start-up, then the loops.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

START = time.perf_counter()

import torch  # noqa: E402
from torch.utils.data import DataLoader, Dataset  # noqa: E402

from lightning_ood.data.opening import open_set  # noqa: E402
from lightning_ood.data.sets import collate  # noqa: E402
from lightning_ood.networks.build import Built, build  # noqa: E402
from lightning_ood.ops.memory import keep_freed_memory  # noqa: E402


def loader(built: Built, spec: str, root: Path, batch: int) -> DataLoader:
    """The loader of the commands."""
    return DataLoader(open_set(spec, root, built.preprocess.transform()), batch_size=batch, collate_fn=collate)


@torch.inference_mode()
def loop(built: Built, images: DataLoader) -> None:
    """The plain loop."""
    for batch in images:
        built.network(batch.image)


class Pairs(Dataset[tuple[torch.Tensor, int]]):
    """ID images with their labels, then OOD images with -1, as pytorch-ood takes them."""

    def __init__(self, loaders: list[DataLoader]) -> None:
        self.parts = [(number, each.dataset) for number, each in enumerate(loaders)]
        self.at = [(number, part, i) for number, part in self.parts for i in range(len(part))]  # type: ignore[arg-type]

    def __len__(self) -> int:
        return len(self.at)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        number, part, i = self.at[index]
        item: Any = part[i]
        return item.image, -1 if number else item.label


def pytorch_ood(built: Built, fit: DataLoader, tests: list[DataLoader], batch: int) -> int:
    """Fits the detectors of peer.py that can be fitted, then ``Benchmark.evaluate`` on all test images."""
    import peer
    from pytorch_ood.benchmark import Benchmark

    from lightning_ood.backbone import Backbone

    pairs = Pairs(tests)

    class Own(Benchmark):
        def train_set(self) -> Any:
            return pairs

        def test_sets(self, known: bool = True, unknown: bool = True) -> list[Any]:
            return [pairs]

        ood_names = ("all",)

    def labelled() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for each in fit:
            yield each.image, each.label

    class Again:
        def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
            return labelled()

    fitted = []
    for name, detector in peer.detectors(Backbone(built.network, built.preprocess.size)).items():
        try:
            if getattr(detector, "requires_fit", True):
                detector.fit(Again())
            fitted.append(detector)
        except Exception as error:
            print(f"{name} failed: {str(error) or type(error).__name__}")
    Own().evaluate(fitted, {"batch_size": batch})
    return len(fitted)


def main() -> None:
    """Runs what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", required=True)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--fit", required=True)
    parser.add_argument("--test", nargs="+", required=True, help="the ID set first")
    parser.add_argument("--passes", type=int, default=2, help="over the fitting images: two, for the jigsaw")
    parser.add_argument("--keep_memory", action="store_true", help="the commands' settings of the allocator")
    parser.add_argument("--pytorch_ood", action="store_true", help="its detectors in place of the plain loop")
    given = parser.parse_args()
    if given.keep_memory:
        keep_freed_memory()
    built = build(name=given.network, weights=given.weights, root=given.root)
    built.network.eval().requires_grad_(False)
    fit, *tests = (loader(built, spec, given.root, given.batch) for spec in (given.fit, *given.test))
    ready = time.perf_counter()
    detectors = 0
    if given.pytorch_ood:
        detectors = pytorch_ood(built, fit, tests, given.batch)
    else:
        for images in (*[fit] * given.passes, *tests):
            loop(built, images)
    print(json.dumps({"start": ready - START, "loop": time.perf_counter() - ready, "detectors": detectors}))


if __name__ == "__main__":
    main()
