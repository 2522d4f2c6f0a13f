"""The path of a command: it is queued, judged, appended or forwarded, applied, and answered."""
