"""Every setting of what this project starts: nodes, the local runner, workers, the autoscaler."""
