"""docs/ as a site: what Sphinx needs to build it."""
