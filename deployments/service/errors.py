"""What is refused, in the shape and with the status codes of OpenAI's API."""

from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from naruto_core.errors import NarutoError

_KINDS = {429: "rate_limit_error", 401: "authentication_error", 403: "permission_error", 404: "not_found_error"}


class ErrorDetail(BaseModel):
    """`param` names the field that is wrong, `code` is for programs."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorBody(BaseModel):
    """What every refusal looks like."""

    error: ErrorDetail


class ApiError(Exception):
    """A request that is answered with `status` and one sentence."""

    def __init__(
        self, status: int, message: str, *, param: str | None = None, code: str | None = None, wait: float | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code, self.wait = status, message, param, code, wait

    def answer(self) -> JSONResponse:
        """`wait` (seconds) becomes Retry-After."""
        usual = "server_error" if self.status >= 500 else "invalid_request_error"
        kind = _KINDS.get(self.status, usual)
        body = ErrorBody(error=ErrorDetail(message=self.message, type=kind, param=self.param, code=self.code))
        headers = {} if self.wait is None else {"Retry-After": str(max(1, round(self.wait)))}
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return JSONResponse(body.model_dump(), self.status, headers)


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """For the OpenAPI page: these statuses answer with an `ErrorBody`."""
    return {status: {"model": ErrorBody} for status in statuses}


def answer_in_openais_shape(app: FastAPI) -> None:
    """FastAPI's own errors have another shape, and 422 where OpenAI's clients know 400."""

    @app.exception_handler(ApiError)
    async def refused(_: Request, error: ApiError) -> JSONResponse:
        return error.answer()

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if request.method == "POST" and kind != "application/json":
            return ApiError(415, "Content-Type: application/json is wanted.", param="Content-Type").answer()
        return _first(error.errors()[0]).answer()

    @app.exception_handler(HTTPException)
    async def other(_: Request, error: HTTPException) -> JSONResponse:
        said = ApiError(error.status_code, str(error.detail)).answer()
        said.headers.update(error.headers or {})
        return said

    @app.exception_handler(NarutoError)
    async def ours(_: Request, error: NarutoError) -> JSONResponse:
        return ApiError(503, str(error), wait=5).answer()


def _first(error: dict[str, Any]) -> ApiError:
    place = [str(part) for part in error["loc"] if part not in ("body", "query", "path", "header")]
    if error["type"] == "json_invalid":
        return ApiError(400, "The body is not valid JSON.", code="invalid_json")
    name = ".".join(place) or "body"
    if error["type"] == "extra_forbidden":
        return ApiError(400, f"Unknown parameter: {name}.", param=name, code="unknown_parameter")
    return ApiError(400, f"{name}: {error['msg']}.", param=name, code="invalid_value")
