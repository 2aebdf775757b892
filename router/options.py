"""What a router may be told beyond its policy. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field

from kvcache.index import IndexLimits
from router.held import HoldLimits


@dataclass(frozen=True, slots=True)
class Options:
    """What a router may be told beyond its policy.

    Attributes:
        seed: Of the chance that breaks ties.
        time_scale: Engine seconds per second of ``now_s``; not 1 only for simulated engines that
            outrun the clock. Policies weigh engine milliseconds against constants of their own,
            so a fleet at any scale is routed as one at 1 would be.
        hold: When requests are held back.
        index: Bounds of each prefix index.

    """

    seed: int = 0
    time_scale: float = 1.0
    hold: HoldLimits = field(default_factory=HoldLimits)
    index: IndexLimits = field(default_factory=IndexLimits)
