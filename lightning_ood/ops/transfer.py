"""Host-to-device copies that do not block, so that the host never waits for the device inside a pass."""

from torch import Tensor


def beside(value: Tensor, other: Tensor) -> Tensor:
    """Copies ``value`` to the device of ``other``.

    A copy from the host does not block (a plain ``.to`` waits for all work queued on the device). A copy to the host
    blocks, since the host would otherwise read memory that is not yet written.
    """
    queued = value.device.type == "cpu" and other.device.type != "mps"  # MPS may read host memory after it was freed
    return value.to(other.device, non_blocking=queued)
