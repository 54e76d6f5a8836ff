"""The OpenAPI 3.1 document of a table of routes: what the handlers check is what it says."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final, TypeVar

import msgspec

from ipam_server import examples
from netspace.http_inputs import JSON
from netspace.http_routes import Route, common_problems
from netspace.problems import KINDS, MEDIA_TYPE, ProblemDocument

REFERENCE: Final = "#/components/schemas/{name}"

S = TypeVar("S")


def document(
    routes: Sequence[Route[S]], parameters: Mapping[str, Any], title: str, version: str
) -> dict[str, Any]:
    """The document as plain JSON values. What was made is linked to what can be asked of it."""
    schemas = _Schemas(_types(routes, parameters))
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        operation: dict[str, Any] = {
            "operationId": _identifier(route),
            "summary": route.summary,
            "description": f"Who may: {route.who.words()}.",
            "parameters": [
                *_path_parameters(route, parameters, schemas),
                *_query_parameters(route, schemas),
            ],
            "responses": _responses(route, schemas),
        }
        links = _links(route, routes)
        if links:
            operation["responses"][str(route.success)]["links"] = links
        if route.body is not None:
            operation["requestBody"] = {"required": True, "content": _body(route, schemas)}
        paths.setdefault(route.path, {})[route.method.lower()] = operation
    return {
        "openapi": "3.1.0",
        "info": {"title": title, "version": version, "license": {"name": "Apache-2.0"}},
        "paths": paths,
        "components": {"schemas": schemas.components},
    }


class _Schemas:
    """JSON schemas of all types, shared ones by reference."""

    def __init__(self, types: list[Any]) -> None:
        schemas, self.components = msgspec.json.schema_components(types, ref_template=REFERENCE)
        self._known = list(zip(types, schemas, strict=True))

    def of(self, kind: Any) -> dict[str, Any]:
        return next(schema for known, schema in self._known if known == kind)

    def content(self, kind: Any, media: str = JSON) -> dict[str, Any]:
        if kind is bytes:
            return {media: {"schema": {"type": "object" if media == JSON else "string"}}}
        return {media: {"schema": self.of(kind)}}


def _types(routes: Iterable[Route[S]], parameters: Mapping[str, Any]) -> list[Any]:
    types: list[Any] = [ProblemDocument, *parameters.values()]
    for route in routes:
        types += [kind for kind in (route.body, route.answer) if kind not in (None, bytes)]
        if route.query is not None:
            types += [field.type for field in msgspec.structs.fields(route.query)]
    return types


def _path_parameters(
    route: Route[S], parameters: Mapping[str, Any], schemas: _Schemas
) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "in": "path",
            "required": True,
            "schema": schemas.of(parameters[name]),
            "example": examples.PARAMETERS[name],
        }
        for name in route.parameters
    ]


def _body(route: Route[S], schemas: _Schemas) -> dict[str, Any]:
    content = schemas.content(route.body)
    example = examples.of_body(route.body)
    if example is not None:
        content[JSON]["example"] = msgspec.to_builtins(example)
    return content


def _links(route: Route[S], routes: Sequence[Route[S]]) -> dict[str, Any]:
    """From what a route makes to the routes below its path: the one parameter that they have more
    is the answer's `name`, or stood in the body under the parameter's own."""
    if route.success != HTTPStatus.CREATED:
        return {}
    links = {}
    for other in routes:
        more = other.parameters[len(route.parameters) :]
        if other.path.startswith(f"{route.path}/{{") and len(more) == 1:
            named = "name" in route.answer.__struct_fields__
            made = "$response.body#/name" if named else f"$request.body#/{more[0]}"
            links[_identifier(other)] = {
                "operationId": _identifier(other),
                "parameters": {
                    **{name: f"$request.path.{name}" for name in route.parameters},
                    more[0]: made,
                },
            }
    return links


def _query_parameters(route: Route[S], schemas: _Schemas) -> list[dict[str, Any]]:
    if route.query is None:
        return []
    return [
        {"name": field.encode_name, "in": "query", "schema": schemas.of(field.type)}
        for field in msgspec.structs.fields(route.query)
    ]


def _responses(route: Route[S], schemas: _Schemas) -> dict[str, Any]:
    done: dict[str, Any] = {"description": HTTPStatus(route.success).phrase}
    if route.answer is not None:
        done["content"] = schemas.content(route.answer, route.media)
    responses = {str(route.success): done}
    by_status: dict[int, list[str]] = {}
    for code in dict.fromkeys((*common_problems(route), *route.problems)):
        by_status.setdefault(KINDS[code].status, []).append(code)
    for status, codes in sorted(by_status.items()):
        what = "; ".join(f"`{code}`: {KINDS[code].title}" for code in codes)
        responses[str(status)] = {
            "description": what,
            "content": schemas.content(ProblemDocument, MEDIA_TYPE),
        }
    return responses


def _identifier(route: Route[S]) -> str:
    words = [part.strip("{}") for part in route.path.split("/") if part not in ("", "v1")]
    return "_".join([route.method.lower(), *words]).replace("-", "_").replace(".", "_")
