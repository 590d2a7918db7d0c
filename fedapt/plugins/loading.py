"""Importing the modules that `--plugin` names, once in a process and before the scenario's tables are read.

A module may offer strategies as `strategy: {kind: "my_module:MyStrategy"}`, or put kinds of its own into fedapt's tables, for
example `POLICIES["mine"] = Mine`.
"""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType

from fedapt.errors import SetupError

_modules: dict[str, ModuleType] = {}
_given: dict[str, str] = {}


def load_plugins(names: Sequence[str], folders: Sequence[str] = ()) -> None:
    """Import modules, by their names or as files such as `my_file.py`; the working directory is on the path.

    folders: others to look in, when this process does for another one what `given_plugins` of that one says.
    Raises SetupError with the cause if one cannot be imported.
    """
    sys.path += [folder for folder in folders if folder not in sys.path]
    for name in names:
        path = Path(name).expanduser()
        is_file = path.suffix == ".py"
        if is_file and not path.is_file():
            raise SetupError(f"--plugin {name}: there is no such file; check the path.")
        # Last, so that no file of this folder hides a module of Python's or of fedapt's.
        folder = os.path.abspath(path.parent if is_file else ".")
        if folder not in sys.path:
            sys.path.append(folder)
        module = _import(path.stem if is_file else name, name)
        if is_file and not (module.__file__ and os.path.samefile(module.__file__, path)):
            found = module.__file__ or "one of Python's own"
            raise SetupError(f"--plugin {name}: there is another module {path.stem} ({found}); give the file another name.")
        _modules[module.__name__] = module
        _given[os.path.abspath(path) if is_file else name] = folder


def plugged_modules() -> Mapping[str, ModuleType]:
    """Return the modules that were named, by their names."""
    return _modules


def given_plugins() -> tuple[list[str], list[str]]:
    """Return what another process has to call `load_plugins` with, wherever it runs."""
    return list(_given), list(dict.fromkeys(_given.values()))


def _import(module: str, name: str) -> ModuleType:
    importlib.invalidate_caches()
    try:
        return importlib.import_module(module)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a module may even call sys.exit
        if isinstance(error, ModuleNotFoundError) and error.name and f"{module}.".startswith(f"{error.name}."):
            raise SetupError(
                f"--plugin {name}: there is no module {error.name} in the working directory or among what is installed;"
                " give the name of a module, or the path of its file."
            ) from None
        if isinstance(error, (TypeError, ValueError)) and (not module or module.startswith(".")):
            raise SetupError(f"--plugin {name}: expected the name of a module or the path of a .py file.") from None
        raise SetupError(f"--plugin {name}: it cannot be imported: {_in_words(error)}.") from error


def _in_words(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "importlib" not in frame.filename and frame.filename != __file__]
    place = f" ({own[-1].filename}:{own[-1].lineno})" if own and not isinstance(error, SyntaxError) else ""
    return f"{type(error).__name__}: {' '.join(str(error).split())}{place}"
