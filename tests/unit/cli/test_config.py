from __future__ import annotations

from headrace.cli.config import RouterSettings, UpSettings
from kvcache.index import IndexLimits
from router.held import HoldLimits
from router.router import Options


def test_what_nobody_sets_is_what_the_router_does_by_itself() -> None:
    assert RouterSettings().options() == Options(hold=HoldLimits(), index=IndexLimits())


def test_every_setting_reaches_the_router() -> None:
    settings = UpSettings.model_validate(
        {
            "router": {
                "policy": "least-requests",
                "seed": 7,
                "index_blocks": 9_000,
                "hold": {"requests": 0, "longest_s": 2, "queue_ms": 300, "kv_ratio": 0.5},
            }
        }
    ).router
    options = settings.options(time_scale=5.0)
    assert options.hold == HoldLimits(requests=0, longest_s=2.0, queue_ms=300.0, kv_ratio=0.5)
    assert options.index == IndexLimits(blocks=9_000)
    assert (options.seed, options.time_scale) == (7, 5.0)
    assert settings.router().policy_name == "least-requests"
