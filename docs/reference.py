"""Writes the reference pages of the documentation from the code, and the list of decisions from the decisions.

Run by `make docs`; tests/test_docs.py fails when a committed page differs from what this program would write.
The pages come from pydantic's JSON schemas (recipe, settings, HTTP API), Typer's commands, the Makefile's comments and
the metrics' own descriptions.
"""

import json
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from inspect import cleandoc
from pathlib import Path
from typing import Any

import typer
from pydantic import BaseModel
from typer.main import get_command

from deployments.service.__main__ import app as service_app
from deployments.service.app import create_app
from deployments.service.options import ServiceOptions
from flows.cli import app as naruto_app
from flows.plan import plans_page
from naruto_core.recipe import Recipe
from naruto_core.scoring.metrics import SAMPLE_METRICS, SET_METRICS
from naruto_core.scoring.registry import Metric
from naruto_core.scoring.sample_metrics import SampleMetric
from naruto_core.scoring.set_metrics import SetMetric
from naruto_core.settings import Settings

PROJECT = Path(__file__).resolve().parent.parent
REFERENCE = Path("docs/reference")
PLANS = REFERENCE / "plans.md"
DECISIONS = Path("docs/decisions")
NOTE = "<!-- Written by docs/reference.py from the code. Change the code, then run `make docs`. -->\n"
NOTE_ON_DECISIONS = "<!-- Written by docs/reference.py from the files in docs/decisions: `make docs`. -->\n"
Schema = Mapping[str, Any]

ABOUT_RECIPE = """\
A recipe holds every choice of a run. The profiles are recipe files in `flows/recipes`. A key that is not listed here is
an error. `--set KEY=VALUE` changes one key, with dots between the sections: `--set training.rank=8`.
"""
ABOUT_CLI = """\
`naruto` and `naruto-service` are in `.venv/bin`: add it to your PATH, or activate the environment. A user's mistake
ends with one sentence and exit status 1.
"""
ABOUT_SETTINGS = """\
Settings are environment variables. They say where things are on this machine and what it may use; they never affect
results. What affects results is in the [recipe](recipe.md).
"""
ABOUT_HTTP = """\
The HTTP service speaks OpenAI's images API and adds to it. A running service describes itself at `/docs` and
`/openapi.json`. How to start it: [Serving](../guides/serving.md).
"""
ABOUT_METRICS = """\
How they are used: [Evaluation](../guides/evaluation.md). Where their intervals and verdicts come from:
[Statistics](../explanation/statistics.md).
"""
ABOUT_SET_METRICS = """\
A set metric is one number for all pictures of a model. With fewer pictures than `least` it is not measured. `fid` and
`kid` are the names on Inception's features; on another network they are `fd-<name>` and `kd-<name>`, and they are
measured on `scoring.set_extractor` and on each of `scoring.more_set_extractors`.
"""
ABOUT_SAMPLE_METRICS = """\
A sample metric is a number for each picture; the mean is shown. An optional metric is measured only where the recipe
names a model for it, by the key in the column `optional`. Pictures that a metric says nothing of, such as those whose
prompt asks for no hair colour, are not counted.
"""
ABOUT_DECISIONS = "One file each: context, decision, consequences. Newest first. A new one has the next number.\n"

# Environment variables that are no field of a settings class.
FURTHER_VARIABLES = {
    "NARUTO_PREFECT_PORT": "Port of the Prefect server of `make up`; default 4200.",
    "NARUTO_PROJECT": "Folder that a deployed flow works in; `make up` and the images set it.",
    "HF_TOKEN": "Token of the model hub, for a push and for models that need one.",
    "PREFECT_API_URL": "Address of the Prefect server that flows report to and that `prefect` asks.",
    "OTEL_EXPORTER_OTLP_ENDPOINT": "Where the service sends traces; unset: no traces.",
    "NARUTO_TEST_COMFYUI": "Tests only: a local checkout of ComfyUI whose loader is tried.",
    "NARUTO_TEST_SD_SCRIPTS": "Tests only: a local checkout of kohya's sd-scripts.",
    "NARUTO_TEST_INFERENCE_TOOLKIT": "Tests only: a local checkout of Hugging Face's inference toolkit.",
    "NARUTO_TEST_ALL_COMBINATIONS": "Tests only: every combination of training options; `make test-loaders` sets it.",
}


def pages() -> dict[Path, str]:
    """Every generated file, by its path from the project folder."""
    return {
        REFERENCE / "recipe.md": recipe_page(),
        REFERENCE / "cli.md": cli_page(),
        REFERENCE / "settings.md": settings_page(),
        REFERENCE / "http-api.md": http_page(),
        REFERENCE / "metrics.md": metrics_page(),
        PLANS: plans_page((PROJECT / PLANS).read_text(encoding="utf-8") if (PROJECT / PLANS).exists() else ""),
        DECISIONS / "index.md": _decisions_page(""),
        Path("DECISIONS.md"): _decisions_page(f"{DECISIONS}/"),
    }


# --- JSON schemas: types, bounds and defaults as text


def _kind(schema: Schema, link: Mapping[str, str]) -> str:  # noqa: PLR0911
    """The type of a field, in words: "whole number, 1 to 256", or a link to the section it refers to."""
    if "$ref" in schema:
        name = schema["$ref"].rsplit("/", 1)[1]
        return link.get(name, name)
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(_kind(one, link) for one in schema["anyOf"]))
    if "allOf" in schema:
        return _kind(schema["allOf"][0], link)
    if "enum" in schema or "const" in schema:
        return " or ".join(f"`{value}`" for value in schema.get("enum", [schema.get("const")]))
    if schema.get("type") == "array":
        inner = schema.get("prefixItems") or [schema.get("items", {})]
        return "list of " + ", ".join(_kind(one, link) for one in inner)
    if schema.get("type") == "object":
        values = schema.get("additionalProperties")
        return f"mapping of names to {_kind(values, link)}" if isinstance(values, Mapping) else "mapping"
    names = {"integer": "whole number", "number": "number", "boolean": "`true` or `false`", "null": "`null`"}
    name = "path" if schema.get("format") == "path" else names.get(schema.get("type", ""), "text")
    return ", ".join([name, *_bounds(schema)])


def _bounds(schema: Schema) -> Iterator[str]:
    low, above = schema.get("minimum"), schema.get("exclusiveMinimum")
    high, below = schema.get("maximum"), schema.get("exclusiveMaximum")
    if low is not None and high is not None:
        yield f"{low:g} to {high:g}" if abs(high) < 1e6 else f"at least {low:g}"
    else:
        yield from (f"at least {low:g}" for _ in [0] if low is not None)
        yield from (f"at most {high:g}" for _ in [0] if high is not None)
    yield from (f"more than {above:g}" for _ in [0] if above is not None)
    yield from (f"less than {below:g}" for _ in [0] if below is not None and below < 1e6)
    if step := schema.get("multipleOf"):
        yield f"a multiple of {step:g}"
    if pattern := schema.get("pattern"):
        yield f"matching `{pattern}`"


def _default(schema: Schema, required: bool) -> str:
    if required:
        return "**required**"
    if "default" not in schema:
        return ""
    return f"`{json.dumps(schema['default'], ensure_ascii=False)}`"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *([_cell(text) for text in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _cell(text: str) -> str:
    """`text` on one line, with what Markdown would take for a tag or a cell's end escaped outside of code."""
    outside = re.split(r"(`[^`]*`)", " ".join(text.split()))
    outside[::2] = [part.replace("<", "&lt;") for part in outside[::2]]
    return "".join(outside).replace("|", "\\|")


def _fields(schema: Schema, link: Mapping[str, str], name: str = "key", sections: Schema | None = None) -> str:
    """A table of the schema's fields; one that holds a section is described as the section is, in `sections`."""
    required = schema.get("required", [])
    rows: list[list[str]] = []
    for key, field in schema.get("properties", {}).items():
        inner = re.search(r"#/\$defs/(\w+)", json.dumps(field))
        of_section = sections[inner[1]]["description"] if sections and inner else ""
        meaning = field.get("description", _text(of_section))
        rows.append([f"`{key}`", _kind(field, link), _default(field, key in required), meaning])
    return _table([name, "type", "default", "meaning"], rows)


def _text(description: str) -> str:
    return " ".join(cleandoc(description).split())


# --- Recipe


def recipe_page() -> str:
    """Every key of a recipe, section by section."""
    schema = Recipe.model_json_schema()
    first: dict[str, str] = {}
    for path, name in _sections(schema, schema, ""):
        first.setdefault(name, path)  # several keys may take one section (dataset, styles[].dataset)
    link = {name: f"[{path}](#{_slug(path)})" for name, path in first.items()}
    parts = [
        NOTE,
        "# Recipe\n",
        ABOUT_RECIPE,
        _fields(schema, link, sections=schema["$defs"]),
    ]
    for name, path in first.items():
        section = schema["$defs"][name]
        parts += [f"## {path}\n", _text(section["description"]) + "\n"]
        parts.append(_fields(section, link, sections=schema["$defs"]))
    return "\n".join(parts)


def _sections(root: Schema, schema: Schema, prefix: str) -> Iterator[tuple[str, str]]:
    """(dotted path, definition's name) of every section below `schema`, in the order of the keys."""
    for key, field in schema.get("properties", {}).items():
        for name in re.findall(r"#/\$defs/(\w+)", json.dumps(field)):
            path = f"{prefix}{key}" + ("[]" if '"items"' in json.dumps(field) else "")
            yield path, name
            yield from _sections(root, root["$defs"][name], f"{path}.")


def _slug(heading: str) -> str:
    """The anchor that Python-Markdown gives to a heading."""
    return re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower())


# --- Command line


def cli_page() -> str:
    """Every command of `naruto` and `naruto-service`, and every target of make."""
    parts = [
        NOTE,
        "# Command line\n",
        ABOUT_CLI,
        *_commands("naruto", naruto_app),
        *_commands("naruto-service", service_app),
        "## make\n",
        _make_targets(),
    ]
    return "\n".join(parts)


def _commands(program: str, application: typer.Typer) -> Iterator[str]:
    group = get_command(application)
    yield f"## {program}\n"
    yield _text(group.help or "") + "\n"
    yield from _subcommands(program, group)


def _subcommands(prefix: str, group: Any) -> Iterator[str]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _subcommands(f"{prefix} {name}", command)
            continue
        yield f"### {prefix} {name}\n"
        yield _text(command.help or "") + "\n"
        if rows := [_parameter(one) for one in command.params if one.name != "help"]:
            yield _table(["argument or option", "default", "meaning"], rows)


def _parameter(one: Any) -> list[str]:
    if one.param_type_name == "argument":
        name = f"`{one.metavar or one.name.upper()}`"
    else:
        metavar = "" if getattr(one, "is_flag", False) else f" {one.metavar or one.name.upper()}"
        name = ", ".join(f"`{option}`" for option in one.opts[:-1])
        name += f"{', ' if name else ''}`{one.opts[-1]}{metavar}`"
    flag = getattr(one, "is_flag", False)
    default = "**required**" if one.required else "" if flag or one.default in (None, "") else f"`{one.default}`"
    return [name, default, one.help or ""]


def _make_targets() -> str:
    makefile = (PROJECT / "Makefile").read_text(encoding="utf-8")
    rows = re.findall(r"^([a-z-]+):.*?## (.*)$", makefile, re.MULTILINE)
    return _table(["target", "meaning"], [[f"`make {name}`", meaning] for name, meaning in rows])


# --- Settings


def settings_page() -> str:
    """Every environment variable that is read."""
    parts = [
        NOTE,
        "# Settings\n",
        ABOUT_SETTINGS,
        "## The project\n",
        _variables(Settings, "NARUTO_"),
        "## The HTTP service\n",
        _variables(ServiceOptions, "NARUTO_SERVICE_"),
        "## Further variables\n",
        _table(["variable", "meaning"], [[f"`{name}`", meaning] for name, meaning in FURTHER_VARIABLES.items()]),
    ]
    return "\n".join(parts)


def _variables(model: type[BaseModel], prefix: str) -> str:
    fields = model.model_json_schema()["properties"]
    rows = []
    for name, field in fields.items():
        default = field.get("default")
        shown = "" if default in ("", None) else f"`{default}`"
        rows.append([f"`{prefix}{name.upper()}`", _kind(field, {}), shown, field.get("description", "")])
    return _table(["variable", "type", "default", "meaning"], rows)


# --- HTTP API

# FastAPI describes its own answer to an invalid request, 422; the service answers 400 in OpenAI's form.
_NOT_ANSWERED = {"HTTPValidationError", "ValidationError"}


def http_page() -> str:
    """Every route of the service, from its OpenAPI description."""
    with tempfile.TemporaryDirectory() as home:
        schema = create_app(Settings(home=Path(home)), ServiceOptions(instance="reference")).openapi()
    models = {name: model for name, model in schema["components"]["schemas"].items() if name not in _NOT_ANSWERED}
    link = {name: f"[{name}](#{_slug(name)})" for name in models}
    parts = [
        NOTE,
        "# HTTP API\n",
        ABOUT_HTTP,
    ]
    for path, methods in schema["paths"].items():
        for method, operation in methods.items():
            parts += _route(f"{method.upper()} {path}", operation, link)
    parts.append("## Schemas\n")
    for name, model in models.items():
        description = [_text(model["description"]) + "\n"] if "description" in model else []
        parts += [f"### {name}\n", *description, _fields(model, link, "field")]
    return "\n".join(parts)


def _route(title: str, operation: Schema, link: Mapping[str, str]) -> Iterator[str]:
    yield f"## {title}\n"
    yield _text(operation.get("description", operation.get("summary", ""))) + "\n"
    for parameter in operation.get("parameters", []):
        optional = "" if parameter.get("required") else ", optional"
        yield f"- parameter `{parameter['name']}` ({parameter['in']}{optional}): {_kind(parameter['schema'], link)}"
    for content in operation.get("requestBody", {}).get("content", {}).values():
        yield f"- request body: {_kind(content['schema'], link)}"
    errors = [status for status in operation["responses"] if int(status) >= 400 and status != "422"]
    for status, response in operation["responses"].items():
        if int(status) >= 400:
            continue
        bodies = [_kind(one["schema"], link) for one in response.get("content", {}).values() if one.get("schema")]
        shown = f" ({', '.join(bodies)})" if bodies else ""
        yield f"- {status}: {_text(response['description'])}{shown}"
    if errors:
        yield f"- errors: {', '.join(errors)} ({link['ErrorBody']})"
    yield ""


# --- Metrics

_EXTRACTORS = {
    "own": "its own model",
    "similarity": "the first of `scoring.more_set_extractors`, else `scoring.set_extractor`",
    "cmmd": "`scoring.cmmd_extractor`, else `scoring.pair_extractor`",
}
_DIRECTION = {-1: "lower", 0: "neither", 1: "higher"}


def metrics_page() -> str:
    """Every metric: direction, what it measures, what it does not see, what it needs, its source."""
    set_rows = [[*_metric_cells(m), str(m.least), m.paper] for m in SET_METRICS]
    sample_rows = [[*_metric_cells(m), f"`{m.requires}`" if m.optional else "", m.paper] for m in SAMPLE_METRICS]
    head = ["metric", "better", "what it sees", "what it is blind to", "version", "features by"]
    of_sets = ["## Set metrics\n", ABOUT_SET_METRICS, _table([*head, "least", "method"], set_rows)]
    of_samples = ["## Sample metrics\n", ABOUT_SAMPLE_METRICS, _table([*head, "optional", "method"], sample_rows)]
    return "\n".join([NOTE, "# Metrics\n", ABOUT_METRICS, *of_sets, *of_samples])


def _metric_cells(metric: Metric) -> list[str]:
    extractor = _EXTRACTORS.get(metric.extractor, f"`scoring.{metric.extractor}_extractor`")
    family = metric.family if isinstance(metric, SetMetric) else ""
    name = f"{metric.name}, {family}-*" if family else metric.name
    if isinstance(metric, SetMetric) and metric.base_styles:
        name += f", {metric.on_base_styles().name}"
    if isinstance(metric, SampleMetric) and metric.by_tag:
        name += f", {', '.join(metric.by_tag.values())}"
    return [name, _DIRECTION[metric.better], metric.sees, metric.blind, metric.version, extractor]


# --- Decisions


def _decisions_page(folder: str) -> str:
    """The list of decisions, newest first, with links that begin with `folder`."""
    lines = [NOTE_ON_DECISIONS, "# Decisions\n", ABOUT_DECISIONS]
    for path in sorted((PROJECT / DECISIONS).glob("[0-9]*.md"), reverse=True):
        text = path.read_text(encoding="utf-8")
        heading, date = re.search(r"^# (.+)$", text, re.MULTILINE), re.search(r"^Date: ([0-9-]+)", text, re.MULTILINE)
        if not heading or not date:
            raise ValueError(f"{path.name} needs a heading and a line `Date: YYYY-MM-DD`")
        lines.append(f"- {date[1]} [{heading[1]}]({folder}{path.name})")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Write every generated page."""
    for path, text in pages().items():
        (PROJECT / path).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
