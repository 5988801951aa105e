"""What may be sent when, and what is left of the month."""
