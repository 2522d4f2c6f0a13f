"""Complete the help pages: a line for the list of commands, whole paragraphs, and examples. It adds
no command and changes none.
"""

from __future__ import annotations

import inspect
import re
from typing import Final

import typer
from rich.markup import escape

from acordo._cli.examples import EXAMPLES

_LINE_BREAK: Final = re.compile(r"(?<!\n)\n(?!\n)[ ]*")
_SENTENCE: Final = re.compile(r"^.*?[^.]\.(?=\s|$)", re.DOTALL)


def complete_pages(app: typer.Typer, group: str = "") -> None:
    """Give every command of `app` its page, and those of its groups theirs."""
    for info in app.registered_commands:
        text = _paragraphs(inspect.cleandoc(getattr(info.callback, "__doc__", None) or ""))
        info.help, info.short_help = text, _first_sentence(text)
        info.epilog = _examples(f"{group} {info.name}".strip())
    for inner in app.registered_groups:
        if inner.typer_instance is not None:
            complete_pages(inner.typer_instance, f"{group} {inner.name}".strip())


def _paragraphs(text: str) -> str:
    """Return the text with one line for each paragraph: the terminal's width breaks it."""
    return _LINE_BREAK.sub(" ", text)


def _first_sentence(text: str) -> str:
    found = _SENTENCE.match(text.partition("\n\n")[0])
    return found.group() if found else text


def _examples(command: str) -> str | None:
    """Return the part of a page with the examples; None: there are none."""
    examples = EXAMPLES.get(command)
    if not examples:
        return None
    lines = [f"  [dim]# {escape(each.does)}[/dim]\n  {escape(each.line)}" for each in examples]
    return "\n".join(["[bold]Examples[/bold]", *lines])
