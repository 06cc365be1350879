"""Methods of a user's own: importing them, and what a study knows about them.

    load_study        a spec from its file, with a description of each class that it names
    import_method     the class of an import path
    method_class      the class that a trial asks for

Importing runs code. That happens where somebody names the class or asks for a run (`study run`, `validate`, `rerun`,
`check-method`, `methods`), and in the processes that train. A results folder is read without it: its study.yaml holds
the descriptions as plain data.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import inspect
import sys
import traceback
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from models.settings import MethodSettings
from study.errors import ConfigurationError, Problem, SpecError, nearest
from study.spec.document import Document, Key, format_key_path
from study.spec.loading import read_yaml, validate
from study.spec.model import StudySpec
from study.spec.presets import with_preset
from study.spec.trial import METHOD_PATH, OBJECTIVE_CONTEXT, Trial, UserMethod

if TYPE_CHECKING:  # brings torch
    from models.methods import Method

__all__ = ["describe_method", "import_method", "load_study", "method_class", "search_path"]

# A module keeps the hash of the code that was imported: its file may change while the process lives.
_HASH = "__study_source_hash__"


def search_path(spec: Path | None = None) -> tuple[str, ...]:
    """The folders in which a user's methods are looked for: the current one and the spec's."""
    folders = [Path.cwd(), *([] if spec is None else [spec.resolve().parent])]
    return tuple(dict.fromkeys(str(folder) for folder in folders))


def load_study(file: Path, preset: str | None = None) -> StudySpec:
    """Read a study spec with its preset; the classes that it names are imported and described in `methods`.

    What the file itself says under `methods` counts for nothing.

    Args:
        file: the spec.
        preset: a preset instead of the one that the spec names.

    Raises:
        SpecError: the file cannot be used, or a class cannot be imported; `problems` has every mistake with its line.
    """
    kind = "study spec"
    document = with_preset(read_yaml(file, kind=kind), file, preset)
    described: dict[str, UserMethod] = {}
    problems: list[Problem] = []
    failed: dict[str, SpecError] = {}
    folders = search_path(file)
    for at, path in _named(document):
        if path not in described and path not in failed:
            try:
                described[path] = describe_method(path, import_method(path, folders))
            except SpecError as error:
                failed[path] = error
        if path in failed:
            cause = failed[path]
            place, line = format_key_path(at), document.line(at)
            problems.append(Problem(document.source, line, place, repr(path), cause.what, cause.allowed, cause.fix))
    if problems:
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        raise SpecError(f"{count} in the {kind} {document.source}", problems=problems)
    data = {key: value for key, value in document.data.items() if key != "methods"}
    if described:
        data["methods"] = {path: method.model_dump(mode="json") for path, method in described.items()}
    context = {OBJECTIVE_CONTEXT: [name for method in described.values() for name in method.objective]}
    return validate(replace(document, data=data), StudySpec, kind=kind, context=context)


def _named(document: Document) -> Iterator[tuple[tuple[Key, ...], str]]:
    """(Place, import path) of each of a user's methods that cells of a spec are made of."""
    base, axes = document.data.get("base"), document.data.get("axes")
    values = axes.get("method") if isinstance(axes, dict) else None
    places: list[tuple[tuple[Key, ...], object]] = []
    if isinstance(base, dict):
        places.append((("base", "method"), base.get("method")))
    if isinstance(values, list):
        places += [(("axes", "method", i), value) for i, value in enumerate(values)]
    for at, value in places:
        if isinstance(value, str) and METHOD_PATH.fullmatch(value):
            yield at, value


def import_method(path: str, folders: Iterable[str] = ()) -> type[Method]:
    """The class of an import path, ``package.module:Class``.

    Args:
        path: the import path.
        folders: appended to Python's search path, and left there: the method's code may import more later.

    Raises:
        SpecError: a malformed path, no such module or class, a module that cannot be imported, or not a method.
    """
    from models.methods import Method

    if not METHOD_PATH.fullmatch(path):
        raise SpecError(
            "this is no import path",
            where=path,
            allowed="package.module:Class, with a class at the top level of its module",
            fix="write the module with dots, a colon, and the name of the class",
        )
    sys.path += [folder for folder in folders if folder not in sys.path]
    module_name, _, name = path.partition(":")
    module = _import_module(path, module_name)
    kind = getattr(module, name, None)
    classes = [key for key, value in vars(module).items() if inspect.isclass(value) and issubclass(value, Method)]
    if kind is None:
        raise SpecError(
            f"the module {module_name!r} has no {name!r}{nearest(name, classes)}",
            where=str(getattr(module, "__file__", module_name)),
            allowed=", ".join(classes) or "a module with a subclass of models.methods.Method",
            fix=f"check the name in {getattr(module, '__file__', module_name)}",
        )
    if not (inspect.isclass(kind) and issubclass(kind, Method)):
        raise SpecError(
            f"{name!r} is not a method",
            where=path,
            allowed="a subclass of models.methods.Method",
            fix="see 'A method of your own' in docs/methods.md",
        )
    if missing := sorted(getattr(kind, "__abstractmethods__", ())):
        raise SpecError(f"{name!r} has no {', '.join(missing)}", where=path, fix=f"define {missing[0]} in the class")
    _source_hash(path, kind)  # now: the file may change later
    return kind


def _import_module(path: str, name: str) -> ModuleType:
    importlib.invalidate_caches()  # the file may be newer than the last look at its folder
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise _broken(path, name, error) from None
        raise SpecError(
            f"there is no module {error.name!r}",
            where=path,
            allowed="a module in the folder in which the command runs, in the spec's folder, or installed",
            fix="check the name, and run the command in the folder that holds the module",
        ) from None
    except (Exception, SystemExit) as error:  # whatever the module's code does when it runs
        raise _broken(path, name, error) from None


def _broken(path: str, name: str, error: BaseException) -> SpecError:
    """An import that raised, with the innermost line of the user's code."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "importlib" not in frame.filename]
    if isinstance(error, SyntaxError) and error.filename:
        place = f"{error.filename}:{error.lineno}"
    else:
        place = f"{frames[-1].filename}:{frames[-1].lineno}"
    words = str(error).partition("\n")[0]
    return SpecError(
        f"importing {name!r} fails: {type(error).__name__}" + (f": {words}" if words else ""),
        where=path,
        fix=f"see {place}",
    )


def describe_method(path: str, kind: type[Method]) -> UserMethod:
    """What a study has to know about a class.

    Raises:
        SpecError: its settings cannot be used, or its file has changed since this process imported it.
    """
    settings = getattr(kind, "settings", None)
    if not isinstance(settings, MethodSettings):
        raise SpecError(
            "the class has no settings",
            where=path,
            allowed="a class attribute 'settings', a models.settings.MethodSettings",
            fix="see 'A method of your own' in docs/methods.md",
        )
    source = _source_hash(path, kind)
    if _file_hash(path, kind) != source:
        raise SpecError(
            "the file of the class has changed since this process imported it",
            where=str(inspect.getsourcefile(kind)),
            fix="start a new process",
        )
    if not settings.trained:
        raise SpecError("a method of your own has a network: its settings say trained=False", where=path)
    try:
        return UserMethod.model_validate(
            {
                "name": settings.name,
                "joint": settings.joint,
                "adapts": settings.adapts,
                "twin": settings.twin,
                "objective": _defaults(path, settings),
                "source": source,
            },
            strict=True,
        )
    except ValidationError as error:
        first = error.errors()[0]
        raised = first.get("ctx", {}).get("error")
        raise SpecError(
            f"the settings of the class cannot be used: {'.'.join(str(part) for part in first['loc'])} "
            f"{first['input']!r}: {getattr(raised, 'what', first['msg'])}",
            where=path,
            allowed="name: up to 40 letters, digits, spaces and _.+-, not that of one of the project's methods; "
            "objective: names of small letters, digits and _, defaults that are true or false, finite numbers or text",
        ) from None


def _defaults(path: str, settings: MethodSettings) -> dict[str, Any]:
    kind = settings.objective
    if not (inspect.isclass(kind) and dataclasses.is_dataclass(kind)):
        raise SpecError(
            "the objective of the class's settings is not a dataclass",
            where=path,
            allowed="a dataclass with a default for each field, such as models.settings.NoObjective",
        )
    try:
        return settings.objective_defaults()
    except Exception as error:  # the user's own __post_init__ may raise anything
        raise SpecError(
            f"the objective's settings cannot be made from their defaults: {type(error).__name__}: {error}",
            where=path,
            allowed="a dataclass with a default for each field",
        ) from None


def method_class(trial: Trial) -> type[Method]:
    """The class that a trial asks for, of the project or of a user.

    Raises:
        SpecError: it cannot be imported here.
        ConfigurationError: what is found here is not the code that the trial was asked for with.
    """
    from models.methods import METHODS

    wanted = trial.user_method
    if wanted is None:
        return METHODS[trial.method]
    path = str(trial.config["method"])
    kind = import_method(path)
    # Of the code that this process runs, which an edit while it lives does not change.
    found = _source_hash(path, kind)
    if found != wanted.source:
        raise ConfigurationError(
            f"the code of {path} is not that of the trial: source {found} here, {wanted.source} wanted",
            where=str(inspect.getsourcefile(kind)),
            allowed="the same file on every machine, and unchanged while a study runs",
            fix="bring the file to every machine; after a change of the code run the study again, which makes new "
            "trials",
        )
    return kind


def _source_hash(path: str, kind: type[Method]) -> str:
    """Of the file that defines the class, as it was when this process imported it."""
    module = sys.modules[kind.__module__]
    if _HASH not in vars(module):
        setattr(module, _HASH, _file_hash(path, kind))
    return str(vars(module)[_HASH])


def _file_hash(path: str, kind: type[Method]) -> str:
    try:
        file = inspect.getsourcefile(kind)
        content = Path(file).read_bytes() if file else None
    except (TypeError, OSError):
        content = None
    if content is None:
        raise SpecError(
            "the file that defines the class cannot be read",
            where=path,
            allowed="a class in a Python file: its code is a part of what a trial is",
        )
    return hashlib.sha256(content).hexdigest()[:16]
