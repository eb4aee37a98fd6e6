"""This module reads which logger is configured and how, and finds W&B's server and key."""

import netrc
import os
from collections.abc import Callable
from importlib.util import find_spec
from typing import Annotated, ClassVar, Literal
from urllib.parse import urlsplit

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from gradsam_exp.config import Node
from gradsam_exp.errors import InputError
from gradsam_exp.registry import build_checked
from gradsam_exp.tracking.mlflow import MlflowRun, MlflowSettings
from gradsam_exp.tracking.tensorboard import TensorboardRun, TensorboardSettings

Mode = Literal["auto", "online", "offline"]


@dataclass(frozen=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class WandbSettings:
    """Holds the settings of ``conf/logger/wandb.yaml``.

    Attributes:
        mode: ``auto`` uploads where an API key is known; ``offline`` leaves that to ``wandb sync``.
        project, entity: where the run belongs.
        images: how many of the worst, of the median and of the best images are shown; ``all`` shows every image.
        upload_seconds: an upload that takes longer is left for later.
    """

    name: Literal["wandb"] = "wandb"
    mode: Mode = "auto"
    project: str = "gradsam_exp"
    entity: str | None = None
    images: Literal["all"] | Annotated[int, Field(ge=0)] = 3
    upload_seconds: Annotated[float, Field(gt=0)] = 60.0
    title: ClassVar[str] = "W&B"

    @property
    def uploads(self) -> bool:
        """Says whether runs are to be uploaded; ``WANDB_MODE`` decides where ``mode`` does not."""
        if self.mode == "auto":
            return os.environ.get("WANDB_MODE", "online") == "online" and api_key() is not None
        return self.mode == "online"


LocalSettings = MlflowSettings | TensorboardSettings
LocalRun = MlflowRun | TensorboardRun
Settings = WandbSettings | LocalSettings
_LOCAL: dict[str, type[LocalSettings]] = {"mlflow": MlflowSettings, "tensorboard": TensorboardSettings}


def logger_settings(node: Node) -> Settings | None:
    """Read what ``logger=…`` asks for; None for the run's own files only.

    Raises:
        InputError: naming the key, or the extra that is not installed.
    """
    name = node.get("name")
    if name == "none":
        return None
    if (local := _LOCAL.get(str(name))) is not None:
        if find_spec(local.package) is None:
            raise InputError(f"logger={name} needs another package: pip install 'gradsam_exp[{name}]'")
        make: Callable[..., LocalSettings] = local
        return build_checked("logger", make, node)
    silenced = node.get("mode") == "auto" and os.environ.get("WANDB_MODE") == "disabled"
    settings = build_checked("logger", WandbSettings, node)
    return None if silenced else settings


def server() -> str:
    """Find W&B's address: ``WANDB_BASE_URL``, else what ``wandb login --host`` has kept, else the public one."""
    given = os.environ.get("WANDB_BASE_URL")
    if given is None:
        import wandb  # noqa: PLC0415  (a second)

        given = wandb.setup().settings.base_url
    return given.rstrip("/")


def api_key() -> str | None:
    """Find the key W&B would use: in the environment, or in the netrc file that ``wandb login`` writes."""
    given = os.environ.get("WANDB_API_KEY")
    if given:
        return given
    path = os.environ.get("NETRC")
    try:
        known = netrc.netrc(os.path.expanduser(path) if path else None)
    except (OSError, netrc.NetrcParseError):
        return None
    found = known.authenticators(urlsplit(server()).hostname or "") if known.hosts else None
    return found[2] if found else None
