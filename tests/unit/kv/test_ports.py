"""All that a port's module declares is had from `kv.ports`, and nothing else is."""

from __future__ import annotations

import pkgutil
from importlib import import_module

from kv import ports


def test_kv_ports_names_all_that_its_modules_declare() -> None:
    declared = {"Listener"}
    for module in pkgutil.iter_modules(ports.__path__):
        found = import_module(f"kv.ports.{module.name}")
        declared |= {
            name
            for name, value in vars(found).items()
            if isinstance(value, type) and value.__module__ == found.__name__
        }
    assert set(ports.__all__) == declared
