"""``headrace twin``: what can be typed."""

from __future__ import annotations

from typing import Annotated

import typer

from headrace.cli import options
from headrace.cli.errors import readable_errors


def twin(  # noqa: PLR0913 -- a command's options are its parameters
    *,
    trace: options.TraceFile = None,
    workload: options.WorkloadName = "conversation",
    rate: options.Rate = 4.0,
    engines: Annotated[
        int, typer.Option("--engines", min=1, max=4096, help="Simulated engines in the fleet.")
    ] = 4,
    hardware: Annotated[
        str, typer.Option("--hardware", help="Card of each engine; a wrong name lists them.")
    ] = "H100",
    sim_model: Annotated[
        str, typer.Option("--sim-model", help="Model of each engine; a wrong name lists them.")
    ] = "Llama-3.1-8B",
    tp: Annotated[
        int | None, typer.Option("--tp", min=1, help="Cards per engine; default: what fits.")
    ] = None,
    policy: Annotated[
        list[str] | None,
        typer.Option("--policy", help="Routing policy; repeat it to compare several."),
    ] = None,
    kv_events: Annotated[
        bool,
        typer.Option(
            "--kv-events/--no-kv-events",
            help="Whether the router follows engines' KV events, or estimates what they hold.",
        ),
    ] = True,
    hold: Annotated[
        int | None,
        typer.Option("--hold", min=0, help="Most requests held while all engines are full."),
    ] = None,
    minutes: options.Minutes = None,
    limit: options.Limit = None,
    seed: options.Seed = 1,
    slo_ttft: options.SloTtft = 2.0,
    slo_tpot: options.SloTpot = 0.05,
    json: options.JsonFile = None,
    plot: options.PlotFile = None,
) -> None:
    """Run the router's own code over simulated engines in virtual time; same report as replay."""
    with readable_errors():
        from headrace.cli import simulating  # noqa: PLC0415 -- start-up time
        from headrace.core.slo import SloTarget  # noqa: PLC0415
        from headrace.twin.workloads import WorkloadChoice  # noqa: PLC0415

        ok = simulating.run(
            simulating.Simulating(
                choice=WorkloadChoice(trace, workload, rate, minutes, limit, seed),
                fleet=simulating.Fleet(engines, hardware, sim_model, tp),
                policies=tuple(policy or ()),
                kv_events=kv_events,
                hold_requests=hold,
                slo=SloTarget(ttft_s=slo_ttft, tpot_s=slo_tpot),
                json_path=json,
                plot_path=plot,
            )
        )
    if not ok:
        raise typer.Exit(1)
