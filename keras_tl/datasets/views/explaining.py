"""How the server finds the samples that a query asks for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from keras_tl.datasets.views.rows import Order

if TYPE_CHECKING:
    from keras_tl.datasets.collection import Dataset

#: What the names of indexes on labels and tags begin with.
PREFIX = "ktl "


def explain(
    dataset: Dataset,
    query: Mapping[str, Any],
    sort: Order,
    limit: int | None = None,
    verbosity: str = "executionStats",
) -> dict[str, Any]:
    """`index`, `scan`, `docs` and `keys`, as of `View.explain`.

    Args:
        dataset: the dataset.
        query: a filter.
        sort: paths and directions.
        limit: how many samples are asked for; default: all.
        verbosity: `"queryPlanner"`: ask for the plan alone, without `docs` and `keys`.
    """
    find: dict[str, Any] = {"find": dataset.samples.name, "filter": query}
    find["projection"] = {"_id": 0, "at": 1}
    if sort:
        find |= {"sort": dict(sort), "allowDiskUse": True}
    if limit:
        find["limit"] = limit
    return _summary(dataset, find, verbosity)


def _summary(dataset: Dataset, find: dict[str, Any], verbosity: str) -> dict[str, Any]:
    found = dataset.connection.db.command({"explain": find, "verbosity": verbosity})
    stages = list(_stages(found["queryPlanner"]["winningPlan"]))
    stats = found.get("executionStats", {})
    names = [stage["indexName"] for stage in stages if "indexName" in stage]
    if any(stage.get("stage") == "IDHACK" for stage in stages):
        names.append("_id_")
    return {
        "index": names[0].removeprefix(PREFIX) if names else None,
        "scan": any(stage.get("stage") == "COLLSCAN" for stage in stages),
        "docs": stats.get("totalDocsExamined", 0),
        "keys": stats.get("totalKeysExamined", 0),
    }


def looked_at(
    dataset: Dataset, collection: Any, query: Mapping[str, Any], options: Mapping[str, Any]
) -> dict[str, Any]:
    """What `explain` says, of a `find` in a collection of a dataset with these options.

    All heads are read where all samples are asked for: that is no scan of samples.
    """
    find = {"find": collection.name, "filter": query}
    if options.get("projection"):
        find["projection"] = options["projection"]
    if options.get("sort"):
        find |= {"sort": dict(options["sort"]), "allowDiskUse": True}
    if options.get("limit"):
        find["limit"] = options["limit"]
    found = _summary(dataset, find, "executionStats")
    return found | {"scan": found["scan"] and collection.name != dataset.heads.name}


def _stages(plan: Any) -> Iterator[Mapping[str, Any]]:
    if isinstance(plan, Mapping):
        yield plan
        for inside in plan.values():
            yield from _stages(inside)
    elif isinstance(plan, list):
        for inside in plan:
            yield from _stages(inside)
