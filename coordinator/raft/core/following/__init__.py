"""What a follower does: takes entries and snapshots, acknowledges, builds its machine anew."""
