"""How many replicas each variant gets. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from controller.api.model_service import Variant


def spread(replicas: int, variants: Sequence[Variant]) -> dict[str, int]:
    """Deal replicas to variants: the minima first, the rest to the cheapest that may have more.

    Args:
        replicas: Wanted in all. Minima are kept even where they add up to more.
        variants: In the order of the spec, which decides between equal prices; one without a price
            comes after those that have one.

    Returns:
        Replicas by variant name. Their sum is below ``replicas`` only when every variant is full.

    """
    wanted = {variant.name: variant.min_replicas for variant in variants}
    left = replicas - sum(wanted.values())
    for variant in sorted(variants, key=_price):
        if left <= 0:
            break
        room = left
        if variant.max_replicas is not None:
            room = min(left, variant.max_replicas - wanted[variant.name])
        wanted[variant.name] += room
        left -= room
    return wanted


def _price(variant: Variant) -> tuple[bool, float]:
    price = variant.price_per_hour
    return price is None, 0.0 if price is None else price
