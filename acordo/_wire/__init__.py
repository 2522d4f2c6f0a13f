"""The HTTP API in bytes: requests, answers and the event stream. Nothing here does I/O."""
