"""What happened in each part of a campaign, and the table of it."""

import collections
from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["Tally", "table"]


@dataclass
class Tally:
    """What happened in one part of the campaign.

    Attributes:
        cases: how many were tried.
        outcomes: how often each expected outcome was seen.
        wrong: what must not have happened, in words.
    """

    cases: int = 0
    outcomes: collections.Counter[str] = field(default_factory=collections.Counter)
    wrong: list[str] = field(default_factory=list)


def table(parts: Mapping[str, Tally]) -> str:
    """The figures, as Markdown."""
    lines = ["| part | cases | outcomes | wrong |", "|---|---|---|---|"]
    for name, tally in parts.items():
        seen = ", ".join(f"{count} {what}" for what, count in tally.outcomes.most_common())
        lines.append(f"| {name} | {tally.cases} | {seen} | {len(tally.wrong)} |")
    return "\n".join(lines)
