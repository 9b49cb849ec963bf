"""How often the sentences of this program are wrong: every claim beside the rate that simulations give.

`make bench-rates` runs `rates(seconds)` of every module `rates_*` beside this one, prints each rate and ends with a
line of JSON; it fails when a limit is broken. A rate breaks its limit only where chance (one in a thousand) does not
explain it.
"""

import argparse
import json
import sys
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path

from scipy import stats

CHANCE = 0.001
SECONDS = 120.0  # of user CPU, of each module


@dataclass(frozen=True, slots=True)
class Rate:
    """A claim, the rate (0 to 1) of `n` simulated worlds, its limit, and whether the rate keeps to it."""

    claim: str
    rate: float
    n: int
    limit: float
    ok: bool


def at_least(claim: str, rate: float, n: int, limit: float) -> Rate:
    """A rate that must not be below `limit` by more than chance explains."""
    return Rate(claim, rate, n, limit, round(rate * n) >= float(stats.binom.ppf(CHANCE, n, limit)))


def at_most(claim: str, rate: float, n: int, limit: float) -> Rate:
    """A rate that must not be above `limit` by more than chance explains."""
    return Rate(claim, rate, n, limit, round(rate * n) <= float(stats.binom.isf(CHANCE, n, limit)))


def main() -> int:
    """Run all modules, or those that are named; 1 when a limit is broken."""
    names = sorted(path.stem for path in Path(__file__).parent.glob("rates_*.py"))
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("modules", nargs="*", choices=[*names, []], help="default: all")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="user CPU of each module, about")
    arguments = parser.parse_args()
    rates: list[Rate] = []
    for name in arguments.modules or names:
        for rate in import_module(f"tests.benchmarks.{name}").rates(arguments.seconds):
            print(f"{'ok' if rate.ok else 'BROKEN':<7} {rate.rate:.3f} (limit {rate.limit}, n {rate.n}) {rate.claim}")
            sys.stdout.flush()
            rates.append(rate)
    print(json.dumps({rate.claim: asdict(rate) for rate in rates}))
    return 0 if all(rate.ok for rate in rates) else 1


if __name__ == "__main__":
    sys.exit(main())
