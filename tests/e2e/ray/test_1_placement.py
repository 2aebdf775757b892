from __future__ import annotations

from typing import Any

import pytest

from tests.e2e.ray.conftest import Figures, Start
from tests.e2e.ray.machines import Machines, engines, eventually

MODEL = "Llama-3.1-8B"
NO_ROOM_S = 60.0


@pytest.mark.parametrize(
    ("placement", "figure", "nodes"),
    [("strict_pack", "placement.packed_nodes", 1), ("strict_spread", "placement.spread_nodes", 2)],
)
def test_the_shares_of_a_replica_are_placed_as_asked(
    machines: Machines, start: Start, figures: Figures, placement: str, figure: str, nodes: int
) -> None:
    up = start({"replicas": 1, "nodes": 2, "ray": {"cards_per_node": 1, "placement": placement}})
    up.wait_ready(1)
    (shares,) = machines.groups().values()
    assert len(shares) == 2
    figures[figure] = len(set(shares))
    assert len(set(shares)) == nodes
    assert up.ask(MODEL)


def test_nodes_are_filled_with_as_many_replicas_as_they_have_cards(
    machines: Machines, start: Start
) -> None:
    up = start({"replicas": 4, "ray": {"cards_per_node": 1, "cpus_per_node": 0.5}})
    up.wait_ready(4)
    placed = [node for (node,) in machines.groups().values()]
    assert sorted(placed.count(node) for node in set(placed)) == [2, 2]
    eventually(lambda: len(set(up.ready().values())) == 4, 10, up.tail)


def test_a_replica_of_two_nodes_starts_only_when_both_are_there(
    machines: Machines, start: Start, figures: Figures
) -> None:
    wanted: dict[str, Any] = {"cards_per_node": 4, "placement": "strict_spread"}
    one = machines.add(gpus=4)
    up = start({"replicas": 1, "nodes": 2, "ray": wanted})
    eventually(lambda: bool(up.lines("replica_has_no_room")), NO_ROOM_S, up.tail)
    why = up.lines("replica_has_no_room")[-1]["why"]
    figures["unschedulable.said_why"] = float("asks for 2 x (1 CPU + 4 GPU), strict_spread" in why)
    assert "of which 1 could hold one share" in why
    figures["incomplete.engines"] = len(engines())
    assert engines() == []
    two = machines.add(gpus=4)
    figures["complete.serving_s"] = up.wait_ready(1)
    (shares,) = machines.groups().values()
    assert set(shares) == {node_id(machines, one), node_id(machines, two)}
    figures["complete.served"] = float(bool(up.ask(MODEL)))
    up.stop()
    machines.retire(one)
    machines.retire(two)


def node_id(machines: Machines, node: Any) -> str:
    (found,) = [
        share
        for shares in machines.groups().values()
        for share in shares
        if machines.node_of(share) is node
    ]
    return found
