"""The adapters behind the ports: stores, caches and broadcasts, one module or package each
(DESIGN.md).
"""
