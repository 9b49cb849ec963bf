"""One BLAS thread while scores are computed.

Scores multiply and decompose many small matrices: threads of BLAS wait for each other longer than they compute (a
comparison of 176 pictures took 78 s of CPU with two threads, 17 s with one).
"""

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

from threadpoolctl import threadpool_limits

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def single_threaded(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """`function`, during which BLAS uses one thread in this process; the number is restored afterwards."""

    @wraps(function)
    def limited(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        with threadpool_limits(limits=1, user_api="blas"):
            return function(*args, **kwargs)

    return limited
