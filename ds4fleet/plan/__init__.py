"""What one Mac is to become: decided from its settings, what was observed on it and the catalogue; pure."""
