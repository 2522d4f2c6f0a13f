"""Tests of the client, the command line and the table of outcomes."""
