"""Run nodes as a cluster: settings, local runner, workers, autoscaler, stack in containers."""
