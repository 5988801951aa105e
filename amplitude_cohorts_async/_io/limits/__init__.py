"""When a request may be sent, and what is left of the monthly quota."""
