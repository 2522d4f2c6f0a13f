"""Define the settings of nodes, the local runner, workers and the autoscaler."""
