"""The way of a command: queued, judged, appended or forwarded, applied, answered."""
