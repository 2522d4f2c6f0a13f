"""The leader's way from pending intents to the store: take over, evaluate, commit, settle."""
