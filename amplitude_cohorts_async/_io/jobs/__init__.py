"""The stores of exports, deliveries, runs and writes."""
