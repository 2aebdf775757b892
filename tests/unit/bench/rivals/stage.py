"""A few endpoints, one rival, and what a test lets it learn."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from bench.rivals.rival import Known, Rival, Rule
from headrace.core.endpoint import BlockScheme, EndpointView, EngineLoad, Speed
from headrace.core.ids import BlockHash, EndpointId, ModelName, RequestId
from headrace.core.record import Usage
from headrace.core.request import RouteRequest
from headrace.twin.placement import BlocksChanged, EngineTruth

SCHEME = BlockScheme(16, "simulated")
IDLE = EngineTruth(0, 0, 0.0, 0, 0)


class Stage:
    """Endpoints e0, e1, ...; prompts are whole blocks of 64 tokens and as many of 16."""

    def __init__(
        self,
        make: Callable[[Known], Rule],
        size: int = 2,
        *,
        seed: int = 1,
        detailed: bool = False,
        oracle: bool = False,
        speeds: Sequence[float] = (),
        kv_tokens: int = 100_000,
    ) -> None:
        self.rival = Rival(make, seed, kv_events=True, detailed=detailed, oracle=oracle)
        self.truths: dict[int, EngineTruth] = {}
        self.now_s = 0.0
        self._sent = 0
        views = [
            EndpointView(
                EndpointId(f"e{index}"),
                f"sim://e{index}",
                (ModelName("m"),),
                speed=Speed(speeds[index] if speeds else 8_000.0, kv_tokens),
            )
            for index in range(size)
        ]
        self.rival.begin(views, SCHEME, lambda name: self.truths.get(int(name[1:]), IDLE))

    def send(self, *blocks: int, tokens: int | None = None) -> int:
        """Place a prompt of these routing blocks; return the index of its endpoint."""
        return self.place(*blocks, tokens=tokens)[1]

    def place(self, *blocks: int, tokens: int | None = None) -> tuple[RequestId, int]:
        """Place a prompt; return its id and the index of its endpoint."""
        request_id = RequestId(f"r{self._sent}")
        self._sent += 1
        request = RouteRequest(
            request_id,
            ModelName("m"),
            64 * len(blocks) if tokens is None else tokens,
            blocks=tuple(map(BlockHash, blocks)),
            block_tokens=64.0,
            engine_blocks={SCHEME: engine_blocks(*blocks)},
        )
        (placed,) = self.rival.submit(request, self.now_s)
        assert placed.request is request
        return request_id, int(placed.endpoint_id[1:])

    def first_token(self, request_id: RequestId) -> None:
        assert not self.rival.first_token(request_id, self.now_s)

    def end(self, request_id: RequestId) -> None:
        assert not self.rival.ended(request_id, Usage(1, 1), self.now_s)

    def holds(self, index: int, *blocks: int) -> None:
        """Let the rival hear that an endpoint stored these routing blocks."""
        change = BlocksChanged(stored=engine_blocks(*blocks))
        self.rival.changed(EndpointId(f"e{index}"), change, self.now_s)

    def reports(
        self, index: int, *, running: int = 0, waiting: int = 0, kv: float = 0.0, pending: int = 0
    ) -> None:
        """Let an endpoint report itself."""
        self.truths[index] = EngineTruth(running, waiting, kv, pending, 0)
        load = EngineLoad(running, waiting, kv, self.now_s)
        assert not self.rival.reported(EndpointId(f"e{index}"), load, self.now_s)

    def spread(self, times: int, *blocks: int) -> Counter[int]:
        """Send one prompt so many times; return how often each endpoint was taken."""
        return Counter(self.send(*blocks) for _ in range(times))


def engine_blocks(*blocks: int) -> list[int]:
    return [4 * block + part for block in blocks for part in range(4)]
