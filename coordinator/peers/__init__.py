"""What members report to each other about their machines, and what each derives from it."""
