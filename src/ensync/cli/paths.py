"""Paths of files as people write them on a command line."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeAlias

import typer

__all__ = ["DataOption", "file_path"]


def file_path(text: str) -> Path:
    """Reads the path of a file, which need not be there.

    Raises:
        typer.BadParameter: It can't be the path of a file.
    """
    if not text:
        raise typer.BadParameter("it is empty. Give the name of a file.")
    if "\0" in text:
        raise typer.BadParameter("there is no file whose name holds a null character.")
    path = Path(text)
    if path.is_dir():
        raise typer.BadParameter(f"{text!r} is a directory.")
    return path


DataOption: TypeAlias = Annotated[
    Path | None,
    typer.Option("--data", parser=file_path, metavar="FILE", help="The engine's data file."),
]
