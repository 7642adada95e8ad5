"""Pages that stand alone: charts, pictures and tables in one HTML file, for light and dark screens."""
