"""What was said, as the text of an event's column: `"left"`, or JSON of grades or of the best and the worst."""

import json
from dataclasses import asdict

from naruto_core.errors import RatingRefused, RecordDamaged
from naruto_core.ratings import Answer, Defect, Extremes, Grades, Mode, Outcome

ANCHORS = range(1, 6)


def to_text(answer: Answer) -> str:
    """The text of `answer`, which `from_text` turns back."""
    if isinstance(answer, Outcome):
        return json.dumps(answer.value)
    if isinstance(answer, Grades):
        return json.dumps(asdict(answer) | {"defects": sorted(answer.defects)})
    return json.dumps(asdict(answer))


def from_text(text: str) -> Answer:
    """RecordDamaged when it is not what `to_text` writes."""
    try:
        value = json.loads(text)
        if isinstance(value, str):
            return Outcome(value)
        if "best" in value:
            return Extremes(value["best"], value["worst"])
        return Grades(value["adherence"], value["style"], frozenset(map(Defect, value["defects"])))
    except (ValueError, KeyError, TypeError) as error:
        raise RecordDamaged(f"a vote in the record cannot be read ({text[:80]!r}): put back a copy of it.") from error


def check(answer: Answer, mode: Mode) -> None:
    """RatingRefused when `answer` is not one to a question of `mode`, or out of its range."""
    kind = {Mode.PAIR: Outcome, Mode.SCALE: Grades, Mode.BEST_WORST: Extremes}[mode]
    if type(answer) is not kind:
        raise RatingRefused(f"this campaign asks another question: an answer of mode {mode.value} is needed.")
    if isinstance(answer, Grades) and not (answer.adherence in ANCHORS and answer.style in ANCHORS):
        raise RatingRefused("grades go from 1 to 5.")
    if isinstance(answer, Extremes) and (
        answer.best == answer.worst or not {answer.best, answer.worst} <= set(range(mode.pictures))
    ):
        raise RatingRefused("the best and the worst are two different ones of the four pictures.")
