"""How a write comes to its outcome, and how that outcome is looked up."""
