"""`fid` and `kid` are Inception's; on other features the same formulas are `fd-<extractor>` and `kd-<extractor>`.

The short name of an extractor comes from the run's recipe, as it did when this was written. A score that was called
`fd`, of one of several further extractors, ends with the extractor's kind and the beginning of its digest. A Fréchet
distance that torchmetrics computed gets the version of our own formula: both agree to six digits, and the next scoring
replaces it.
"""

import json
import re
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

_SCORES = sa.table(
    "scores", sa.column("id"), sa.column("run_id"), sa.column("metric"), sa.column("extractor"), sa.column("version")
)
_RUNS = sa.table("runs", sa.column("id"), sa.column("recipe_json", sa.Text))
_FORMER = {"fid": "fd", "fd": "fd", "kid": "kd"}


def upgrade() -> None:
    connection = op.get_bind()
    rows = connection.execute(
        sa.select(_SCORES.c.run_id, _SCORES.c.metric, _SCORES.c.extractor)
        .where(_SCORES.c.metric.in_(_FORMER), ~_SCORES.c.extractor.startswith("inception"))
        .distinct()
    ).all()
    with_recipes = sa.select(_RUNS.c.id, _RUNS.c.recipe_json).where(_RUNS.c.id.in_({row.run_id for row in rows}))
    recipes = {run_id: recipe for run_id, recipe in connection.execute(with_recipes)}  # noqa: C416 (rows are no pairs)
    main = {(run_id, extractor) for run_id, metric, extractor in rows if metric == "fid"}
    for run_id, metric, extractor in rows:
        of_this = (_SCORES.c.run_id == run_id) & (_SCORES.c.metric == metric) & (_SCORES.c.extractor == extractor)
        if metric == "fd" and (run_id, extractor) in main:  # the same number twice
            op.execute(_SCORES.delete().where(of_this))
            continue
        label = _label(json.loads(recipes.get(run_id) or "{}").get("scoring", {}), metric, extractor)
        values = {"metric": f"{_FORMER[metric]}-{label}"}
        if metric == "fid":
            values["version"] = "Frechet 1"
        op.execute(_SCORES.update().where(of_this).values(values))
    further_inception = (_SCORES.c.metric == "fd") & _SCORES.c.extractor.startswith("inception")
    op.execute(_SCORES.update().where(further_inception).values(metric="fid"))


def downgrade() -> None:
    for family, former in (("fd", "fid"), ("kd", "kid")):
        op.execute(_SCORES.update().where(_SCORES.c.metric.startswith(f"{family}-")).values(metric=former))


def _label(scoring: dict[str, Any], metric: str, extractor: str) -> str:
    further = metric == "fd"
    named = scoring.get("more_set_extractors") or [] if further else [scoring.get("set_extractor") or ""]
    if len(named) == 1 and named[0]:
        return _short_name(named[0])
    kind, _, digest = extractor.partition(":")
    return "-".join(filter(None, (kind.replace("_", "-"), digest[:8])))


def _short_name(name: str) -> str:
    path = name.partition("@")[0].rstrip("/")
    parts = path.removeprefix("timm:").removeprefix("package:").split("/")
    label = (parts[0] if len(parts) == 2 and parts[0][:3] in ("ViT", "RN5", "RN1") else parts[-1]).lower()
    if size := re.search(r"vit_(small|base|large|giant)\w*dinov2", label):
        return "dinov2" if size[1] == "large" else f"dinov2-{size[1]}"
    if "dinov2" in label:
        return "dinov2"
    return re.sub(r"[^a-z0-9]+", "-", label).strip("-")
