"""The real things behind the ports: stores, caches and broadcasts, one file each (DESIGN.md)."""
