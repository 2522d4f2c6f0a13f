"""Tests of what makes and accompanies the containers."""
