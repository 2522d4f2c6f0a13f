"""What makes and accompanies the containers."""
