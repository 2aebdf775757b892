"""A decision in words and tables. Pure: returns what rich will draw."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

from rich.console import Console
from rich.table import Table
from rich.text import Text

from headrace.core.ids import EndpointId
from router.decide import Decision
from router.policy import Candidate, Terms, plan_name
from router.record import RecordedDecision, differences


@dataclass(frozen=True, slots=True)
class Rerun:
    """What deciding again gave; ``differences`` are in words and empty if it was identical."""

    identical: bool
    differences: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Other:
    """What another policy would have chosen on the same inputs.

    Attributes:
        policy: Its name.
        agrees: Whether it is the same endpoint.
        why: Its reason, in a sentence.
        unit: Of its costs.
        ranking: What each candidate would cost by it, best first.

    """

    policy: str
    agrees: bool
    why: str
    unit: str
    ranking: tuple[Terms, ...]


@dataclass(frozen=True, slots=True)
class Told:
    """One decision explained."""

    why: str
    rerun: Rerun
    other: Other | None
    record: RecordedDecision

    def print(self, console: Console, *, top: int) -> None:
        """Write it to a terminal, with the best ``top`` candidates."""
        record, other = self.record, self.other
        console.print(Text(_heading(record), style="bold"))
        console.print(Text(f"{_happened(record)}\n"))
        console.print(Text(f"Costs by {record.policy.name}, in {record.unit}:"))
        console.print(_costs(record.ranking, top))
        console.print(Text("What was believed of the endpoints:"))
        for part in _facts(record, top):
            console.print(part)
        if len(record.ranking) > top:
            console.print(Text(f"{len(record.ranking) - top} more are not shown: --top"))
        console.print(Text(f"\n{self.why}"))
        console.print(Text(_rerun(self.rerun), style="green" if self.rerun.identical else "red"))
        if other is not None:
            console.print(Text(f"\nCosts by {other.policy}, in {other.unit}:"))
            console.print(_costs(other.ranking, top))
            same = "the same endpoint" if other.agrees else "another endpoint"
            console.print(Text(f"{other.policy} would have chosen {same}. {other.why}"))
        console.print()


def told(
    record: RecordedDecision, again: Decision, policy: str | None, other: Decision | None
) -> Told:
    """Explain a decision.

    Args:
        record: The decision.
        again: What deciding again gave.
        policy: The name of another policy, if one was asked.
        other: What that one decided on the same inputs.

    """
    found = tuple(differences(record, again))
    beside = None
    if policy is not None and other is not None:
        beside = Other(
            policy,
            other.endpoint_id == record.endpoint_id,
            why(other.ranking, other.endpoint_id, other.unit),
            other.unit,
            other.ranking,
        )
    reason = why(record.ranking, record.endpoint_id, record.unit)
    return Told(reason, Rerun(not found, found), beside, record)


def why(ranking: Sequence[Terms], chosen: EndpointId, unit: str) -> str:
    """Return in one sentence why ``chosen`` won."""
    best = next(terms for terms in ranking if terms.endpoint_id == chosen)
    rest = [terms for terms in ranking if terms is not best]
    name = best.name
    if not rest:
        return f"{name} was the only candidate ({_amount(best.cost, unit)})."
    equal = [terms for terms in rest if terms.cost == best.cost]
    cost = _amount(best.cost, unit)
    if equal:
        names = _listed([terms.name for terms in equal])
        return (
            f"{name} was one of several that cost {cost}, with {names}: it served the session "
            "last, or chance took it."
        )
    second = min(rest, key=lambda terms: terms.cost)
    beside = f"{_amount(second.cost, unit)} for {second.name}"
    if second.cost < best.cost:
        return (
            f"{name} was taken at {cost}, about as good as {beside}: it served the session "
            "last, or chance took it."
        )
    reasons = _reasons(best, second, unit)
    return f"{name} won with {cost} against {beside}{reasons}."


def _reasons(best: Terms, second: Terms, unit: str) -> str:
    """Return where the difference lies, the part that decides most first."""
    other = dict(second.parts)
    gaps = [(name, value - other.get(name, 0.0)) for name, value in best.parts]
    gaps.sort(key=lambda gap: gap[1])
    said = [
        f"{_amount(abs(gap), unit)} {'less' if gap < 0 else 'more'} {name}"
        for name, gap in gaps
        if abs(gap) >= 0.05
    ]
    return f": {', '.join(said)}" if said else ""


def _listed(names: Sequence[str], most: int = 3) -> str:
    if len(names) <= most:
        return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
    return f"{len(names)} others"


def _heading(record: RecordedDecision) -> str:
    facts = record.request.facts
    attempt = f", attempt {record.attempt + 1}" if record.attempt else ""
    return (
        f"{record.request_id}: {facts['prompt_tokens']:,} prompt tokens for {record.model}, "
        f"to {plan_name(record.endpoint_id, record.prefill_id)} "
        f"of {len(record.candidates)}{attempt}"
    )


def _happened(record: RecordedDecision) -> str:
    happened = record.happened
    if happened is None:
        return "In flight when this was recorded, or sent again after it failed."
    said = [f"{happened.outcome}"]
    if happened.ttft_s is not None:
        said.append(f"first token after {happened.ttft_s * 1_000.0:,.1f} ms")
    if happened.usage is not None:
        said.append(
            f"{happened.usage.cached_tokens:,} of {happened.usage.prompt_tokens:,} prompt tokens "
            f"were cached there ({record.candidate.cached_tokens:,.0f} expected)"
        )
    return f"What came of it: {', '.join(said)}."


def _rerun(rerun: Rerun) -> str:
    if rerun.identical:
        return "re-run: identical"
    return "\n".join(["re-run: DIFFERENT", *(f"  {line}" for line in rerun.differences)])


def _costs(ranking: Sequence[Terms], top: int) -> Table:
    shown = ranking[:top]
    names = list(dict.fromkeys(name for terms in shown for name, _ in terms.parts))
    drawn = Table()
    drawn.add_column("endpoint")
    for name in ("cost", *names):
        drawn.add_column(name, justify="right")
    for terms in shown:
        parts = dict(terms.parts)
        cells = [f"{parts[name]:,.1f}" if name in parts else "" for name in names]
        drawn.add_row(terms.name, f"{terms.cost:,.1f}", *cells)
    return drawn


def _facts(record: RecordedDecision, top: int) -> Iterator[Table | Text]:
    """Draw what was believed of the endpoints: what tells them apart, then what is common."""
    by_name = {plan_name(c.endpoint_id, c.prefill_id): c for c in record.candidates}
    shown = [by_name[terms.name] for terms in record.ranking[:top]]
    names = [f.name for f in fields(Candidate) if f.name not in ("endpoint_id", "prefill_id")]
    apart = [name for name in names if len({getattr(c, name) for c in shown}) > 1]
    if apart:
        drawn = Table()
        drawn.add_column("endpoint")
        for name in apart:
            drawn.add_column(name.replace("_", " "), justify="right")
        for candidate in shown:
            drawn.add_row(
                plan_name(candidate.endpoint_id, candidate.prefill_id), *_cells(candidate, apart)
            )
        yield drawn
    common = [name for name in names if name not in apart and getattr(shown[0], name)]
    values = zip(common, _cells(shown[0], common), strict=True)
    said = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in values)
    yield Text(f"{'Of each' if len(shown) > 1 else 'Of it'}: {said or 'nothing else'}")


def _cells(candidate: Candidate, names: Sequence[str]) -> Iterator[str]:
    for name in names:
        value = getattr(candidate, name)
        if isinstance(value, bool):
            yield "yes" if value else ""
        elif isinstance(value, float):
            yield f"{value:,.4g}" if abs(value) < 1.0 else f"{value:,.1f}"
        else:
            yield f"{value:,}" if isinstance(value, int) else str(value)


def _amount(value: float, unit: str) -> str:
    return f"{value:,.1f} {unit}" if unit != "none" else f"{value:,.1f}"
