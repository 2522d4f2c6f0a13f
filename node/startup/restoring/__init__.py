"""Make the directory of a new cluster's member from a backup."""
