"""Optional doors; each needs its extra and says so when it is missing."""
