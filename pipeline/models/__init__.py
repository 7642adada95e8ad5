"""Networks: MFT, MCN, AVLnet and their blocks."""
