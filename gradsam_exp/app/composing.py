"""This module composes a checked `Config` for notebooks and scripts, and tells Hydra where config files lie."""

from collections.abc import Sequence
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path

import hydra
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf.errors import OmegaConfBaseException

from gradsam_exp.app.arguments import as_meant
from gradsam_exp.app.launchers import register_presets
from gradsam_exp.app.messages import no_choice, one_line
from gradsam_exp.app.renamed import refuse_renamed
from gradsam_exp.config import Config, check, conf_folder, register_schema
from gradsam_exp.errors import InputError

HYDRA = "1.3"  # the version of Hydra whose rules hold, also under a later one


def compose(overrides: Sequence[str] = ()) -> Config:
    """Compose and check the configuration that these overrides give on the command line.

    For notebooks and scripts: ``evaluate.run(compose(["limit=4"]), Job(folder))``. Works inside another program
    that has initialised Hydra for itself, too.

    Args:
        overrides: such as ``["pipeline=fgbg", "bg_threshold=0.2"]``.

    Raises:
        InputError: for a name, key or value that is not known or does not fit; names it and the nearest.
    """
    refuse_renamed(overrides)
    conf = prepare_hydra()
    theirs, GlobalHydra.instance().hydra = GlobalHydra.instance().hydra, None
    try:
        with hydra.initialize_config_dir(str(conf), version_base=HYDRA):
            composed = hydra.compose("config", as_meant(overrides))
        return check(composed)
    except (HydraException, OmegaConfBaseException) as error:
        raise InputError(one_line(error)) from error
    except ValueError as error:
        refused = no_choice(error)
        if refused is None:
            raise
        raise refused from error
    finally:
        GlobalHydra.instance().hydra = theirs


def prepare_hydra() -> Path:
    """Tell Hydra of our schema, our presets for its plugins and the plug-ins' folders; returns ``conf``."""
    conf = conf_folder()
    register_schema()
    register_presets(conf / "hydra" / "presets")
    Plugins.instance().register(PluginFolders)
    return conf


class PluginFolders(SearchPathPlugin):
    """Lets Hydra find the configuration files that installed plug-in packages bring.

    A package that offers a class in one of our entry-point groups has a folder ``conf`` with, for example,
    ``pipeline/theirs.yaml``. Where a name is taken, our own file counts.
    """

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Append the plug-ins' folders."""
        for package, folder in plugin_folders():
            search_path.append(package, f"file://{folder}")


def plugin_folders() -> list[tuple[str, Path]]:
    """Find packages that offer classes in our entry-point groups, and their ``conf`` folders; imports none."""
    offered = entry_points()
    entries = [
        e for group in offered.groups if group.startswith("gradsam_exp.") for e in offered.select(group=group)
    ]
    folders = []
    for package in sorted({entry.module.partition(".")[0] for entry in entries} - {"gradsam_exp"}):
        spec = find_spec(package)
        places = [] if spec is None else spec.submodule_search_locations or []
        folders += [(package, Path(place) / "conf") for place in places if (Path(place) / "conf").is_dir()]
    return folders
