"""Errors, in the form and with the status codes of OpenAI's API."""

from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from naruto_core.errors import NarutoError
from naruto_core.recipe_text import problem

_TYPES = {429: "rate_limit_error", 401: "authentication_error", 403: "permission_error", 404: "not_found_error"}


class ErrorDetail(BaseModel):
    """`message` is for people, `code` for programs; `param` names the field that is wrong."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorBody(BaseModel):
    """The body of every error response."""

    error: ErrorDetail


class ApiError(Exception):
    """A request that is answered with `status` and one sentence; `wait` is in seconds.

    `final`: to send it again has no use. OpenAI's clients repeat what ends with 409 or 500 twice unless they are told.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        wait: float | None = None,
        final: bool = False,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code, self.wait = status, message, param, code, wait
        self.final = final

    def response(self) -> JSONResponse:
        """The HTTP response; `wait` becomes its header Retry-After, and `final` the one that OpenAI's clients read."""
        headers = {} if self.wait is None else {"Retry-After": str(max(1, round(self.wait)))}
        if self.final:
            headers["X-Should-Retry"] = "false"
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return JSONResponse(self.body(), self.status, headers)

    def body(self) -> dict[str, Any]:
        """An `ErrorBody`."""
        default = "server_error" if self.status >= 500 else "invalid_request_error"
        detail = ErrorDetail(
            message=self.message, type=_TYPES.get(self.status, default), param=self.param, code=self.code
        )
        return ErrorBody(error=detail).model_dump()


def error_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """For the OpenAPI page: these statuses have an `ErrorBody`."""
    return {status: {"model": ErrorBody} for status in statuses}


def add_error_handlers(app: FastAPI) -> None:
    """Answer all errors in OpenAI's form: FastAPI's have another form, and 422 where OpenAI's clients expect 400."""

    @app.exception_handler(ApiError)
    async def api_error(_: Request, error: ApiError) -> JSONResponse:
        return error.response()

    @app.exception_handler(RequestValidationError)
    async def invalid_request(request: Request, error: RequestValidationError) -> JSONResponse:
        content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if request.method == "POST" and content_type != "application/json":
            return ApiError(415, "The Content-Type must be application/json.", param="Content-Type").response()
        return _from_validation(error.errors()[0]).response()

    @app.exception_handler(HTTPException)
    async def http_error(_: Request, error: HTTPException) -> JSONResponse:
        response = ApiError(error.status_code, str(error.detail)).response()
        response.headers.update(error.headers or {})
        return response

    @app.exception_handler(NarutoError)
    async def naruto_error(_: Request, error: NarutoError) -> JSONResponse:
        return ApiError(503, str(error), wait=5).response()


def _from_validation(error: dict[str, Any]) -> ApiError:
    """One of pydantic's errors as an ApiError."""
    location = [str(part) for part in error["loc"] if part not in ("body", "query", "path", "header")]
    if error["type"] == "json_invalid":
        return ApiError(400, "The body is not valid JSON.", code="invalid_json")
    name = ".".join(location) or "body"
    if error["type"] == "extra_forbidden":
        return ApiError(400, f"Unknown parameter: {name}.", param=name, code="unknown_parameter")
    return ApiError(400, f"{name}: {problem(error)}.", param=name, code="invalid_value")
