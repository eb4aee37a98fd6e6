"""This module reads the files of a folder that may come from anybody: what is in them is data.

Only plain files of a bounded size are opened, no resolver is called, and texts are made `harmless`.
"""

from __future__ import annotations

import io
import json
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from gradsam_exp.errors import InputError, first_line, harmless
from gradsam_exp.runs.saved_config import with_strings

if TYPE_CHECKING:
    import pandas as pd

MOST_TEXT = 2**26  # bytes of a file of text
MOST_TABLE = 2**32
_BYTES = re.compile(r"((?<!\\)(?:\\\\)*)\\u[dD][cC]([89a-fA-F][0-9a-fA-F])")
"""As YAML writes a byte of a name that is not UTF-8, which not every reader of YAML takes."""
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_DAMAGED = (yaml.YAMLError, OmegaConfBaseException)


@dataclass(frozen=True)
class Files:
    """Reads files of one folder by name. What is missing or damaged is an `InputError` that names the file."""

    folder: Path

    def damaged(self, name: str, problem: str) -> InputError:
        """Make the error that names a file and its problem."""
        return InputError(f"{self.folder / name} {problem}")

    def path(self, name: str, most: int) -> Path:
        """Return the path of a file that can be read to its end.

        Raises:
            InputError: it is missing, a folder, a pipe or a device, has more than ``most`` bytes, or is a link
                out of the run's folder: what lies there is not the run's to show.
        """
        path = self.folder / name
        with self.reading(name):
            state = path.stat()
            inside = path.resolve().is_relative_to(self.folder.resolve())
        if not stat.S_ISREG(state.st_mode):
            raise self.damaged(name, "cannot be read (it is no plain file)")
        if not inside:
            raise self.damaged(name, "cannot be read (it is a link out of the run's folder)")
        if state.st_size > most:
            raise self.damaged(name, f"cannot be read (it is larger than {most / 2**20:.0f} MB)")
        return path

    @contextmanager
    def reading(self, name: str, *more: type[Exception]) -> Iterator[None]:
        """Turn what a library says of a file that is missing or damaged into an `InputError` that names it."""
        try:
            yield
        except FileNotFoundError as error:
            raise self.damaged(name, "is missing") from error
        except (OSError, ValueError, TypeError, KeyError, RecursionError, *_DAMAGED, *more) as error:
            raise self.damaged(name, f"cannot be read ({first_line(error)})") from error

    def text(self, name: str) -> str:
        """Read UTF-8 text, as it stands."""
        path = self.path(name, MOST_TEXT)
        with self.reading(name):
            return path.read_text(encoding="utf-8")

    def json(self, name: str, *keys: str) -> dict[str, Any]:
        """Read a JSON object that has these keys; its texts are in one line each."""
        text = self.text(name)
        with self.reading(name):
            content = json.loads(text)
        missing = [key for key in keys if not isinstance(content, dict) or key not in content]
        if missing:
            raise self.damaged(name, f"has no {', '.join(missing)}")
        return with_strings(content, _shown, keys=True)

    def yaml(self, name: str) -> Any:
        """Read a YAML mapping or list as plain values, in which interpolations are strings."""
        text = _BYTES.sub(lambda found: rf"{found[1]}\\x{found[2].lower()}", self.text(name))
        with self.reading(name):
            # Aliases can name each other a billion times; Hydra writes none.
            if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, Loader=_LOADER)):
                raise self.damaged(name, "cannot be read (it holds aliases)")
            content = OmegaConf.load(io.StringIO(text))
            return with_strings(OmegaConf.to_container(content, resolve=False), _shown, keys=True)

    def table(self, name: str) -> pd.DataFrame:
        """Read a Parquet table, by ``example_id``."""
        import pandas as pd  # noqa: PLC0415  (a sweep's parent starts without)
        from pandas.api.types import is_object_dtype, is_string_dtype  # noqa: PLC0415
        from pyarrow import ArrowException  # noqa: PLC0415

        path = self.path(name, MOST_TABLE)
        with self.reading(name, ArrowException):
            table = pd.read_parquet(path)
            if "example_id" not in table:  # an earlier version had one example an image
                table["example_id"] = table["image_id"]
            for column in table:
                if is_string_dtype(table[column]) or is_object_dtype(table[column]):
                    table[column] = table[column].map(
                        lambda cell: harmless(cell) if isinstance(cell, str) else cell
                    )
            return table.rename(columns=_shown).set_index("example_id")


def _shown(text: str) -> str:
    """A text as it may be shown, in one line."""
    return harmless(text.replace("\n", " "))
