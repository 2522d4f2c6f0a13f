"""Define the commands of `python -m chaos` and of the scripts: arguments, output, exit codes."""
