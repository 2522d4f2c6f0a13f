"""Take backups, keep them in a directory or a bucket, and read them again: for programs.

This module is public, as `acordo` is. It never takes for whole what it has not checked to the end.
"""

from __future__ import annotations

from acordo._bulk.backup import backup_into, verify_stored
from acordo._bulk.backup_file import BackupSummary
from acordo._bulk.buckets import place_of, split
from acordo._bulk.places import Place, Stored

__all__ = [
    "BackupSummary",
    "Place",
    "Stored",
    "backup_into",
    "place_of",
    "split",
    "verify_stored",
]
