"""The synchronous client: made from the asynchronous one by `make sync`, but for what waits."""
