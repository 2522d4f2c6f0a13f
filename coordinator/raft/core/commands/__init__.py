"""The way of a command through a member: queued, judged, appended or forwarded, applied, answered."""
