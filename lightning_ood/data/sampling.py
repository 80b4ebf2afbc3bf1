"""A sampler that yields every image once, for any world size."""

from collections.abc import Iterator

from torch.utils.data import DistributedSampler


class ExactSampler(DistributedSampler):
    """Yields each index exactly once over all processes: rank r takes r, r + world_size and so on.

    Torch's own sampler pads to equal counts by repeating images, which would enter the numbers. Here ranks differ by
    at most one image, and a rank may get none. It is a ``DistributedSampler`` so that Lightning leaves it in place.

    Args:
        size: number of images in the set.
        rank: which process this is.
        world_size: how many processes there are.
    """

    def __init__(self, size: int, rank: int = 0, world_size: int = 1) -> None:
        super().__init__(range(size), num_replicas=world_size, rank=rank, shuffle=False)  # type: ignore[arg-type]
        self.indices = range(rank, size, world_size)

    def __iter__(self) -> Iterator[int]:
        return iter(self.indices)

    def __len__(self) -> int:
        return len(self.indices)
