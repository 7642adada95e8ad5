"""From a list of narrated how-to videos to a trained and evaluated multimodal model."""

import os

# Threads of OpenMP that wait by spinning take the cores from decoders and other workers: on a shared machine that
# makes everything several times slower. It must be set before PyTorch is imported; a user's own setting stays.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
