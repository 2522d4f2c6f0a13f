"""Give all writes one order and commit them to the store; `consensus.Coordinator` is the way in."""
