"""Write the generated reference pages: settings, commands, HTTP API.

    python docs/generate.py            write docs/reference/{settings,commands,http}.md
    python docs/generate.py --check    name the pages that are out of date; exit code 1 if any

The pages are kept in the repository so that they can be read without building the site.
"""

from __future__ import annotations

import ast
import enum
import functools
import inspect
import itertools
import re
import sys
import textwrap
import types
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import annotated_types
import typer
import yaml
from fastapi import FastAPI
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined
from typer.models import ArgumentInfo, OptionInfo

REFERENCE = Path(__file__).parent / "reference"
NOTICE = "<!-- Written by docs/generate.py; change the code it describes, then run it again. -->"
BOUNDS = {
    annotated_types.Ge: "≥",
    annotated_types.Gt: ">",
    annotated_types.Le: "≤",
    annotated_types.Lt: "<",
}
PLAIN_TYPES = {int: "integer", float: "number", bool: "boolean", str: "text", Path: "path"}
# What any route may answer, said once at the top of the page.
USUAL_STATUSES = ("401", "403", "503")


def main() -> int:
    """Write the pages, or check them with ``--check``."""
    check = "--check" in sys.argv[1:]
    outdated = {path: text for path, text in pages().items() if _read(path) != text}
    for path, text in outdated.items():
        if check:
            sys.stderr.write(f"{path}: out of date; run: python docs/generate.py\n")
        else:
            path.write_text(text, encoding="utf-8")
    return 1 if check and outdated else 0


def pages() -> dict[Path, str]:
    """Path -> text of every generated page."""
    makers = {"settings": settings_page, "commands": commands_page, "http": http_page}
    return {
        REFERENCE / f"{name}.md": f"{NOTICE}\n\n{make().strip()}\n" for name, make in makers.items()
    }


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""


# --- settings ---------------------------------------------------------------------------------


def settings_page() -> str:
    """All settings models as tables."""
    from delg.settings import ModelSettings
    from delg.training.settings import TrainSettings
    from index.serve.settings import ServeSettings
    from index.settings import IndexSettings

    parts = [
        "# Settings",
        "Every default is written in code; a YAML file only overrides. An unknown key is an error "
        "that names it.",
        "## Index",
        "The file given to `--config` of `delg index`, `delg query`, `delg match`, `delg serve` "
        "and `delg eval`. `extraction` and `store` are fixed when an index is created.",
        *_section(IndexSettings),
        "## Model",
        "`settings.yaml` in a model's folder, and `model` in the settings of training.",
        *_section(ModelSettings),
        "## Training",
        "The file given to `delg train --config`. `extends: FILE` takes another file as its base.",
        *_section(TrainSettings, skip=("model",)),
        "## Server",
        "Set by the options of `delg serve` (see [commands](commands.md#delg-serve)) or, from "
        "Python, by `index.serve.settings.ServeSettings`.",
        *_section(ServeSettings),
        "## Former names",
        "Files that use them are still read, with a warning.",
        _table(("former", "present"), sorted({*_renamed(IndexSettings), *_renamed(TrainSettings)})),
    ]
    return "\n\n".join(parts)


def _section(model: type[BaseModel], prefix: str = "", skip: tuple[str, ...] = ()) -> Iterator[str]:
    """The fields of a model as a table, then each model nested in it."""
    comments = field_comments(model)
    rows, nested = [], []
    for name, field in model.model_fields.items():
        inner = _model_in(field.annotation)
        key = f"{prefix}{name}"
        if name not in skip and inner is not None:
            # An optional section has a row, which shows its comment.
            nested.append((key, inner, "" if field.default is None else comments.get(name, "")))
        if inner is None or field.default is None:
            about = field.description or comments.get(name, "")
            about = re.sub(r"\bNone\b", "null", about)
            rows.append((f"`{key}`", _type(field), _default(field), _cell(about)))
    if rows:
        yield _table(("key", "type", "default", ""), rows)
    for key, inner, comment in nested:
        yield f"### `{key}`"
        about = " ".join(filter(None, (_prose(inspect.getdoc(inner) or ""), comment)))
        if about:
            yield about
        yield from _section(inner, f"{key}.")


def _renamed(
    model: type[BaseModel], former: str = "", present: str = ""
) -> Iterator[tuple[str, str]]:
    """The deprecated keys of a model and of those nested in it, each with its present name."""
    deprecated: dict[str, str | None] = getattr(model, "deprecated_keys", {})
    for old, new in deprecated.items():
        yield f"`{former}{old}`", "none; without effect" if new is None else f"`{present}{new}`"
    by_present = {new: old for old, new in deprecated.items()}
    for name, field in model.model_fields.items():
        inner = _model_in(field.annotation)
        if inner is not None:
            old = by_present.get(name, name)
            yield from _renamed(inner, f"{former}{old}.", f"{present}{name}.")


def field_comments(model: type[BaseModel]) -> dict[str, str]:
    """Field -> the comment lines right above it in the class."""
    comments: dict[str, str] = {}
    for base in reversed(model.__mro__):
        if base is BaseModel or not issubclass(base, BaseModel):
            continue
        source = textwrap.dedent(inspect.getsource(base))
        lines = source.splitlines()
        body = typing.cast(ast.ClassDef, ast.parse(source).body[0]).body
        for node in body:
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                above = itertools.takewhile(
                    lambda line: line.strip().startswith("#"), reversed(lines[: node.lineno - 1])
                )
                text = " ".join(line.strip().lstrip("# ") for line in reversed(list(above)))
                comments[node.target.id] = text
    return comments


def _model_in(annotation: Any) -> type[BaseModel] | None:
    for part in (annotation, *typing.get_args(annotation)):
        if inspect.isclass(part) and issubclass(part, BaseModel):
            return part
    return None


def _type(field: FieldInfo) -> str:
    bounds = [_bounds(one) for one in field.metadata]
    text, comma, null = _type_text(field.annotation).partition(", or null")
    return ", ".join(filter(None, (text, *bounds))) + comma + null


def _bounds(constraint: Any) -> str:
    for kind, sign in BOUNDS.items():
        if isinstance(constraint, kind):
            return f"{sign}\N{NO-BREAK SPACE}{getattr(constraint, kind.__name__.lower()):,}"
    if isinstance(constraint, FieldInfo):
        return ", ".join(filter(None, map(_bounds, constraint.metadata)))
    return ""


_PLURALS = {"text": "text", "path or URL": "paths or URLs"}


def _type_text(annotation: Any) -> str:
    if annotation in PLAIN_TYPES:
        return PLAIN_TYPES[annotation]
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return ", ".join(filter(None, (_type_text(args[0]), *map(_bounds, args[1:]))))
    if origin is Literal:
        return " or ".join(f"`{value}`" for value in args)
    if origin in (typing.Union, types.UnionType):
        parts = [_type_text(part) for part in args if part is not type(None)]
        return ", ".join([*parts, "or null"] if type(None) in args else parts)
    if origin in (tuple, list):
        name, comma, bounds = _type_text(args[0]).partition(",")
        plural = _PLURALS.get(name, f"{name}s") + comma + bounds
        fixed = origin is tuple and Ellipsis not in args
        return f"{len(args)} {plural}" if fixed else f"list of {plural}"
    if origin is dict or _model_in(annotation):
        return "section"
    if inspect.isclass(annotation) and issubclass(annotation, enum.Enum):
        return " or ".join(f"`{member.value}`" for member in annotation)
    if annotation is Any:  # Parsed by delg.remote_path.as_location.
        return "path or URL"
    raise TypeError(f"no words for {annotation}")


def _default(field: FieldInfo) -> str:
    if field.default_factory is not None:
        return "computed"
    if field.default is PydanticUndefined:
        return "required"
    return f"`{_yaml(field.default)}`"


def _yaml(value: Any) -> str:
    """A value as one line of YAML, floats to six digits."""
    if isinstance(value, tuple):
        return f"[{', '.join(map(_yaml, value))}]"
    if isinstance(value, float):
        return f"{value:.6g}"
    text = yaml.safe_dump(value, default_flow_style=True, width=1000)
    return text.removesuffix("...\n").strip()


# --- commands ---------------------------------------------------------------------------------


@functools.cache
def application() -> typer.Typer:
    """``delg`` with the commands of all packages."""
    from delg.cli.main import add_commands_of_other_packages, app

    add_commands_of_other_packages()
    return app


def commands_page() -> str:
    """Every command with its arguments and options."""
    parts = [
        "# Commands",
        "Results go to stdout, progress and notes to stderr. Exit codes: 0 done; 1 the work "
        "failed; 2 wrong use; 3 done, but some inputs failed (each is named with its reason).",
        *itertools.chain.from_iterable(text for _, text in sorted(_group(application(), "delg"))),
    ]
    return "\n\n".join(parts)


def _group(app: typer.Typer, prefix: str) -> Iterator[tuple[str, list[str]]]:
    """Name and text of every command of an application, groups included."""
    for command in app.registered_commands:
        callback = typing.cast(Callable[..., Any], command.callback)
        name = f"{prefix} {command.name or callback.__name__.replace('_', '-')}"
        yield name, list(_command(name, callback))
    for group in app.registered_groups:
        if group.typer_instance is not None:
            # A group that does something by itself is a command too.
            own = group.typer_instance.registered_callback
            if own is not None and own.callback is not None:
                yield (
                    f"{prefix} {group.name}",
                    list(_command(f"{prefix} {group.name}", own.callback)),
                )
            yield from _group(group.typer_instance, f"{prefix} {group.name}")


def _command(name: str, callback: Callable[..., Any]) -> Iterator[str]:
    yield f"## `{name}`"
    yield _prose(inspect.getdoc(callback) or "")
    rows, usage = [], []
    for parameter in inspect.signature(callback, eval_str=True).parameters.values():
        if parameter.annotation is typer.Context:
            continue
        annotation, info = _annotated(parameter.annotation)
        required = parameter.default is inspect.Parameter.empty
        names = _names(parameter.name, annotation, info)
        if required:
            usage.append(names if isinstance(info, ArgumentInfo) else f"{names} …")
        kind = "" if annotation is bool else _type_text(annotation).removesuffix(", or null")
        rows.append((f"`{names}`", kind, _value(parameter.default), _cell(_help(info))))
    yield f"    {' '.join((name, *usage))}" + (" [OPTIONS]" if len(rows) > len(usage) else "")
    if rows:
        yield _table(("", "type", "default", ""), rows)


def _annotated(annotation: Any) -> tuple[Any, Any]:
    """The type and typer's description of a parameter, also of ``Annotated[…] | None``."""
    if typing.get_origin(annotation) is not typing.Annotated:
        annotation = typing.get_args(annotation)[0]
    kind, info = typing.get_args(annotation)[:2]
    return kind, info


def _names(name: str, annotation: Any, info: Any) -> str:
    if isinstance(info, ArgumentInfo):
        many = typing.get_origin(annotation) is list
        return info.metavar or name.upper() + ("…" if many else "")
    # Inside Annotated, typer keeps the first name in the place of the default.
    names = [one for one in (info.default, *(info.param_decls or ())) if isinstance(one, str)]
    return ", ".join(names) or f"--{name.replace('_', '-')}"


def _help(info: OptionInfo | ArgumentInfo) -> str:
    parts = [info.help or ""]
    if info.envvar:
        parts.append(f"Also from `{info.envvar}`.")
    return " ".join(filter(None, parts))


def _value(default: Any) -> str:
    if default is inspect.Parameter.empty:
        return "required"
    if default is None or default is False or default == "":
        return ""
    return f"`{default.value if isinstance(default, enum.Enum) else default}`"


# --- HTTP API ---------------------------------------------------------------------------------


def http_page() -> str:
    """The routes of the HTTP API, from its OpenAPI description."""
    from index.serve.api import make_router
    from index.serve.settings import ServeSettings

    app = FastAPI()
    service: Any = types.SimpleNamespace(
        settings=ServeSettings(writable=True),
        curation=None,
        duplicates=None,
        groups=None,
        pairs=None,
    )
    app.include_router(make_router(service))
    described = app.openapi()
    parts = [
        "# HTTP API",
        "What `delg serve` answers; a running server describes itself at `/openapi.json` and shows "
        "its API by example at `/api`. With a token, send `Authorization: Bearer TOKEN`. Routes "
        "marked *writable* exist only with `--writable`. [Serving](../serving.md) has examples.",
        "Besides what is listed with each route, any of them may answer 401 (a token is required), "
        "403 (host or origin not allowed) and 503 (too busy; try again after `Retry-After` "
        "seconds), with an [`ErrorJson`](#errorjson).",
    ]
    for path, methods in described["paths"].items():
        for method, route in methods.items():
            parts.extend(_route(method.upper(), path, route))
    parts.append("## Answers")
    for name, schema in described["components"]["schemas"].items():
        if name not in ("HTTPValidationError", "ValidationError"):
            rows = [(f"`{key}`", _json_type(value)) for key, value in schema["properties"].items()]
            about = _prose(schema.get("description", ""))
            parts += [f"### {name}", about, _table(("key", "type"), rows)]
    return "\n\n".join(filter(None, parts))


def _route(method: str, path: str, route: dict[str, Any]) -> Iterator[str]:
    readable = path.replace(":path", "")
    yield f"## `{method} {readable}`"
    writable = "*writable* " if method in ("POST", "DELETE") and "images" in path else ""
    yield writable + _prose(route.get("description") or route.get("summary", ""))
    parameters = [one for one in route.get("parameters", ()) if one["in"] != "header"]
    if parameters:
        rows = [
            (f"`{one['name']}`", one["in"], _json_type(one["schema"]), one.get("description", ""))
            for one in parameters
        ]
        yield _table(("parameter", "in", "type", ""), rows)
    form = route.get("requestBody", {}).get("content", {}).get("multipart/form-data")
    if form:
        fields = ", ".join(f"`{name}`" for name in form["schema"]["properties"])
        yield f"Fields of a form (`multipart/form-data`): {fields}."
    statuses = [
        (status, _answer(response))
        for status, response in sorted(route["responses"].items())
        if status not in USUAL_STATUSES and "HTTPValidationError" not in str(response)
    ]
    yield _table(("status", ""), statuses)


def _answer(response: dict[str, Any]) -> str:
    content = response.get("content", {})
    reference = content.get("application/json", {}).get("schema", {}).get("$ref", "")
    name = reference.rpartition("/")[2]
    about = response.get("description", "").replace("Successful Response", "")
    return ": ".join(filter(None, (f"[{name}](#{name.lower()})" if name else "", about))) or "JSON"


def _json_type(schema: dict[str, Any]) -> str:
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in schema:
        return " or ".join(_json_type(one) for one in schema["anyOf"])
    if "enum" in schema or "const" in schema:
        return " or ".join(f"`{one}`" for one in schema.get("enum", [schema.get("const")]))
    if schema.get("type") == "array":
        return f"list of {_json_type(schema['items'])}"
    signs = {"minimum": "≥", "maximum": "≤"}
    bounds = [f"{sign} {schema[key]}" for key, sign in signs.items() if key in schema]
    return ", ".join([str(schema.get("type", "any")), *bounds])


# --- Markdown ---------------------------------------------------------------------------------


def _table(head: tuple[str, ...], rows: Any) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def _cell(text: str) -> str:
    return _prose(text).replace("|", "\\|")


def _prose(text: str) -> str:
    """A docstring's or comment's text as Markdown, on one line per paragraph."""
    plain = text.replace("``", "`")
    for role in (":class:", ":meth:", ":mod:", ":func:"):
        plain = plain.replace(role, "")
    return "\n\n".join(" ".join(part.split()) for part in plain.split("\n\n"))


if __name__ == "__main__":
    sys.exit(main())
