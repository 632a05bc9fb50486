"""What studies came to, as Markdown rows for docs/guide/studies-outcomes.md: read from the folders they ran in.

    python tools/study_outcomes.py runs/sdi-table-3 runs/sdi-table-7 --tiny tiny.txt --seconds seconds.txt

One row a study: its seconds at tiny and in this run (lines ``NAME SECONDS`` of files, or a dash), its runs, and the
gain of each variant over its best control with the 95% interval, or over many settings the range of the gains, their
mean, and how many are told from zero. Where nothing is compared, the numbers that stand beside the paper's, or else all
that was measured. What failed comes last.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from semaug.studies.study.results import Gain, Line, Results, read_results

MOST_GAINS, MOST_GAINS_OF_SETTINGS, MOST_NUMBERS = 8, 4, 8


def outcome_row(out: Path, tiny: Mapping[str, float], seconds: Mapping[str, float]) -> str:
    """One study's row: name, seconds at tiny and of this run, finished runs, and what came out."""
    results, _ = read_results(out)
    name = results.study.preset.name
    runs = sum(run.rows is not None for run in results.runs)
    took = " | ".join(f"{known[name]:.0f}" if name in known else "-" for known in (tiny, seconds))
    return f"| `{name}` | {took} | {runs} | {'; '.join(parts(results))} |"


def parts(results: Results) -> Iterator[str]:
    """What came out, one clause each."""
    if results.gains:
        yield from told_gains(results.gains)
    elif results.lines:
        yield told_numbers(results.lines)
    elif results.measured:
        yield ", ".join(f"{name} {row['value']:.3g}" for name, row in results.measured.items())
    if results.failed:
        names = [made.name for made in results.artifacts if made.error]
        names += [run.variant for run in results.runs if run.rows is None]
        yield f"{len(results.failed)} failed: " + ", ".join(dict.fromkeys(names))


def told_gains(gains: Sequence[Gain]) -> Iterator[str]:
    """Every gain while they are few, else each variant's range over the settings; then how many leave zero out."""
    settings = list(dict.fromkeys(gain.setting for gain in gains))
    if len(gains) <= (MOST_GAINS_OF_SETTINGS if len(settings) > 1 else MOST_GAINS):
        yield told_few(gains, len(settings) > 1)
    else:
        by_variant = {gain.variant: [g for g in gains if g.variant == gain.variant] for gain in gains}
        yield from (told_range(variant, own) for variant, own in by_variant.items())
    if all(gain.p_value is None for gain in gains):
        yield "one seed"
    else:
        separated = [g for g in gains if g.separated]
        named = f" ({', '.join(f'{g.setting} {g.variant}' for g in separated)})" if separated else ""
        counts = sorted({gain.at_steps.n for gain in gains})
        seeds = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
        yield f"{len(separated)} of {len(gains)} told from zero{named}, {seeds} seeds"


def told_few(gains: Sequence[Gain], with_setting: bool) -> str:
    """Each gain; the control once where all have the same."""
    controls = {gain.control for gain in gains}
    if len(controls) == 1:
        return ", ".join(told_gain(gain, with_setting) for gain in gains) + f" over `{controls.pop()}`"
    return ", ".join(f"{told_gain(gain, with_setting)} over `{gain.control}`" for gain in gains)


def told_gain(gain: Gain, with_setting: bool) -> str:
    """A gain in points and its interval."""
    name = f"{gain.setting} {gain.variant}" if with_setting else gain.variant
    found = gain.at_steps
    interval = "" if found.low is None or found.high is None else f" ({points(found.low)} to {points(found.high)})"
    return f"{name} {points(found.mean)}{interval}"


def told_range(variant: str, gains: Sequence[Gain]) -> str:
    """The least, the greatest and the mean gain of one variant over its settings."""
    means = [gain.at_steps.mean for gain in gains]
    mean = sum(means) / len(means)
    return f"{variant} {points(min(means))} to {points(max(means))} over {len(means)} settings (mean {points(mean)})"


def points(value: float) -> str:
    """A share as signed points; zero has no sign."""
    text = f"{100 * value:+.1f}"
    return "0.0" if text in {"+0.0", "-0.0"} else text


def told_numbers(lines: Sequence[Line]) -> str:
    """Ours beside the printed number, where nothing is compared."""
    known = [line for line in lines if line.ours is not None]
    told = [f"{line.variant} {line.metric} {line.ours.mean:.3g} ({line.cell.text})" for line in known if line.ours]
    left = f" and {len(told) - MOST_NUMBERS} more" if len(told) > MOST_NUMBERS else ""
    return ", ".join(told[:MOST_NUMBERS]) + left


def read_seconds(path: Path | None) -> dict[str, float]:
    """Lines ``NAME SECONDS``; the last of a name counts."""
    if path is None:
        return {}
    rows = (line.split() for line in path.read_text().splitlines() if line.strip())
    return {name: float(seconds) for name, seconds in rows}


def main() -> None:
    """Print one row a folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+", help="folders that `semaug study run` wrote")
    parser.add_argument("--tiny", type=Path, help="lines NAME SECONDS: the processor time of each study at tiny")
    parser.add_argument("--seconds", type=Path, help="the same for these folders")
    options = parser.parse_args()
    tiny, seconds = read_seconds(options.tiny), read_seconds(options.seconds)
    for folder in options.folders:
        print(outcome_row(folder, tiny, seconds))


if __name__ == "__main__":
    main()
