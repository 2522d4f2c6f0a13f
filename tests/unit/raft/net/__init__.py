"""How members speak with one another, tried by forged, torn, replayed and flooding peers."""
