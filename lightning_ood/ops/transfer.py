"""Host-to-device copies that do not block, so that the host never waits for the device inside a pass."""

from torch import Tensor


def beside(value: Tensor, other: Tensor) -> Tensor:
    """``value`` on the device of ``other``.

    From the host it is sent without waiting for the device (a plain ``.to`` waits for all that is queued there). The
    other way the host has to wait: it would read memory that is still to be written.
    """
    queued = value.device.type == "cpu" and other.device.type != "mps"  # Apple's may read after the memory is gone
    return value.to(other.device, non_blocking=queued)
