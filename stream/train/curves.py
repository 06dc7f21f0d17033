"""Training curves for TensorBoard, and Weights & Biases where asked for. Both are optional packages."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from stream.tables import UserError


class Curves:
    """Writes scalars where they are wanted; nowhere is fine too.

    Args:
        log_dir: of TensorBoard's event files; None: none.
        project: of Weights & Biases; None: not there.
        about: what is trained, for their pages.

    Raises:
        UserError: a package is missing.
    """

    def __init__(self, log_dir: Path | None, project: str | None, about: Mapping[str, Any]) -> None:
        self._writer: Any = None
        self._run: Any = None
        if log_dir is not None:
            # tensorboardX writes the same files as tensorboard's own writer, without tensorboard's web server and gRPC.
            self._writer = _needed("tensorboardX", "--log-dir", "nowcart[train]").SummaryWriter(str(log_dir))
        if project is not None:
            self._run = _needed("wandb", "--wandb", "wandb").init(project=project, config=dict(about))

    def record(self, name: str, value: float, step: int) -> None:
        """One point of a curve."""
        if self._writer is not None:
            self._writer.add_scalar(name, value, step)
        if self._run is not None:
            self._run.log({name: value, f"{name}/step": step})

    def close(self) -> None:
        """Writes what is left."""
        if self._writer is not None:
            self._writer.close()
        if self._run is not None:
            self._run.finish()


def _needed(package: str, option: str, install: str) -> Any:
    try:
        return import_module(package)
    except ImportError as error:
        raise UserError(
            f"{option} needs the package {package}, which is not installed: pip install {install}, or leave {option} out"
        ) from error
