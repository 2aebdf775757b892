"""Addresses of a cluster, the bridge that joins its nodes, and each node's place on it.

Every node has a network namespace of its own, as a machine has: its kube-proxy's rules and its pods' bridge
live and end there, and nothing is left in the host's tables. The host is the control plane's machine: it owns
the bridge's address, and reaches pods and Services by a route through a node.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from tests.kube.processes import CommandFailed, run

FIRST_NET = 201
LAST_NET = 249


@dataclass(frozen=True, slots=True)
class Addresses:
    """The address plan: 10.``net``.0.0/16 divided among nodes, pods and Services."""

    net: int

    @property
    def bridge(self) -> str:
        return f"hrkube{self.net}"

    @property
    def host(self) -> str:
        """The control plane's address: API server and DNS."""
        return f"10.{self.net}.0.1"

    @property
    def all_pods(self) -> str:
        return f"10.{self.net}.16.0/20"

    @property
    def kwok_pods(self) -> str:
        return f"10.{self.net}.64.0/18"

    @property
    def services(self) -> str:
        return f"10.{self.net}.240.0/20"

    @property
    def api_service(self) -> str:
        return f"10.{self.net}.240.1"

    def node(self, index: int) -> str:
        return f"10.{self.net}.0.{10 + index}"

    def pods(self, index: int) -> str:
        """The addresses of one node's pods."""
        return f"10.{self.net}.{16 + index}.0/24"

    def veth(self, index: int) -> str:
        """The host's end of a node's cable."""
        return f"hrk{self.net}n{index}"


def claim_addresses() -> Addresses:
    """Make a bridge for a network that no interface of this machine has; return the plan around it.

    The bridge is the claim: of two clusters that start at once, one is refused the name and takes the next.
    """
    links = json.loads(run(["ip", "-j", "addr"]))
    used = {
        int(address["local"].split(".")[1])
        for link in links
        for address in link.get("addr_info", ())
        if address["family"] == "inet" and address["local"].startswith("10.")
    }
    for plan in (Addresses(net) for net in range(FIRST_NET, LAST_NET) if net not in used):
        try:
            run(["ip", "link", "add", plan.bridge, "type", "bridge", "nf_call_iptables", "0"])
        except CommandFailed as error:
            if "File exists" not in str(error):
                raise
            continue
        run(["ip", "addr", "add", f"{plan.host}/24", "dev", plan.bridge])
        run(["ip", "link", "set", plan.bridge, "up"])
        return plan
    raise CommandFailed(f"no free network from 10.{FIRST_NET}.0.0/16 on: are clusters left over?")


def remove_bridge(plan: Addresses) -> None:
    """Remove the bridge; its routes go with it."""
    _ignore_absent(["ip", "link", "del", plan.bridge])


def plug_in(plan: Addresses, index: int, others: list[int], netns_pid: int) -> None:
    """Join a node's namespace to the bridge, and route its pods to and from host and other nodes."""
    veth = plan.veth(index)
    _ignore_absent(["ip", "link", "del", veth])
    peer = ("peer", "name", "eth0", "netns", str(netns_pid))
    run(["ip", "link", "add", veth, "type", "veth", *peer])
    run(["ip", "link", "set", veth, "master", plan.bridge, "up"])
    inside = ("nsenter", "--target", str(netns_pid), "--net")
    run([*inside, "ip", "link", "set", "lo", "up"])
    run([*inside, "ip", "addr", "add", f"{plan.node(index)}/24", "dev", "eth0"])
    run([*inside, "ip", "link", "set", "eth0", "up"])
    run([*inside, "ip", "route", "add", "default", "via", plan.host])
    run([*inside, "sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"])
    run(["ip", "route", "replace", plan.pods(index), "via", plan.node(index)])
    for other in others:
        run([*inside, "ip", "route", "add", plan.pods(other), "via", plan.node(other)])


def route_pods(plan: Addresses, to_index: int, netns_pid: int) -> None:
    """Tell a node where another node's pods are."""
    inside = ("nsenter", "--target", str(netns_pid), "--net")
    run([*inside, "ip", "route", "replace", plan.pods(to_index), "via", plan.node(to_index)])


def route_services(plan: Addresses, through_index: int) -> None:
    """Let the host reach Services by the kube-proxy of a node."""
    run(["ip", "route", "replace", plan.services, "via", plan.node(through_index)])


def set_cable(plan: Addresses, index: int, *, connected: bool) -> None:
    """Cut a node off the network, or join it again."""
    run(["ip", "link", "set", plan.veth(index), "up" if connected else "down"])


def _ignore_absent(argv: list[str]) -> None:
    try:
        run(argv)
    except CommandFailed as error:
        if "Cannot find device" not in str(error):
            raise
