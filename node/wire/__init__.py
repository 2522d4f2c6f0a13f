"""The wire format: JSON, problem documents, page tokens, and their mapping to the model. Pure."""
