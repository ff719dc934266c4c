"""Checks Kubernetes objects against the OpenAPI documents of Kubernetes and the CRDs of the Prometheus operator, offline.

A field that the schema does not have is an error, as it is for an API server with strict field validation.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator

Json = dict[str, Any]


class _Loader(yaml.SafeLoader):
    pass


# A bare "=" is a value of an enumeration in the operator's CRDs; YAML 1.1 gives it a type of its own.
_Loader.add_constructor("tag:yaml.org,2002:value", lambda _, node: str(node.value))


class KubernetesSchemas:
    """``directory`` holds ``openapi/`` (``api/openapi-spec/v3`` of Kubernetes) and ``operator-crd/``."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def problems(self, manifest: Json) -> list[str]:
        """Returns what is wrong with an object, each with its path in it."""
        validator = self._validator(str(manifest["apiVersion"]), str(manifest["kind"]))
        found = sorted(validator.iter_errors(manifest), key=lambda error: [str(part) for part in error.absolute_path])
        return [f"{manifest['kind']} {'.'.join(map(str, error.absolute_path))}: {error.message[:200]}" for error in found]

    @functools.cache  # noqa: B019 - one object of this class lives as long as the tests
    def _validator(self, api_version: str, kind: str) -> Draft202012Validator:
        group, _, version = api_version.rpartition("/")
        if group == "monitoring.coreos.com":
            return Draft202012Validator(_closed(self._crd(kind, version)))
        name = f"apis__{group}__{version}_openapi.json" if group else f"api__{version}_openapi.json"
        document = json.loads((self._directory / "openapi" / name).read_text(encoding="utf-8"))
        schemas: Json = {key: _closed(schema) for key, schema in document["components"]["schemas"].items()}
        wanted = {"group": group, "kind": kind, "version": version}
        (root,) = (key for key, schema in schemas.items() if wanted in schema.get("x-kubernetes-group-version-kind", ()))
        return Draft202012Validator({"$ref": f"#/components/schemas/{root}", "components": {"schemas": schemas}})

    def _crd(self, kind: str, version: str) -> Json:
        path = self._directory / "operator-crd" / f"monitoring.coreos.com_{kind.lower()}s.yaml"
        crd = yaml.load(path.read_text(encoding="utf-8"), _Loader)
        (schema,) = (entry["schema"]["openAPIV3Schema"] for entry in crd["spec"]["versions"] if entry["name"] == version)
        schema["properties"]["metadata"] = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
        return dict(schema)


def _closed(schema: Any) -> Any:
    """The schema in which an object has no other fields than those named; Kubernetes' int-or-string is both."""
    if isinstance(schema, list):
        return [_closed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("x-kubernetes-int-or-string") or schema.get("format") == "int-or-string":
        return {"type": ["integer", "string"]}
    result = {key: _closed(value) for key, value in schema.items()}
    is_open = "additionalProperties" in schema or schema.get("x-kubernetes-preserve-unknown-fields")
    if isinstance(schema.get("properties"), dict) and not is_open:
        result["additionalProperties"] = False
    return result


def objects(text: str) -> Iterator[Json]:
    """Yields the objects of a rendered chart."""
    for document in yaml.safe_load_all(text):
        if document:
            yield document
