"""What only the original project's name needs: a command that checks an installation."""
