"""As much of kustomize as deploy/kubernetes uses, for machines without it: resources, components, namespace, labels, images, generated ConfigMaps
and JSON patches. Whatever else a kustomization asks for is an error here, so that nothing passes unseen. ConfigMaps keep their plain names: kustomize
adds a hash to them, and to whatever refers to them."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import yaml

Object = dict[str, Any]

_KNOWN = {"apiVersion", "kind", "namespace", "labels", "resources", "components", "images", "configMapGenerator", "patches"}
_CLUSTER_WIDE = {"Namespace"}


def build(folder: Path) -> list[Object]:
    """The objects of a kustomization.

    Args:
        folder: that holds kustomization.yaml.
    """
    return _build(folder, [])


def _build(folder: Path, objects: list[Object]) -> list[Object]:
    kustomization = yaml.safe_load((folder / "kustomization.yaml").read_text(encoding="utf-8"))
    assert not (unknown := kustomization.keys() - _KNOWN), f"{folder}: this is not kustomize, it does not know {unknown}"
    for entry in kustomization.get("resources", []):
        path = folder / entry
        if path.is_dir():
            objects = objects + _build(path, [])
        else:
            assert path.resolve().is_relative_to(folder.resolve()), f"{path}: kustomize reads no file above its folder"
            objects = objects + [one for one in yaml.safe_load_all(path.read_text(encoding="utf-8")) if one]
    objects = _with_config_maps(folder, kustomization.get("configMapGenerator", []), objects)
    for entry in kustomization.get("components", []):
        objects = _build(folder / entry, objects)
    for patch in kustomization.get("patches", []):
        _patch(folder, patch, objects)
    for labels in kustomization.get("labels", []):
        assert labels.keys() == {"pairs"}
        for one in objects:
            one["metadata"].setdefault("labels", {}).update(labels["pairs"])
    for image in kustomization.get("images", []):
        for container in (container for one in objects for container in containers(one)):
            name = re.sub(r":[^/]*$", "", container["image"])
            if name == image["name"]:
                container["image"] = f"{image.get('newName', name)}:{image['newTag']}"
    if namespace := kustomization.get("namespace"):
        for one in objects:
            if one["kind"] not in _CLUSTER_WIDE:
                one["metadata"]["namespace"] = namespace
    names = [(one["kind"], one["metadata"]["name"]) for one in objects]
    assert len(names) == len(set(names)), f"{folder}: something is there twice: {names}"
    return objects


def containers(one: Object) -> list[Object]:
    """The containers of an object's pods."""
    return list(pod(one).get("containers", []))


def pod(one: Object) -> Object:
    """What an object says of its pods; empty: it has none."""
    template = one.get("spec", {}).get("template", {}) if one["kind"] in ("Deployment", "StatefulSet", "Job") else {}
    found: Object = template.get("spec", {})
    return found


def _with_config_maps(folder: Path, generators: list[Object], objects: list[Object]) -> list[Object]:
    for generator in generators:
        data = {Path(name).name: (folder / name).read_text(encoding="utf-8") for name in generator.get("files", [])}
        data |= dict(literal.split("=", 1) for literal in generator.get("literals", []))
        there = [one for one in objects if one["kind"] == "ConfigMap" and one["metadata"]["name"] == generator["name"]]
        behavior = generator.get("behavior", "create")
        assert bool(there) == (behavior != "create"), f"{folder}: {generator['name']} cannot be {behavior}d"
        if there:
            there[0]["data"] = (there[0]["data"] if behavior == "merge" else {}) | data
        else:
            objects = [*objects, {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": generator["name"]}, "data": data}]
    return objects


def _patch(folder: Path, patch: Object, objects: list[Object]) -> None:
    target = patch["target"]
    found = [one for one in objects if one["kind"] == target["kind"] and re.fullmatch(target.get("name", ".*"), one["metadata"]["name"])]
    assert found, f"{folder}: nothing to patch for {target}"
    for one in found:
        for operation in yaml.safe_load(patch["patch"]):
            *way, last = [part.replace("~1", "/").replace("~0", "~") for part in operation["path"].split("/")[1:]]
            place: Any = one
            for part in way:
                place = place[int(part)] if isinstance(place, list) else place[part]
            there = int(last) < len(place) if isinstance(place, list) else last in place
            assert operation["op"] in ("add", "replace"), operation
            assert there or operation["op"] == "add", (
                f"{folder}: {operation['path']} of {one['metadata']['name']} is not there to be replaced"
            )
            place[int(last) if isinstance(place, list) else last] = copy.deepcopy(operation["value"])
