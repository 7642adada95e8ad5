"""From a list of narrated how-to videos to a trained and evaluated multimodal model."""
