"""Load and dump many keys as NDJSON, with bounded memory, and resume after an interruption."""
