"""Put the server's packages into the wheel beside the client.

They lie below `acordo/_server`, not beside `acordo`: names such as `node` and `cluster` are not
for us to take in the site-packages of everybody who installs a client. `acordo._extras` finds them.
All that is not asked here stands in pyproject.toml.
"""

from setuptools import (  # type: ignore[import-untyped]  # it comes without types
    find_namespace_packages,
    find_packages,
    setup,
)

SERVER = ("kv", "backends", "coordinator", "node", "cluster")
HOME = "acordo._server"

server = [
    each
    for each in find_namespace_packages(include=[*SERVER, *(f"{name}.*" for name in SERVER)])
    if "__pycache__" not in each
]
setup(
    packages=[
        *find_packages(include=["acordo", "acordo.*"]),
        *(f"{HOME}.{each}" for each in server),
    ],
    package_dir={f"{HOME}.{name}": name for name in SERVER},
    package_data={"acordo": ["py.typed"], f"{HOME}.node": ["page/**"]},
    include_package_data=False,
)
