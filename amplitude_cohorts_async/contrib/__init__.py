"""Optional integrations; importing one without its extra raises `MissingExtraError`."""
