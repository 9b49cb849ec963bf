"""The votes of a campaign as CSV and Parquet, for other programs."""

import csv
import io
from collections.abc import Sequence

from naruto_core.ratings import Extremes, Grades, Outcome, Rating

_HEAD = (
    "at", "reviewer", "prompt", "seed", "models", "samples", "answer", "winner", "adherence", "style", "defects",
    "best", "worst", "seconds", "repeat", "gold", "propensity",
)  # fmt: skip


def votes_csv(ratings: Sequence[Rating]) -> str:
    """CSV with a line for each vote that counts, repeats and gold units included (columns `repeat` and `gold`).

    `models` and `samples` are in the order shown, separated by spaces. `answer` is that of a pair, `winner` its model
    ("" for a tie); `best` and `worst` are models. `reviewer` is the id, not the name; `at` is UTC; `gold` is the right
    sample, or "".
    """
    memory = io.StringIO()
    writer = csv.writer(memory, lineterminator="\n")
    writer.writerow(_HEAD)
    for rating in ratings:
        writer.writerow(
            [
                rating.at.isoformat(), rating.reviewer_id, spreadsheet_text(rating.prompt), rating.seed,
                spreadsheet_text(" ".join(rating.contenders)), spreadsheet_text(" ".join(rating.samples)),
                *_answer(rating), f"{rating.seconds:.3f}", int(rating.repeat), rating.gold, f"{rating.propensity:.6g}",
            ]
        )  # fmt: skip
    return memory.getvalue()


def write_votes_parquet(ratings: Sequence[Rating]) -> bytes:
    """The table of `votes_csv` as a Parquet file."""
    from pyarrow import BufferOutputStream, BufferReader  # imported here: a page of the dashboard needs them once
    from pyarrow.csv import read_csv
    from pyarrow.parquet import write_table

    sink = BufferOutputStream()
    write_table(read_csv(BufferReader(votes_csv(ratings).encode())), sink)
    return sink.getvalue().to_pybytes()


def spreadsheet_text(text: str) -> str:
    """`text`, escaped where a spreadsheet would read it as a formula."""
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text


def _answer(rating: Rating) -> tuple[str, ...]:
    """The columns from `answer` to `worst`."""
    answer, models = rating.answer, rating.contenders
    if isinstance(answer, Grades):
        return "", "", str(answer.adherence), str(answer.style), " ".join(sorted(answer.defects)), "", ""
    if isinstance(answer, Extremes):
        return "", "", "", "", "", models[answer.best], models[answer.worst]
    winner = {Outcome.LEFT: models[0], Outcome.RIGHT: models[-1]}.get(answer, "")
    return answer.value, winner, "", "", "", "", ""
