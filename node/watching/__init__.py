"""Watches: every change in revision order, none twice, none left out (INV-6)."""
