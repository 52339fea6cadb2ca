"""Finished runs side by side: what each reached and what it cost. No framework."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from keras_squeezenet.errors import InputError
from keras_squeezenet.settings import RecipeError
from keras_squeezenet.training.recipe import load_recipe_of_run


def compare_runs(folders: Iterable[str | Path]) -> list[dict[str, Any]]:
    """A row per run, from its metrics.json.

    Args:
        folders: of finished runs.

    Returns:
        A list of dicts: accuracy with its binomial standard error, speed in images per second over
        all ranks (median of the epochs), minutes of training without validation, machine, day,
        command and the recipe's digest.

    Raises:
        InputError: a folder holds no metrics.json or no recipe.yaml of a run.
    """
    return [_row(Path(folder)) for folder in folders]


def _row(folder: Path) -> dict[str, Any]:
    path = folder / "metrics.json"
    try:
        metrics = json.loads(path.read_text(encoding="utf-8"))
        training, measured = metrics["training"], metrics["evaluation"]
        return {
            "run": folder.name,
            "data": metrics["dataset"]["name"],
            "model": metrics["model"]["name"],
            "parameters": metrics["model"]["parameters"],
            "ranks": training["ranks"],
            "batch_size_per_rank": training["batch_size"],
            "epochs": training["epochs"],
            "top1": round(measured["top1"], 4),
            "top1_standard_error": round(measured["top1_standard_error"], 4),
            "top5": round(measured["top5"], 4),
            "images_per_second": round(training["images_per_second"], 1),
            "minutes": round(training["seconds"] / 60, 1),
            "machine": training["machine"],
            "date": training["started"][:10],
            "command": training["command"],
            "recipe": load_recipe_of_run(folder / "recipe.yaml").digest,
        }
    except RecipeError:
        raise
    except OSError as error:
        raise InputError(f"Expected a finished run: {path}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"Expected the metrics.json of a run: {path}: {error!r}") from None
