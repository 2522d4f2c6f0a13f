"""What stands on the wire: JSON, problem documents, page tokens, and the model they mean. Pure."""
