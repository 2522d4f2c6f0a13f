"""Make processes a cluster: settings, local runner, workers, autoscaler, stack in containers."""
