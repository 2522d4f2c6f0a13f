"""How watchers learn what changed: in order, none twice, none left out (INV-6)."""
