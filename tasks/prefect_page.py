"""What the page of a flow run in Prefect shows: the run's name and tags, its scores, pictures, warnings and links.

Outside a flow run every function here does nothing.
"""

import base64
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from urllib.parse import quote

from PIL import Image
from prefect.artifacts import (
    create_image_artifact,
    create_link_artifact,
    create_markdown_artifact,
    create_table_artifact,
)
from prefect.client.orchestration import get_client
from prefect.context import FlowRunContext, TaskRunContext

from naruto_core.domain import DatasetVersion, Finding, Run, Score, Variant
from naruto_core.report.tables import interval_text
from naruto_core.scoring.metrics import decimals

_SHEET_SIZE = (640, 4000)  # pixels at most: the picture is kept in Prefect's database


def show_run_in_prefect(run: Run, datasets: Sequence[DatasetVersion]) -> None:
    """Name the flow run after `run` and its dataset, and tag it with both and with the profile."""
    context = TaskRunContext.get()
    if context is None or context.task_run.flow_run_id is None:
        return
    flow_run_id = context.task_run.flow_run_id
    with get_client(sync_client=True) as client:
        tags = {*client.read_flow_run(flow_run_id).tags, run.id, run.profile, *(d.id[:12] for d in datasets)}
        sources = " + ".join(dataset.source for dataset in datasets)
        client.update_flow_run(flow_run_id, name=f"{run.id} on {sources}", tags=sorted(tags))


def show_scores_in_prefect(
    run: Run, scores: Sequence[Score], findings: Sequence[Finding], sheet: Path, dashboard: str
) -> None:
    """The scores of `run` with intervals, its warnings, its contact sheet, and the address of the `dashboard`."""
    if TaskRunContext.get() is None:
        return
    create_markdown_artifact(scores_markdown(run, scores, findings), key="scores", description=f"Scores of {run.id}")
    create_image_artifact(_data_url(sheet), key="contact-sheet", description=f"Pictures of {run.id}")
    if dashboard:
        models = "&".join(f"model={quote(f'{run.id}/{variant}')}" for variant in (Variant.BASE, Variant.ADAPTED))
        create_link_artifact(
            f"{dashboard.rstrip('/')}/compare?{models}", key="dashboard", link_text=f"Compare {run.id}"
        )


def show_sweep_in_prefect(name: str, rows: Sequence[Mapping[str, str]]) -> None:
    """The table of a sweep's settings, one row each with texts by column."""
    if FlowRunContext.get() is not None:
        create_table_artifact([dict(row) for row in rows], key=f"sweep-{name}", description=f"Sweep {name}")


def scores_markdown(run: Run, scores: Sequence[Score], findings: Sequence[Finding]) -> str:
    """A table of the set scores, each with its 95 % interval and n; then the warnings."""
    lines = [
        f"# {run.id}",
        "",
        "| metric | model | value | 95 % interval | n | measured by |",
        "|---|---|---|---|---|---|",
    ]
    for score in sorted(scores, key=lambda s: (s.metric, list(Variant).index(s.variant))):
        digits = decimals(score.metric)
        cells = [
            score.metric, score.variant, f"{score.value:.{digits}f}", interval_text(score.interval, f".{digits}f"),
            str(score.n), f"{score.extractor}, {score.version}",
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    warnings = [f"- **{finding.name}**: {finding.sentence}" for finding in findings if finding.warning]
    return "\n".join([*lines, "", "## Warnings", "", *(warnings or ["none"])])


def _data_url(path: Path) -> str:
    """The picture at `path`, made smaller, as a data URL: an image artifact has an address, and files have none."""
    with Image.open(path) as picture:
        small = picture.convert("RGB")
    small.thumbnail(_SHEET_SIZE)
    data = BytesIO()
    small.save(data, "WEBP", quality=70)
    return f"data:image/webp;base64,{base64.b64encode(data.getvalue()).decode()}"
