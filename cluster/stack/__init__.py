"""Run the stack in containers (`python -m cluster stack`): check, start, upgrade, replace, stop."""
