"""What a report shows of hand-made records."""
