"""A partner's connection to its EDU warehouse: its secret parsed and tried, its sessions, its rotations."""
