"""The door for clients of etcd: its JSON gateway, translated to the same intents and reads."""
