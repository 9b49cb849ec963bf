"""Present: the contact sheet and the closing table that a person looks at first."""

from prefect import task

from naruto_core.contact_sheet import SheetBlock, write_sheet
from naruto_core.domain import HEADLINE_METRICS, PromptSuite, Run, Score, Variant
from naruto_core.report.tables import interval_text
from tasks.place import working_place
from tasks.reporting import say


@task
def present(run: Run, suite: PromptSuite) -> str:
    """Lay out the first seed of every prompt, base beside adapted beside fused; the sheet's path."""
    with working_place() as place:
        samples = [s for s in place.store.samples(run.id) if s.seed == suite.seeds[0]]
        paths = {(s.prompt, s.variant): place.layout.root / s.path for s in samples}
        variants = [v for v in Variant if any(s.variant is v for s in samples)]
        blocks = [SheetBlock(p.text, tuple(paths.get((p.slug, v)) for v in variants)) for p in suite.prompts]
        sheet = place.layout.contact_sheet(run.id)
        write_sheet(blocks, [str(variant) for variant in variants], sheet)
        scores = [s for s in place.store.scores(run.id) if s.sample_id is None and s.metric in HEADLINE_METRICS]
        findings = [finding for finding in place.store.findings(run.id) if finding.warning]
    warnings = "".join(f"\nwarning    {finding.name}: {finding.sentence}" for finding in findings)
    more = f"all of it  naruto scores {run.id}\nlook at    {sheet}\nthen type  make dashboard"
    say(f"\n{table(scores)}{warnings}\n\n{more}\n")
    return str(sheet)


def table(scores: list[Score]) -> str:
    """Set scores and means as aligned text, one line each, with interval, n and ruler."""
    lines = [f"{'metric':<19} {'model':<8} {'value':>8}   {'95 % interval':<18} {'n':>4}  measured by"]
    for one in sorted(scores, key=lambda s: (s.metric, list(Variant).index(s.variant))):
        digits = 1 if one.metric == "fid" else 3
        interval = interval_text(one.interval, f".{digits}f")
        ruler = f"{one.extractor}, {one.version}"
        lines.append(f"{one.metric:<19} {one.variant:<8} {one.value:>8.{digits}f}   {interval:<18} {one.n:>4}  {ruler}")
    return "\n".join(lines)
