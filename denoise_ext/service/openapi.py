"""The description of the HTTP API, after OpenAPI 3.1."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from denoise_ext import __version__
from denoise_ext.service.options import ServiceOptions
from denoise_ext.service.parameters import ANALYSE, DENOISE, PART, Parameter

_ERROR = {
    "type": "object",
    "properties": {"error": {"type": "string", "description": "One line."}},
    "required": ["error"],
}
_TEXTS = {
    400: "A parameter that is unknown or wrong, an empty body.",
    401: "The token is missing or wrong.",
    403: "A page from another place.",
    404: "A picture that is not kept, or not any more.",
    408: "The body came too slowly.",
    413: "The body or the picture is larger than the limits.",
    415: "A form, or a body that is no image that can be read.",
    421: "A host name that is not this machine's.",
    422: "The picture or a parameter does not fit the network or the format.",
    429: "The service has enough to do: repeat after `Retry-After` seconds.",
    503: "There is not enough memory now.",
    504: "Not done within the time limit.",
}
_ALWAYS = (401, 403, 421)
_UPLOAD = (400, 408, 413, 415, 422, 429, 503, 504)
_PART = (400, 404, 422, 429, 503, 504)
_FOUND = {
    "type": "object",
    "properties": {
        "width": {"type": "integer"},
        "height": {"type": "integer"},
        "channels": {"type": "integer", "minimum": 1, "maximum": 4},
        "frames": {"type": "integer"},
        "dtype": {"type": "string"},
        "format": {"type": "string"},
        "written_as": {"type": "string", "description": "Suffix of the result."},
        "noise": {
            "type": ["object", "null"],
            "description": "The fields of `NoiseProfile`; null for pictures that are too small.",
        },
        "treatment": {"type": "string", "description": "What was found, and what is done."},
        "model": {"type": "string"},
        "sigma": {"type": ["number", "null"]},
        "estimated_sigma": {"type": "number"},
        "notes": {"type": "array", "items": {"type": "string"}},
        "id": {"type": "string", "description": "With `keep=true`."},
        "kept_seconds": {"type": "number", "description": "With `keep=true`."},
    },
}
_IMAGE_BODY = {
    "required": True,
    "description": "The file itself. Its format is recognised by its content.",
    "content": {
        kind: {"schema": {"type": "string", "format": "binary"}}
        for kind in ("application/octet-stream", "image/*")
    },
}
_PICTURE_ID = {
    "name": "id", "in": "path", "required": True, "schema": {"type": "string"},
    "description": "From `/v1/analyse?keep=true`.",
}  # fmt: skip


def description(options: ServiceOptions) -> dict[str, Any]:
    """The description of this service, with its limits."""
    document: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {
            "title": "denoise_ext",
            "version": __version__,
            "description": f"Image denoising. An upload has at most {options.max_upload} bytes and"
            f" {options.max_pixels} pixels. {options.max_requests} pictures may be in hand.",
        },
        "paths": _paths(),
        "components": {"schemas": {"Error": _ERROR, "Analysis": _FOUND}},
    }
    if options.token is not None:
        scheme = {"type": "http", "scheme": "bearer"}
        document["components"]["securitySchemes"] = {"token": scheme}
        document["security"] = [{"token": []}]
    return document


def _paths() -> dict[str, Any]:
    analysis = {"$ref": "#/components/schemas/Analysis"}
    return {
        "/v1/denoise": {"post": {
            "summary": "Denoise an image.",
            "parameters": _parameters(DENOISE),
            "requestBody": _IMAGE_BODY,
            "responses": _responses(_UPLOAD, _file("The image, with the metadata of the upload.")),
        }},
        "/v1/analyse": {"post": {
            "summary": "Find out what noise an image has.",
            "parameters": _parameters(ANALYSE),
            "requestBody": _IMAGE_BODY,
            "responses": _responses(_UPLOAD, _json("What was found.", analysis)),
        }},
        "/v1/pictures/{id}/part": {"get": {
            "summary": "A part of a kept picture, denoised, as an 8-bit PNG.",
            "parameters": [_PICTURE_ID, *_parameters(PART)],
            "responses": _responses(_PART, _file("The part.", "image/png")),
        }},
        "/v1/pictures/{id}": {"delete": {
            "summary": "Forget a kept picture.",
            "parameters": [_PICTURE_ID],
            "responses": _responses((), {"description": "Forgotten."}, 204),
        }},
        "/v1/models": {"get": {
            "summary": "The networks that may be named, and the limits.",
            "responses": _responses((), _json("Names, limits.", {"type": "object"})),
        }},
        "/v1/sample": {"get": {
            "summary": "A photograph with noise, to try the service.",
            "responses": _responses((), _file("The photograph.", "image/png")),
        }},
        "/healthz": {"get": {
            "summary": "Whether the service answers.", "security": [],
            "responses": {"200": _json("It does.", {"type": "object"})},
        }},
        "/metrics": {"get": {
            "summary": "Counters in the text format of Prometheus.",
            "responses": _responses((), _file("The counters.", "text/plain")),
        }},
        "/openapi.json": {"get": {
            "summary": "This description.", "security": [],
            "responses": {"200": _json("OpenAPI 3.1.", {"type": "object"})},
        }},
    }  # fmt: skip


def _parameters(parameters: Iterable[Parameter]) -> list[dict[str, Any]]:
    return [
        {"name": one.name, "in": "query", "required": one.required, "description": one.text,
         "schema": dict(one.schema)}
        for one in parameters
    ]  # fmt: skip


def _responses(statuses: Iterable[int], good: dict[str, Any], code: int = 200) -> dict[str, Any]:
    error = {"$ref": "#/components/schemas/Error"}
    bad = {
        str(status): _json(_TEXTS[status], error) for status in sorted({*statuses, *_ALWAYS})
    }  # fmt: skip
    return {str(code): good, **bad}


def _json(text: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": text, "content": {"application/json": {"schema": schema}}}


def _file(text: str, kind: str = "image/*") -> dict[str, Any]:
    schema = {"type": "string", "format": "binary"}
    return {"description": text, "content": {kind: {"schema": schema}}}
