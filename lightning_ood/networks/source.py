"""Where a network and its weights come from."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class Source:
    """Origin of a network and of its weights; ``str`` gives one line for people.

    Attributes:
        library: the library that defines the network; ``own`` for a module given by class path.
        name: name of the network in its library, or name of its class.
        kind: kind of the weights: ``library`` for those that timm or torchvision publishes, ``own`` for those that a
            module given by class path or function came with.
        weights: the weight file, or the published entry (``IMAGENET1K_V1``, ``pretrained``); empty for random weights.
        sha256: SHA-256 of the weight file; empty where there is none or the library found it.
    """

    library: Literal["timm", "torchvision", "hf", "own"]
    name: str
    kind: Literal["library", "file", "own", "random"] = "random"
    weights: str = ""
    sha256: str = ""

    @property
    def network(self) -> str:
        """Name of the network with its library's prefix, as ``model.name`` takes it."""
        return self.name if self.library == "own" else f"{self.library}:{self.name}"

    @property
    def random(self) -> bool:
        """Whether the weights are random numbers."""
        return self.kind == "random"

    @property
    def unread(self) -> bool:
        """Whether no weights were read: they are random, or those that the module came with."""
        return self.kind in ("random", "own")

    @property
    def shipped(self) -> bool:
        """Whether the weights come with the package, which has no preprocessing of theirs but that of its configs."""
        return self.kind == "file" and Path(self.weights).parent == Path(__file__).parent

    def __str__(self) -> str:
        said = {"random": "random weights", "own": "its own weights (weights: none)"}
        return f"{self.network}, {said.get(self.kind, self.weights)}"
