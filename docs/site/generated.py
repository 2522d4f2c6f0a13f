"""The parts of pages that are made from the code: where a page says `<!-- generated: NAME -->`."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).parents[2]
PACKAGES: Final = ("acordo", "backends", "chaos", "cluster", "coordinator", "node")
PROBLEM: Final = "application/problem+json"
DOOR: Final = (
    '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Acordo</title>'
    '<meta http-equiv="refresh" content="0; url=docs/index.html"></head>'
    '<body><a href="docs/index.html">Acordo</a></body></html>\n'
)


def version() -> str:
    """Return the version that pyproject.toml names."""
    text = (ROOT / "pyproject.toml").read_text()
    return str(tomllib.loads(text)["project"]["version"])


def fill(app: object, page: str, source: list[str]) -> None:
    """Put what is made from the code where a page asks for it; Sphinx calls it for every page."""
    for name, make in PARTS.items():
        marker = f"<!-- generated: {name} -->"
        if marker in source[0]:
            source[0] = source[0].replace(marker, "\n".join(make()))


def outdated(*_: object) -> list[str]:
    """Return the pages that are read anew each time: the code that they are made from may have
    changed, and Sphinx looks at the pages alone.
    """
    return [f"docs/{page}" for page in ("python-api", "cli", "http")]


def front_door(app: Any, failed: Exception | None) -> None:
    """Lead from the site's root to its first page."""
    if failed is None:
        Path(app.outdir, "index.html").write_text(DOOR)


def python_names() -> Iterator[str]:
    """Yield the reference of every public name of the client, from its docstrings."""
    import acordo
    from acordo import recipes

    kinds: dict[str, list[str]] = {"Clients": [], "Errors": [], "Functions": [], "Values": []}
    for name in acordo.__all__:
        value = getattr(acordo, name)
        if not isinstance(value, type):
            kinds["Functions" if callable(value) else "Values"].append(name)
        elif issubclass(value, Exception):
            kinds["Errors"].append(name)
        else:
            kinds["Clients" if name.endswith("Client") else "Values"].append(name)
    for title, names in kinds.items():
        yield f"## {title}\n"
        for name in names:
            yield from _documented(name, getattr(acordo, name))
    yield "## Recipes\n"
    for name in recipes.__all__:
        yield from _documented(f"recipes.{name}", getattr(recipes, name))


def _documented(name: str, value: object) -> Iterator[str]:
    kind = "autoclass" if isinstance(value, type) else "autofunction"
    if not isinstance(value, type) and not callable(value):
        kind = "autodata"
    yield f"### {name}\n"
    yield f"```{{eval-rst}}\n.. {kind}:: acordo.{name}"
    if isinstance(value, type):
        yield "   :members:"
        yield "   :undoc-members:"
        if title_of_client(name):
            yield "   :inherited-members:"
    yield "```\n"


def title_of_client(name: str) -> bool:
    """Return whether a class is a client, whose calls its bases define."""
    return name.endswith("Client")


def commands() -> Iterator[str]:
    """Yield the help of each command, as `acordo COMMAND --help` prints it."""
    import typer.main

    from acordo._cli import main, shell

    assert main.COMMANDS, "entered into the application when the module is loaded"
    root = typer.main.get_command(shell.app)
    context = typer.Context(root, info_name="acordo")
    yield from _command(root, context, 2)


def _command(command: Any, context: Any, depth: int) -> Iterator[str]:
    import typer

    yield f"{'#' * min(depth, 4)} {context.command_path}\n"
    yield _plain(command.help or "") + "\n"
    usage = command.get_usage(context).removeprefix("Usage: ")
    yield f"```text\n{usage}\n```\n"
    rows = [p.get_help_record(context) for p in command.get_params(context)]
    rows = [row for row in rows if row and "--help" not in row[0]]
    if rows:
        yield "| option | |\n|---|---|"
        yield from (f"| `{_cell(option)}` | {_prose(text)} |" for option, text in rows)
        yield ""
    if hasattr(command, "list_commands"):
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            if inner is not None and not inner.hidden:
                below = typer.Context(inner, info_name=name, parent=context)
                yield from _command(inner, below, depth + 1)


def _plain(text: str) -> str:
    return re.sub(r"\[/?[a-z ]+\]", "", text).replace("\b", "").replace("\f", "").strip()


def _cell(text: str) -> str:
    return " ".join(str(text).split()).replace("|", r"\|")


def _prose(text: str) -> str:
    """Return text as it is written, outside of what stands in backticks."""
    parts = _cell(text).split("`")
    parts[::2] = [each.replace("<", "&lt;").replace("*", r"\*") for each in parts[::2]]
    return "`".join(parts)


def operations() -> Iterator[str]:
    """Yield every operation of the HTTP API, as the OpenAPI document describes it."""
    import json

    from node.api.openapi.document import document

    api = json.loads(document(version(), "http://127.0.0.1:8001"))
    for tag in api["tags"]:
        yield f"## {tag['name'].capitalize()}\n\n{tag.get('description', '')}\n"
        for path, methods in api["paths"].items():
            for method, operation in methods.items():
                if operation["tags"][:1] == [tag["name"]]:
                    yield from _operation(method.upper(), path, operation)
    yield "## Headers of answers\n\n| header | |\n|---|---|"
    for name, header in sorted(api["components"]["headers"].items()):
        yield f"| `{name}` | {_prose(header.get('description', ''))} |"
    yield "\n## Types\n"
    for name, schema in sorted(api["components"]["schemas"].items()):
        yield f"### {name}\n"
        yield f"{_prose(schema.get('description', ''))}\n"
        yield from _table_of_fields(schema)


def _operation(method: str, path: str, operation: Mapping[str, Any]) -> Iterator[str]:
    yield f"### {method} {path}\n"
    yield _prose(operation["summary"]) + "\n"
    yield _prose(operation.get("description", "")) + "\n"
    if "x-acordo-needs" in operation:
        yield f"Needs, where access is controlled: {_prose(operation['x-acordo-needs'])}.\n"
    if operation.get("parameters"):
        yield "| parameter | in | | for example |\n|---|---|---|---|"
        for each in operation["parameters"]:
            said = ("required; " if each.get("required") else "") + _prose(each["description"])
            example = f"`{_cell(each['example'])}`" if "example" in each else ""
            yield f"| `{each['name']}` | {each['in']} | {said} | {example} |"
        yield ""
    for media, content in operation.get("requestBody", {}).get("content", {}).items():
        yield f"Body: `{media}`{_named(content)}\n"
        yield from _examples(content)
    yield from _answers(operation["responses"])


def _answers(answers: Mapping[str, Any]) -> Iterator[str]:
    problems = [s for s, each in answers.items() if PROBLEM in each.get("content", {})]
    yield "| answer | | | headers |\n|---|---|---|---|"
    for status, answer in answers.items():
        if status not in problems:
            kinds = "".join(f"`{m}`{_named(c)}" for m, c in answer.get("content", {}).items())
            headers = ", ".join(f"`{name}`" for name in answer.get("headers", {}))
            yield f"| {status} | {_prose(answer.get('description', ''))} | {kinds} | {headers} |"
    if problems:
        yield f"| {', '.join(problems)} | A problem document. | [Problem](#problem) | |"
    yield ""
    shown = [
        "".join(_examples(content))
        for status, answer in answers.items()
        if status not in problems
        for content in answer.get("content", {}).values()
    ]
    yield from dict.fromkeys(shown)


def _named(content: Mapping[str, Any]) -> str:
    name = content.get("schema", {}).get("$ref", "").rpartition("/")[2]
    return f", [{name}](#{name.lower()})" if name else ""


def _examples(content: Mapping[str, Any]) -> Iterator[str]:
    import json

    given = [content["example"]] if "example" in content else []
    given += [each.get("value") for each in content.get("examples", {}).values()]
    for example in given:
        text = example if isinstance(example, str) else json.dumps(example, indent=2)
        kind = "text" if isinstance(example, str) else "json"
        yield f"```{kind}\n{text.rstrip()}\n```\n"


def _table_of_fields(schema: Mapping[str, Any]) -> Iterator[str]:
    fields = schema.get("properties", {})
    if not fields:
        return
    needed = set(schema.get("required", ()))
    yield "| field | type | |\n|---|---|---|"
    for name, field in fields.items():
        said = _prose(field.get("description", ""))
        absent = "" if name in needed else " (may be absent)"
        yield f"| `{name}`{absent} | {_type(field)} | {said} |"
    yield ""


def _type(field: Mapping[str, Any]) -> str:
    if "$ref" in field:
        name = field["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in field:
        return " or ".join(_type(each) for each in field["anyOf"])
    if field.get("type") == "array":
        return f"list of {_type(field.get('items', {}))}"
    return str(field.get("type", "anything"))


PARTS: Final[dict[str, Callable[[], Iterator[str]]]] = {
    "python": python_names,
    "cli": commands,
    "http": operations,
}
