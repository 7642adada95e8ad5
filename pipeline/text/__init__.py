"""Words to ids, and what the ids stand for."""
