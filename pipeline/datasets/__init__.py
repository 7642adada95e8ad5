"""Official files of datasets, and the manifest's table."""
