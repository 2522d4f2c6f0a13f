"""Load and dump many keys as NDJSON, with bounded memory, and go on after an interruption."""
