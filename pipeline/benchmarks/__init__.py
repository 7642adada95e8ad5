"""What the papers report: retrieval, step localisation."""
