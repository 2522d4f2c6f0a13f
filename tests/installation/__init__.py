"""Check any running installation by its URL, as the original project's unit tests did."""
